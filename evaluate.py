"""Score a model on a split, or compare two: `python evaluate.py --checkpoint RUN/best.pt --data FILE --split test`, or
`python evaluate.py --compare RUN_A RUN_B --split test`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import dataclasses
import math
from pathlib import Path

import torch

from caption import distributed
from caption.captioner import Captioner, check_features, check_fits
from caption.config.cli import parse, run
from caption.config.inference import ComparisonConfig, EvaluationConfig
from caption.data import dataset
from caption.data.sampler import sequential_batches
from caption.device import choose_device, choose_precision, set_tf32, tune
from caption.errors import UserError
from caption.evaluation.bootstrap import compare
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.diversity import read_training_captions
from caption.evaluation.generate import gather_captions, generate
from caption.evaluation.grounding import read_instances
from caption.evaluation.knock_out import knock_out
from caption.evaluation.metrics import score_captions
from caption.evaluation.report import write_report
from caption.evaluation.reserve import reserve
from caption.evaluation.results import arrange_captions, collect_results, describe_search, read_scores, to_json
from caption.evaluation.signature import signature
from caption.evaluation.studies import write_knock_outs
from caption.evaluation.table import comparison_table, score_table
from caption.files import run_folder, write_text
from caption.training import run_dir


def main(arguments: list[str]) -> None:
    if any(argument.split("=")[0] == "--compare" for argument in arguments):
        compare_runs(parse(ComparisonConfig, arguments, "evaluate.py"))
    else:
        with reserve(parse(EvaluationConfig, arguments, "evaluate.py", __doc__)) as args:
            evaluate(args)


def evaluate(args: EvaluationConfig) -> None:
    """Caption a split, score the captions, and write both, with a report if asked for; or write the captions alone, or
    what knock-outs cost."""
    with distributed.join(choose_device(args.device)) as device:
        tune(device)
        set_tf32(device, allowed=False)
        captioner = Captioner.load(args.checkpoint).to(device)
        check_fits(args.data, captioner.vocabulary, captioner.image)
        check_features(args.data, captioner.encoder)
        captioner.check_search(args.search)
        if args.gates and not captioner.decoder.gated:
            name = captioner.configs["decoder"].name
            raise UserError(f"--gates: decoder {name} of {args.checkpoint} has no gate; leave it out")
        split = dataset.CaptionDataset(args.data, args.split)
        if not args.captions_only:
            split.check_captioned("caption them without scores, by --captions-only")
        instances = read_instances(args.instances, split)
        if args.report and split.stores_features:
            raise UserError(f"--report shows images, but {args.data} holds features; make one with --store pixels")
        references, training_captions = split.references(), read_training_captions(args.data)  # held from now on
        batches = sequential_batches(len(split), args.batch_size)
        if args.knock_out and len(batches) > 1 and len(batches[-1]) == 1:  # `shuffled` needs two images
            batches[-2:] = [batches[-2] + batches[-1]]
        loader = dataset.build_loader(split, distributed.shard(batches), args.workers, device.type == "cuda")
        precision = distributed.broadcast(choose_precision(args.precision, device))
        torch.manual_seed(args.seed)
        distributed.seed_rank(args.seed, 0)
        if args.knock_out:
            effects = knock_out(captioner, loader, args.knock_outs, args.search, device, precision)
            gathered = distributed.gather(dict(effects))
            if not distributed.rank():
                write_knock_outs(args, captioner, split, instances, precision, gathered)
            return
        generated = generate(captioner, loader, args.search, device, precision, references=instances is not None)
        grid = captioner.encoder.feature_grid
        hypotheses, grounding = gather_captions(generated, split.image_ids, grid, instances)
        if distributed.rank():
            return
    words = [captioner.vocabulary.decode(hypothesis.words) for hypothesis in hypotheses]
    texts = [captioner.vocabulary.separator.join(caption) for caption in words]
    search = describe_search(dataclasses.asdict(args.search), precision)
    summary = f"{args.data}, {args.split}: {len(split)} images, {search}"
    captions_path = args.folder / f"captions_{args.split}.json"
    captions_text = run_dir.coco_results(split.image_ids, texts)
    if args.captions_only:
        write_text(captions_path, captions_text)
        print(f"{args.checkpoint} on {summary}\nwrote {captions_path}")
        return
    pairs = list(zip(hypotheses, words, strict=True))
    gates = [h.gates[: len(caption)].float().numpy() for h, caption in pairs if h.gates is not None]
    captions = CaptionSet(
        captions=texts,
        references=references,
        word_kind=captioner.vocabulary.word_kind,
        written=words,
        image_ids=split.image_ids,
        attention=[h.weights[: len(caption)].numpy() for h, caption in pairs],
        gates=gates if args.gates else (),
        grid=grid,
        instances=instances,
        reference_grounding=grounding,
        training_captions=training_captions,
        java=args.java,
    )
    evaluation = score_captions(captions)
    results = collect_results(evaluation, split, captions, hypotheses, args.seed)

    settings = {**dataclasses.asdict(args), "precision": precision, "device": str(device), "image_count": len(split)}
    settings["signature"] = signature(args.data, args.split, references, settings["search"], precision)
    files = {
        args.folder / f"scores_{args.split}.json": to_json(settings, results),
        captions_path: captions_text,
    }
    for path, text in files.items():
        write_text(path, text)
    print(f"{args.checkpoint} on {summary}\n{score_table(results.scores, results.intervals)}")
    uniform = math.log(math.prod(captioner.encoder.grid))
    print(f"attention entropy is in nats per word; uniform attention has {uniform:.2f}", *evaluation.missing, sep="\n")
    print(f"signature: {settings['signature']}", *(f"wrote {path}" for path in files), sep="\n")
    if args.report:
        records = run_dir.read_records(run_folder(args.checkpoint))
        write_report(Path(args.report), args.checkpoint, summary, split, captions, hypotheses, results, records)
        print(f"wrote {Path(args.report) / 'index.html'}")


def compare_runs(args: ComparisonConfig) -> None:
    """Score the captions of both runs again and print which differences are real."""
    runs = [read_scores(folder, args.split) for folder in args.compare]
    split = dataset.CaptionDataset(args.data or runs[0].data, args.split)
    split.check_captioned("give a data file with captions, by --data")
    instances, references = read_instances(args.instances, split), split.references()
    texts = [arrange_captions(scored, split) for scored in runs]
    a, b = (
        score_captions(
            CaptionSet(
                captions,
                references,
                split.image_ids,
                word_kind=split.word_kind,
                instances=instances,
                java=args.java,
            )
        )
        for captions in texts
    )
    print(f"{split.path}, {args.split}: {len(split)} images")
    for letter, scored in zip("AB", runs, strict=True):
        print(f"{letter}: {scored.folder}, {scored.search}")
    common = {score.name for score in a.scores} & {score.name for score in b.scores}
    first, second = ([score for score in one.scores if score.name in common] for one in (a, b))
    print(comparison_table(compare(first, second, args.seed)), *b.missing, sep="\n")


if __name__ == "__main__":
    run(main)
