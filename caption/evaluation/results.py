"""scores_SPLIT.json, which an evaluation writes and a comparison reads."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset
from caption.errors import UserError, reading
from caption.evaluation.bootstrap import Interval, intervals
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import Evaluation
from caption.search import Hypothesis

# A search in words: what differs from the default.
SEARCH_WORDS = {
    "max_length": "at most {} words",
    "min_length": "at least {} words",
    "length_penalty": "length penalty {}",
    "no_repeat_ngram": "no {}-gram twice",
    "suppress_unknown": "<unknown> allowed",
    "temperature": "temperature {}",
    "top_p": "top p {}",
}
LOCATIONS = {"expectation": [], "argmax": ["the most probable locations"], "sample": ["sampled locations"]}


class Results(NamedTuple):
    """The scores of a split."""

    scores: dict[str, float]
    intervals: dict[str, Interval]
    images: list[dict[str, Any]]  # each image's caption, log-probability and own scores, None where it has none


def collect_results(
    evaluation: Evaluation, split: CaptionDataset, captions: CaptionSet, hypotheses: Sequence[Hypothesis], seed: int
) -> Results:
    """Compute the intervals of all scores, and collect what is known of each image."""
    per_image = {score.name: score.per_image.tolist() for score in evaluation.scores}
    images = [
        {
            "image_id": split.image_ids[i],
            "file_name": split.file_names[i],
            "caption": captions.captions[i],
            "log_probability": hypothesis.log_probability,
            "finished": hypothesis.finished,
            "word_log_probabilities": _round(hypothesis.word_log_probabilities),
            "scores": {name: values[i] if math.isfinite(values[i]) else None for name, values in per_image.items()},
        }
        for i, hypothesis in enumerate(hypotheses)
    ]
    return Results(evaluation.values, dict(zip(per_image, intervals(evaluation.scores, seed), strict=True)), images)


def _round(values: Tensor | None) -> list[float] | None:
    return None if values is None else [round(value, 4) for value in values.tolist()]


def to_json(settings: Mapping[str, Any], results: Results) -> str:
    """Return settings and results as indented JSON with one line per image; a score of NaN becomes null."""
    content = finite({**settings, **results._asdict(), "images": []})
    images = ",\n".join("    " + json.dumps(image, ensure_ascii=False) for image in results.images)
    head = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return head.replace('"images": []', '"images": [\n' + images + "\n  ]") + "\n"


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: None takes the place of such a number, and of an
    interval with one."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return None if value and None in map(finite, value) else value
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Scored(NamedTuple):
    """The part of an evaluation that a comparison needs."""

    folder: str
    data: str
    search: str
    captions: dict[int, str]  # by the image's id


def read_scores(folder: str, split: str) -> Scored:
    """Return what an evaluation of the run in `folder` wrote. Raises UserError when there was none."""
    path, remedy = Path(folder) / f"scores_{split}.json", "score that run first, by evaluate.py --checkpoint"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    with reading(path, remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        captions = {int(image["image_id"]): str(image["caption"]) for image in content["images"]}
        search = describe_search(content["search"], content["precision"], content["seed"])
        return Scored(folder, str(content["data"]), search, captions)


def arrange_captions(scored: Scored, split: CaptionDataset) -> list[str]:
    """Return the captions that were scored, in the order of the split. Raises UserError for those of other images."""
    if set(scored.captions) != set(split.image_ids):
        raise UserError(
            f"{scored.folder}: was scored on {len(scored.captions)} images of {scored.data}, not on the {len(split)} "
            f"of {split.path}, {split.split}; score both runs on the same split"
        )
    return [scored.captions[image_id] for image_id in split.image_ids]


def describe_search(search: Mapping[str, Any], precision: str, seed: int) -> str:
    """Return in words how captions were generated, with all that differs from the default. `search` has the fields of
    SearchConfig; the seed counts where words or locations are sampled."""
    beams, samples = search["beam_size"], search["method"] == "sample"
    parts = [f"the most probable of {beams} samples" if samples else f"beam {beams}"]
    for field in dataclasses.fields(SearchConfig):
        value = search.get(field.name, field.default)  # older scores lack top_p
        if field.name in SEARCH_WORDS and value != field.default and (samples or field.name != "temperature"):
            parts.append(SEARCH_WORDS[field.name].format(value))
    parts += LOCATIONS[search["hard_attention"]]
    parts += [f"seed {seed}"] if samples or search["hard_attention"] == "sample" else []
    return ", ".join(parts + ([] if precision == "fp32" else [precision]))
