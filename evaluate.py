"""Score a model on a split, or compare two: `python evaluate.py --checkpoint RUN/best.pt --data FILE --split test`, or
`python evaluate.py --compare RUN_A RUN_B --split test`."""

if __name__ == "__main__":
    import caption.interrupt  # noqa: F401  before the imports that take seconds

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caption import distributed
from caption.config.cli import parse, run
from caption.config.inference import ComparisonConfig, EvaluationConfig
from caption.data import dataset
from caption.device import choose_device
from caption.evaluation.bootstrap import compare
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.generate import gather_captions, generate
from caption.evaluation.grounding import GroundingCounts, read_instances
from caption.evaluation.metrics import METRICS, score_captions
from caption.evaluation.report import write_report
from caption.evaluation.reserve import reserve
from caption.evaluation.results import arrange_captions, collect_results, read_scores, to_json
from caption.evaluation.signature import signature
from caption.evaluation.studies import collect_effects, collect_falls, write_falls, write_knock_outs
from caption.evaluation.subject import Subject, open_subject
from caption.evaluation.table import comparison_table, score_table
from caption.files import run_folder, write_text
from caption.search import Hypothesis
from caption.training import run_dir


def main(arguments: list[str]) -> None:
    if any(argument.split("=")[0] == "--compare" for argument in arguments):
        compare_runs(parse(ComparisonConfig, arguments, "evaluate.py"))
    else:
        with reserve(parse(EvaluationConfig, arguments, "evaluate.py", __doc__)) as args:
            evaluate(args)


def evaluate(args: EvaluationConfig) -> None:
    """Caption a split and score the captions; or write the captions alone, or how they depend on attention."""
    collect: Callable[[Subject], Any] = collect_captions
    write: Callable[[Subject, Any], None] = write_captions if args.captions_only else write_scores
    if args.knock_out:
        collect, write = collect_effects, write_knock_outs
    elif args.faithfulness:
        collect, write = collect_falls, write_falls
    with distributed.join(choose_device(args.device)) as device:
        subject = open_subject(args, device)
        collected = collect(subject)
        if distributed.rank():
            return
    write(subject, collected)


Captions = tuple[list[Hypothesis], list[GroundingCounts]]  # of each image; the latter of its references


def collect_captions(subject: Subject) -> Captions:
    """Return the best caption of each image, and the grounding of its references."""
    args, instances = subject.args, subject.instances
    generated = generate(
        subject.captioner, subject.loader, args.search, subject.device, subject.precision, instances is not None
    )
    return gather_captions(generated, subject.split.image_ids, subject.captioner.encoder.feature_grid, instances)


def write_captions(subject: Subject, collected: Captions) -> None:
    """Write the captions in the results format of COCO's server."""
    path = _write_results(subject, subject.caption_set([hypothesis.words for hypothesis in collected[0]]))
    print(f"{subject.args.checkpoint} on {subject.summary}\nwrote {path}")


def _write_results(subject: Subject, captions: CaptionSet) -> Path:
    path = subject.args.folder / f"captions_{subject.args.split}.json"
    write_text(path, run_dir.coco_results(subject.split.image_ids, captions.captions))
    return path


def write_scores(subject: Subject, collected: Captions) -> None:
    """Score the captions; print and write the scores and the captions, with a report if asked for."""
    args, split = subject.args, subject.split
    hypotheses, grounding = collected
    gates = [h.gates[: len(h.words)].float().numpy() for h in hypotheses if h.gates is not None]
    captions = subject.caption_set(
        [hypothesis.words for hypothesis in hypotheses],
        attention=[h.weights[: len(h.words)].numpy() for h in hypotheses],
        gates=gates if args.gates else (),
        grid=subject.captioner.encoder.feature_grid,
        reference_grounding=grounding,
        training_captions=subject.training_captions,
    )
    evaluation = score_captions(captions)
    results = collect_results(evaluation, split, captions, hypotheses, args.seed)
    settings = dataclasses.asdict(args)
    settings |= {"precision": subject.precision, "device": str(subject.device), "image_count": len(split)}
    programs = [metric.name for metric in METRICS if metric.needs == "java" and metric.name in results.scores]
    described = signature(args.data, args.split, subject.references, subject.search, args.instances, programs)
    write_text(args.results_path, to_json({**settings, "signature": described}, results))
    captions_path = _write_results(subject, captions)
    print(f"{args.checkpoint} on {subject.summary}\n{score_table(results.scores, results.intervals)}")
    uniform = math.log(math.prod(subject.captioner.encoder.grid))
    print(f"attention entropy is in nats per word; uniform attention has {uniform:.2f}")
    print("attended regions: different maxima of attention in a caption", *evaluation.missing, sep="\n")
    print(f"signature: {described}", f"wrote {args.results_path}", f"wrote {captions_path}", sep="\n")
    if args.report:
        records = run_dir.read_records(run_folder(args.checkpoint))
        write_report(Path(args.report), args.checkpoint, subject.summary, split, captions, hypotheses, results, records)
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
