"""Captions of a split -> scores with their intervals, for people and for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caption.data.vocabulary import tokenise
from caption.evaluation.bootstrap import Difference, Score, quotient
from caption.evaluation.coco import Captions, coco_scores
from caption.evaluation.grounding import Instances
from caption.evaluation.meteor_spice import meteor_spice
from caption.evaluation.scene_truth import judge, read_scene, truth_scores
from caption.evaluation.string_accuracy import is_string_set, string_accuracy
from caption.search import Hypothesis

Interval = tuple[float, float]


def score_captions(captions: Captions, java: bool) -> tuple[list[Score], list[str]]:
    """The official scores, and a line for each that cannot be had here."""
    more, missing = meteor_spice(captions.references, captions.hypotheses) if java else ([], [])
    return coco_scores(captions) + more, missing


def entropy(weights: Sequence[NDArray[np.floating]]) -> Score:
    """How widely attention is spread, in nats a word: weights [T, L] of each caption."""
    logarithms = [np.log(each, where=each > 0, out=np.zeros_like(each)) for each in weights]
    sums = [[-float((each * log).sum()), len(each)] for each, log in zip(weights, logarithms, strict=True)]
    return Score("attention entropy", np.array(sums), quotient)


def truth(
    words: Sequence[Sequence[str]], objects: Instances, image_ids: Sequence[int]
) -> tuple[list[Score], list[list[str]]]:
    """Captions of drawn shapes held against their scenes: shares of all captions, and apart of pictures with and
    without a combination that was never trained on; and what there is to say of each picture. Nothing for others.

    A scene is known where the instance file tells of colours and centres, as `preprocess shapes` writes it.
    """
    coco = objects.coco
    if not all({"colour", "centre"} <= annotation.keys() for annotation in coco.anns.values()):
        return [], [[] for _ in words]
    categories = {number: category["name"] for number, category in coco.cats.items()}
    scenes = [read_scene(coco.imgToAnns[image_id], categories) for image_id in image_ids]
    verdicts = [judge(caption, scene) for caption, scene in zip(words, scenes, strict=True)]
    unseen = [bool(coco.imgs[image_id].get("unseen")) for image_id in image_ids]
    scores = truth_scores(verdicts)
    if len(set(unseen)) == 2:
        for suffix, wanted in ((", seen", False), (", unseen", True)):
            apart = truth_scores(verdicts, [each == wanted for each in unseen])
            scores += [score._replace(name=score.name + suffix) for score in apart]
    return scores, [v.notes + ["unseen combination"] * new for v, new in zip(verdicts, unseen, strict=True)]


def reading(words: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[Score]:
    """Captions that are strings, a word a character (`preprocess strings`, or a set of one's own), held against the
    string that is in the picture. Nothing for others."""
    strings = [[tokenise(text) for text in texts] for texts in references]
    return string_accuracy(words, [texts[0] for texts in strings]) if is_string_set(strings) else []


class Block(NamedTuple):
    """Scores that stand together: a row each, and a column for each of what they were measured on."""

    columns: list[str]
    rows: dict[str, list[str]]  # first cell -> names of scores


def blocks(values: Mapping[str, float]) -> list[Block]:
    """Of "truthful" and "truthful, unseen", the second stands in the column "unseen" of the first."""
    rows: dict[str, dict[str, str]] = {}
    for name in values:
        row, _, column = name.partition(", ")
        rows.setdefault(row, {})[column or "score"] = name
    found: list[Block] = []
    for row, columns in rows.items():
        if not found or found[-1].columns != list(columns):
            found.append(Block(list(columns), {}))
        found[-1].rows[row] = list(columns.values())
    return found


def digits(name: str, value: float) -> int:
    """How many are told behind the point."""
    return 0 if isinstance(value, int) or name.startswith("words") else 3 if name == "length ratio" else 2


def cell(name: str, values: Mapping[str, float], ranges: Mapping[str, Interval]) -> tuple[str, str]:
    """A score and its interval, if it has one."""
    value = values[name]
    if not math.isfinite(value):
        return "–", ""
    d = digits(name, value)
    span = "{:.{d}f} to {:.{d}f}".format(*ranges[name], d=d) if name in ranges else ""
    return f"{value:.{d}f}", span


def table(values: Mapping[str, float], ranges: Mapping[str, Interval]) -> str:
    """For a terminal: one line a score, with the interval where there is one."""
    found = blocks(values)
    wide = max(len(row) for block in found for row in block.rows) + 2
    lines = []
    for block in found:
        lines += ["", " " * wide + "   ".join(f"{column:>10}  {'95 % interval':16}" for column in block.columns)]
        for row, names in block.rows.items():
            cells = [cell(name, values, ranges) for name in names]
            lines.append(f"{row:{wide}}" + "   ".join(f"{value:>10}  {span:16}" for value, span in cells))
    return "\n".join(line.rstrip() for line in lines[1:])


def comparison(differences: Sequence[Difference]) -> str:
    """One line a score: both models, what the second has more, and whether chance would do the same."""
    wide = max(len(one.name) for one in differences) + 2
    lines = [f"{'':{wide}}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':20}{'p':>7}"]
    for one in differences:
        if math.isnan(one.p):
            lines.append(f"{one.name:{wide}}       –")
            continue
        d = digits(one.name, one.first)
        span, verdict = f"{one.low:+.{d}f} to {one.high:+.{d}f}", "  real" if one.p < 0.05 else ""
        both = f"{one.first:8.{d}f}{one.second:8.{d}f}{one.value:+9.{d}f}"
        lines.append(f"{one.name:{wide}}{both}   {span:20}{one.p:7.4f}{verdict}")
    return "\n".join(lines)


def per_picture(scores: Sequence[Score], hypotheses: Sequence[Hypothesis]) -> list[dict[str, Any]]:
    """Every score of every picture alone, None where it has none; and what the model thought of its caption."""
    each = {score.name: score.per_image.tolist() for score in scores}
    return [
        {
            "log_probability": hypothesis.log_probability,
            "finished": hypothesis.finished,
            "scores": {name: values[i] if math.isfinite(values[i]) else None for name, values in each.items()},
        }
        for i, hypothesis in enumerate(hypotheses)
    ]


def as_json(content: Mapping[str, Any]) -> str:
    """Indented, but a picture a line."""
    content = dict(content)
    for part in ("scores", "intervals"):  # JSON has no word for what is not a number
        content[part] = {name: value if np.isfinite(value).all() else None for name, value in content[part].items()}
    pictures = ",\n".join("    " + json.dumps(picture, ensure_ascii=False) for picture in content["images"])
    head = json.dumps({**content, "images": []}, indent=2, ensure_ascii=False)
    return head.replace('"images": []', '"images": [\n' + pictures + "\n  ]") + "\n"
