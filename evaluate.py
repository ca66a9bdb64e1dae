"""Score a model on a split: `python evaluate.py --checkpoint RUN/best.pt --data FILE --split test --beam-size 3`."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from caption import data, engine, runlog
from caption.captioner import Captioner
from caption.command import parse, run
from caption.config import SearchConfig
from caption.errors import UserError
from caption.images import fit_image
from caption.metrics.bleu import bleu
from caption.metrics.grounding import Pointing, pointing, read_instances
from caption.visualise import upsample
from caption.vocabulary import tokenise


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score a model on a split of a data file; scores and captions are written beside the checkpoint."""

    checkpoint: str
    """A run's best.pt."""
    data: str
    """The HDF5 file with the split."""
    split: Literal["train", "val", "test"] = "test"
    grounding: str = ""
    """COCO instance annotations of the split: also tell whether attention falls on what a word names."""
    batch_size: int = 32
    """Pictures captioned at a time."""
    workers: int = 0
    """Processes that read data; 0: the main one."""
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    seed: int = 1
    """Of `--method sample` and `--attend draw`."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise UserError(f"batch_size is {self.batch_size}, workers {self.workers}, but must be at least 1 and 0")


def main(arguments: list[str]) -> None:
    args = parse(Arguments, arguments, "evaluate.py")
    device = engine.choose_device(args.device)
    captioner = Captioner.load(args.checkpoint).to(device)
    data.check_fits(args.data, captioner.vocabulary, captioner.image)
    data.check_features(args.data, captioner.encoder)
    captioner.check_search(args.search)
    split = data.CaptionData(args.data, args.split)
    instances = read_instances(args.grounding) if args.grounding else None

    loader = data.make_loader(split, data.in_order(len(split), args.batch_size), args.workers, device.type == "cuda")
    precision = engine.choose_precision(args.precision, device)
    found: dict[int, list[str]] = {}
    pointed, entropy = Pointing(0, 0), 0.0  # nats, of all words
    torch.manual_seed(args.seed)
    for index, hypotheses in engine.generate(captioner, loader, args.search, device, precision):
        words = found[index] = captioner.vocabulary.decode(hypotheses[0].words)
        weights = hypotheses[0].weights[: len(words)]
        entropy += float(torch.special.entr(weights).sum())
        if instances:
            size = captioner.image.size
            maps = upsample(weights, captioner.encoder.grid, size)
            fit = partial(fit_image, size=size, fit=captioner.image.fit)
            one = pointing(words, maps, instances, split.image_ids[index], fit)
            pointed = Pointing(pointed.hits + one.hits, pointed.words + one.words)

    captions = [found[index] for index in range(len(split))]  # in the file's order again
    references = [[tokenise(text) for text in texts] for texts in split.references()]
    scores = bleu(references, captions)
    scores["attention entropy"] = entropy / max(1, sum(map(len, captions)))
    if instances:
        scores["pointing"] = pointed.percent
    print(f"{args.checkpoint} on {args.data}, {args.split}: {len(split)} pictures, {told(args.search)}")
    print(table(scores))
    even = math.log(math.prod(captioner.encoder.grid))
    print(f"attention's entropy: {scores['attention entropy']:.2f} nats a word (all places alike: {even:.2f})")
    if instances:
        print(f"attention's maximum inside the named object: {pointed.percent:.1f} % of {pointed.words} words")
    folder = Path(args.checkpoint).parent
    settings = {
        "checkpoint": args.checkpoint,
        "data": args.data,
        "pictures": len(split),
        "search": dataclasses.asdict(args.search),
    }
    written = {
        f"scores_{args.split}.json": json.dumps({**settings, "scores": scores}, indent=2) + "\n",
        f"captions_{args.split}.json": runlog.coco_results(split.image_ids, [" ".join(words) for words in captions]),
    }
    for name, text in written.items():
        runlog.write_text(folder / name, text)
        print(f"wrote {folder / name}")


def told(search: SearchConfig) -> str:
    kind = f"{search.beam_size} samples" if search.method == "sample" else f"beam {search.beam_size}"
    penalty = f", length penalty {search.length_penalty}" if search.length_penalty else ""
    looks = {"expectation": "", "most_probable": ", the most probable locations", "draw": ", drawn locations"}
    return kind + penalty + looks[search.attend]


def table(scores: dict[str, float]) -> str:
    """BLEU-1 to 4 with and without brevity penalty, for a terminal."""
    lines = [" " * 24 + "".join(f"{f'BLEU-{n}':>8}" for n in (1, 2, 3, 4))]
    for name, suffix in (("with brevity penalty", ""), ("without (as the paper)", " without BP")):
        lines.append(f"{name:24}" + "".join(f"{scores[f'BLEU-{n}{suffix}']:8.2f}" for n in (1, 2, 3, 4)))
    return "\n".join([*lines, f"{'length ratio':24}{scores['length ratio']:8.3f}"])


if __name__ == "__main__":
    run(main)
