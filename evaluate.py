"""Score a model on a split, or compare two:

python evaluate.py --checkpoint RUN/best.pt --data FILE --split test --beam-size 3
python evaluate.py --compare RUN_A RUN_B --split test
"""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from caption import distributed
from caption.captioner import Captioner, check_features, check_fits
from caption.config import SearchConfig
from caption.config.cli import parse, run
from caption.data import dataset, hdf5
from caption.data.images import fit_image
from caption.data.vocabulary import tokenise
from caption.device import choose_device, choose_precision, tune_malloc
from caption.errors import UserError
from caption.evaluation import table
from caption.evaluation.bootstrap import Score, compare, intervals
from caption.evaluation.coco import captions_from_text
from caption.evaluation.diversity import diversity
from caption.evaluation.generate import generate
from caption.evaluation.grounding import GroundingCounts, Instances, grounding_scores
from caption.evaluation.report import Report, report_entry
from caption.progress import ProgressBar
from caption.search import Hypothesis
from caption.training import run_dir

Split = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score a model on a split of a data file; scores and captions are written beside the checkpoint."""

    checkpoint: str
    """A run's best.pt."""
    data: str
    """The HDF5 file with the split."""
    split: Split = "test"
    grounding: str = ""
    """COCO instance annotations of the split: also tell whether attention falls on what a word names, and, of drawn
    shapes, whether captions are true."""
    report: str = ""
    """A folder for a page to be opened in a browser: scores, curves, every caption with its attention."""
    java: bool = True
    """Also METEOR and SPICE, where Java and pycocoevalcap are there."""
    batch_size: int = 32
    """Pictures captioned at a time."""
    workers: int = 0
    """Processes that read data; 0: the main one."""
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    seed: int = 1
    """Of `--method sample`, `--attend draw` and the intervals."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise UserError(f"batch_size is {self.batch_size}, workers {self.workers}, but must be at least 1 and 0")


@dataclasses.dataclass(frozen=True)
class Compare:
    """Is one model better than another? Told from the captions of two runs that were scored before."""

    compare: tuple[str, str]
    """Their folders, A and B."""
    split: Split = "test"
    data: str = ""
    """The HDF5 file with the split; empty: the one that A was scored on."""
    grounding: str = ""
    """The instance file of drawn shapes: also compare how often captions are true."""
    java: bool = True
    """Also METEOR and SPICE, where Java and pycocoevalcap are there."""
    seed: int = 1
    """Of the resampling."""


def main(arguments: list[str]) -> None:
    if any(argument.split("=")[0] == "--compare" for argument in arguments):
        compare_runs(parse(Compare, arguments, "evaluate.py"))
        return
    args = parse(Arguments, arguments, "evaluate.py", __doc__)
    device = distributed.init(choose_device(args.device))
    tune_malloc(device)
    captioner = Captioner.load(args.checkpoint).to(device)
    check_fits(args.data, captioner.vocabulary, captioner.image)
    check_features(args.data, captioner.encoder)
    captioner.check_search(args.search)
    split = dataset.CaptionData(args.data, args.split)
    objects = read_objects(args.grounding, split)
    if args.report and split.features:
        raise UserError(
            f"--report shows pictures, but {args.data} holds features; give a file made with --store pixels"
        )

    # The captions, and where the model looked, in the file's order.
    batches = distributed.shard(dataset.in_order(len(split), args.batch_size))
    loader = dataset.make_loader(split, batches, args.workers, device.type == "cuda")
    precision = distributed.broadcast(choose_precision(args.precision, device))
    torch.manual_seed(args.seed)
    distributed.seed_rank(args.seed, 0)
    best: dict[int, Hypothesis] = {}
    read: dict[int, GroundingCounts] = {}  # of references
    for index, hypotheses, read_captions in generate(
        captioner, loader, args.search, device, precision, references=objects is not None
    ):
        best[index] = hypotheses[0]
        if objects:
            for reference, weight in read_captions:
                one = objects.look(reference, weight.numpy(), split.image_ids[index], captioner.encoder.cells)
                read[index] = read.get(index, GroundingCounts()).plus(one)
    best, read = distributed.gather(best), distributed.gather(read)
    first = distributed.rank() == 0
    distributed.destroy()
    if not first:
        return
    chosen = [best[index] for index in range(len(split))]
    words = [captioner.vocabulary.decode(hypothesis.words) for hypothesis in chosen]
    weights = [h.weights[: len(caption)].numpy() for h, caption in zip(chosen, words, strict=True)]
    texts = [" ".join(caption) for caption in words]

    # What they are worth.
    references = split.references()
    scores, missing = table.score_captions(captions_from_text(texts, references), args.java)
    scores += table.reading(words, references)
    scores.append(table.entropy(weights))
    notes: list[list[str]] = [[] for _ in texts]
    if objects:
        looks = zip(words, weights, split.image_ids, strict=True)
        scores += grounding_scores([objects.look(*look, captioner.encoder.cells) for look in looks])
        scores += grounding_scores([read.get(index, GroundingCounts()) for index in range(len(split))], ", references")
        truths, notes = table.truth(words, objects, split.image_ids)
        scores += truths
    values = {score.name: score.value for score in scores}
    values |= diversity(words, training_captions(args.data))
    ranges = dict(zip((score.name for score in scores), intervals(scores, args.seed), strict=True))

    how = describe_search(dataclasses.asdict(args.search), precision)
    print(f"{args.checkpoint} on {args.data}, {args.split}: {len(split)} pictures, {how}")
    print(table.table(values, ranges))
    even = math.log(math.prod(captioner.encoder.grid))
    print(f"entropy is in nats a word, of even attention {even:.2f}")
    print("".join(f"{line}\n" for line in missing), end="")
    pictures = zip(split.image_ids, split.file_names, texts, table.per_picture(scores, chosen), strict=True)
    images = [{"image_id": i, "file_name": name, "caption": text, **more} for i, name, text, more in pictures]
    settings = {**dataclasses.asdict(args), "precision": precision, "device": str(device), "pictures": len(split)}
    content = {**settings, "scores": values, "intervals": ranges, "images": images}
    folder = Path(args.checkpoint).parent
    for name, text in (
        (f"scores_{args.split}.json", table.as_json(content)),
        (f"captions_{args.split}.json", run_dir.coco_results(split.image_ids, texts)),
    ):
        run_dir.write_text(folder / name, text)
        print(f"wrote {folder / name}")
    if args.report:
        report = Report(Path(args.report), captioner.encoder.cells)
        for numbers in ProgressBar(dataset.in_order(len(split), args.batch_size), "pictures", "batches"):
            report.write_pictures(numbers, split.images(numbers).numpy())
        report.write_looks(words, chosen)
        each = zip(split.file_names, words, chosen, references, images, notes, strict=True)
        items = [report_entry(name, w, h, texts, image["scores"], note) for name, w, h, texts, image, note in each]
        title = f"{args.data}, {args.split}: {len(split)} pictures, {how}"
        report.write_index(args.checkpoint, title, values, ranges, run_dir.read_records(folder), items)
        print(f"wrote {report.folder / 'index.html'}")


def compare_runs(args: Compare) -> None:
    """Score the captions of both runs once more and tell which differences are real."""
    runs = [read_scores(Path(folder) / f"scores_{args.split}.json") for folder in args.compare]
    split = dataset.CaptionData(args.data or runs[0]["data"], args.split)
    objects = read_objects(args.grounding, split)
    both: list[dict[str, Score]] = []
    missing: list[str] = []
    references = split.references()
    texts = [captions_of(one, folder, split) for one, folder in zip(runs, args.compare, strict=True)]
    for captions in texts:
        scores, missing = table.score_captions(captions_from_text(captions, references), args.java)
        words = [caption.split() for caption in captions]
        scores += table.reading(words, references)
        if objects:
            scores += table.truth(words, objects, split.image_ids)[0]
        both.append({score.name: score for score in scores})
    print(f"{split.path}, {args.split}: {len(split)} pictures")
    for letter, folder, one in zip("AB", args.compare, runs, strict=True):
        print(f"{letter}: {folder}, {describe_search(one['search'], one['precision'])}")
    common = [name for name in both[0] if name in both[1]]
    a, b = ([scores[name] for name in common] for scores in both)
    print(table.comparison(compare(a, b, args.seed)))
    print("".join(f"{line}\n" for line in missing), end="")


def read_scores(path: Path) -> Any:
    """What an earlier evaluation wrote. Raises UserError when there was none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read; score that run first, by evaluate.py --checkpoint") from None


def captions_of(scored: Any, folder: str, split: dataset.CaptionData) -> list[str]:
    """The captions that were scored, in the order of the split. Raises UserError when they are of other pictures."""
    texts = {image["image_id"]: image["caption"] for image in scored["images"]}
    if set(texts) != set(split.image_ids):
        raise UserError(
            f"{folder}: was scored on {len(texts)} pictures of {scored['data']}, not on the {len(split)} of "
            f"{split.path}, {split.split}; score both runs on the same split"
        )
    return [texts[image_id] for image_id in split.image_ids]


def read_objects(path: str, split: dataset.CaptionData) -> Instances | None:
    """The instance file, if one is given; its masks fitted as the pictures were. Raises UserError when it is not of
    these pictures."""
    if not path:
        return None
    image = hdf5.read_image_config(split.path)
    objects = Instances(path, partial(fit_image, size=image.size, fit=image.fit))
    objects.check_covers(split.image_ids, split.file_names, f"{split.path}, {split.split}")
    seed = objects.coco.dataset.get("info", {}).get("seed")
    source = hdf5.read_manifest(split.path)["source"]
    if seed is not None and seed != source.get("seed"):
        raise UserError(f"{path}: of pictures drawn with seed {seed}, but those of {split.path} are of another")
    return objects


def training_captions(path: str) -> list[list[str]] | None:
    """Of the training split, if the file has one."""
    if "train" not in hdf5.read_manifest(path)["splits"]:
        return None
    references = dataset.CaptionData(path, "train").references()
    return [tokenise(text) for texts in references for text in texts] or None


def describe_search(search: dict[str, Any], precision: str) -> str:
    """How captions were made."""
    beams = search["beam_size"]
    kind = f"the most probable of {beams} samples" if search["method"] == "sample" else f"beam {beams}"
    penalty = f", length penalty {search['length_penalty']}" if search["length_penalty"] else ""
    looks = {"expectation": "", "most_probable": ", the most probable locations", "draw": ", drawn locations"}
    return kind + penalty + looks[search["attend"]] + ("" if precision == "fp32" else f", {precision}")


if __name__ == "__main__":
    run(main)
