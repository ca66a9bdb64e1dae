"""Collect and write the two studies of how captions depend on attention, in place of scores."""

import dataclasses
import json
from typing import Any

from caption import distributed
from caption.evaluation.bootstrap import Score, compare, intervals
from caption.evaluation.faithfulness import ALL_WORDS, Falls, erased_counts, fall_scores, measure_falls
from caption.evaluation.knock_out import Effect, compare_effects, knock_out
from caption.evaluation.metrics import score_captions
from caption.evaluation.results import finite
from caption.evaluation.subject import Subject
from caption.evaluation.table import comparison_table, falls_table
from caption.files import write_text
from caption.visualise.figures import Curve, draw_falls

FEW = 16  # regions of which one is erased for the summary: 4 of 64


def collect_effects(subject: Subject) -> list[dict[str, Effect]]:
    """Return the effect of each knock-out on every image of the split, from all processes."""
    args = subject.args
    effects = knock_out(
        subject.captioner, subject.loader, args.knock_outs, args.search, subject.device, subject.precision
    )
    return [effect for _, effect in sorted(distributed.gather(dict(effects)).items())]


def write_knock_outs(subject: Subject, effects: list[dict[str, Effect]]) -> None:
    """Print what every score loses by each knock-out, and the verdict; write both, and the captions, as JSON."""
    missing: list[str] = []

    def score(captions: list[list[int]]) -> list[Score]:
        evaluation = score_captions(subject.caption_set(captions))
        missing[:] = evaluation.missing
        return evaluation.scores

    study = compare_effects(effects, score, subject.args.seed, subject.captioner.encoder.feature_grid)
    print(f"{subject.args.checkpoint} on {subject.summary}")
    for name, differences in study.differences.items():
        shown = [difference for difference in differences if "," not in difference.name]  # no parts of the split
        print(f"\nA: as trained, B: {name} attention\n{comparison_table(shown)}")
    print("", *missing, f"verdict: {study.verdict.word}; {study.verdict.reason}", sep="\n")
    captions = {name: subject.caption_set([effect[name].caption for effect in effects]).captions for name in effects[0]}
    content = {
        "verdict": study.verdict._asdict(),
        "maximum at the border": study.border,
        "differences": {
            name: [difference._asdict() for difference in differences]
            for name, differences in study.differences.items()
        },
        "captions": {name or "as trained": texts for name, texts in captions.items()},
    }
    _write(subject, content)


def collect_falls(subject: Subject) -> list[Falls]:
    """Return how far the words of every image of the split fall without regions, from all processes."""
    falls = measure_falls(
        subject.captioner,
        subject.loader,
        subject.args.search,
        subject.device,
        subject.precision,
        subject.instances,
        subject.split.image_ids,
    )
    return [each for _, each in sorted(distributed.gather(dict(falls)).items())]


def write_falls(subject: Subject, falls: list[Falls]) -> None:
    """Print how far words fall with the regions erased, and the verdict; draw it, and write it as JSON."""
    regions = subject.captioner.encoder.feature_grid.rows * subject.captioner.encoder.feature_grid.columns
    scores = fall_scores(falls, regions, subject.caption_set([]).word_kinds)
    ranges = dict(zip(scores, intervals(list(scores.values()), subject.args.seed), strict=True))
    panels: dict[str, dict[str, Curve]] = {}
    for kind, order in dict.fromkeys((kind, order) for kind, order, _ in scores):
        keys = [(kind, order, count) for count in erased_counts(regions)]
        low, high = zip(*(ranges[key] for key in keys), strict=True)
        curve = Curve([count for *_, count in keys], [scores[key].value for key in keys], low, high)
        panels.setdefault(kind, {})[order] = curve
    few = max(count for count in erased_counts(regions) if count <= max(1, regions // FEW))
    random, attention, gradient = ([scores[ALL_WORDS, order, few]] for order in ("random", "attention", "gradient"))
    (against_chance,) = compare(random, attention, subject.args.seed)
    (against_gradient,) = compare(gradient, attention, subject.args.seed)
    print(f"{subject.args.checkpoint} on {subject.summary}")
    print("fall of the log-probability of a word, in nats, by the regions erased at it\n")
    print(falls_table(panels, regions))
    print(
        f"\nwithout the {few} most attended of {regions} regions, a word falls by {against_chance.second:.3f} nats; "
        f"without {few} at random by {against_chance.first:.3f} (p = {against_chance.p:.4f}), without the {few} of the "
        f"gradient by {against_gradient.first:.3f} (p = {against_gradient.p:.4f})"
    )
    content = {
        "erased": few,
        "attention against random": against_chance._asdict(),
        "attention against gradient": against_gradient._asdict(),
        "falls": {kind: {order: curve._asdict() for order, curve in curves.items()} for kind, curves in panels.items()},
    }
    path = subject.args.results_path.with_suffix(".png")
    draw_falls(panels, path)
    print(f"wrote {path}")
    _write(subject, content)


def _write(subject: Subject, content: dict[str, Any]) -> None:
    """Write the results of a study with what they are of."""
    settings = {**dataclasses.asdict(subject.args), "precision": subject.precision}
    path = subject.args.results_path
    write_text(path, json.dumps(finite({**settings, **content}), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    print(f"wrote {path}")
