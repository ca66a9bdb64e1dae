"""The list of metrics: what is computed for which captions, and under which names."""

import math
from typing import Any

import numpy as np
import pytest

from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation import metrics
from caption.evaluation.bootstrap import mean_score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.grounding import attended_regions, attention_entropy
from caption.evaluation.metrics import METRICS, SORTS, VALIDATION, Metric, score_captions

COCO = [*(f"BLEU-{n}" for n in (1, 2, 3, 4)), *(f"BLEU-{n}, without BP" for n in (1, 2, 3, 4))]
COCO += ["length ratio", "ROUGE-L", "CIDEr-D"]
DIVERSITY = ["distinct captions", "vocabulary used", "mean length", "ends badly"]


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown metric 'BLUE'; known: BLEU, ROUGE-L, CIDEr-D, METEOR"):
        score_captions(CaptionSet(["a dog"], [["a dog"]]), ["BLUE"])


def test_validation_computes_the_scores_of_coco_that_need_no_java() -> None:
    captions = CaptionSet(["a b"], [["a b"]], java=True)  # which are strings, too
    assert [score.name for score in score_captions(captions, VALIDATION).scores] == COCO


def test_a_metric_is_left_out_where_what_it_needs_is_missing() -> None:
    assert list(score_captions(CaptionSet(["a dog"], [["a dog"]])).values) == [*COCO, *DIVERSITY]
    attention, grid = [np.full((2, 4), 0.25)], FeatureGrid.even(2, 2, 16)
    captions = CaptionSet(["a dog"], [["a dog"]], attention=attention, grid=grid, training_captions=[["a", "cat"]])
    assert list(score_captions(captions).values) == [
        *COCO,
        "attention entropy",
        "attended regions",
        *DIVERSITY,
        "not in training",
    ]


def test_strings_are_scored_as_strings() -> None:
    """A caption of single characters for each image; not several captions of an image."""

    def names(references: list[list[str]]) -> set[str]:
        return {score.name for score in score_captions(CaptionSet(["a"], references)).scores} - {*COCO}

    assert names([["a b"]]) == {"exact match", "character error rate"}
    assert names([["a dog"]]) == set()
    assert names([["a b", "a b"]]) == set()


def test_a_new_metric_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_captions(captions: CaptionSet) -> list[Any]:
        return [mean_score("long captions", [len(words) > 2 for words in captions.words])]

    monkeypatch.setattr(metrics, "METRICS", (*METRICS, Metric("long captions", long_captions)))
    captions = CaptionSet(["a b c", "a"], [["a"], ["a"]])
    assert (
        score_captions(captions).values["long captions"] == score_captions(captions, ["long captions"]).scores[0].value
    )


def test_the_list_is_consistent() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    optional = {metric.needs for metric in METRICS} - {"captions"}
    assert set(SORTS) <= {*COCO, "METEOR", "SPICE"}
    captions = CaptionSet(["a dog"], [["a dog"]])
    assert not any(getattr(captions, need) for need in optional)


def test_attended_regions_are_the_different_maxima_of_a_caption() -> None:
    """One caption that looks at one region twice, and one that looks at three in four words: 2 on average."""
    stays, moves = np.eye(4)[[1, 1]], np.eye(4)[[0, 3, 2, 3]]
    score = attended_regions([stays, moves])
    assert score.value == 2 and score.per_image.tolist() == [1, 3]


def test_entropy_is_a_mean_over_words() -> None:
    """One word with attention on one location, two with it on all four: two thirds of ln 4."""
    score = attention_entropy([np.array([[1.0, 0, 0, 0]]), np.full((2, 4), 0.25)])
    assert score.value == pytest.approx(2 / 3 * math.log(4)) and score.per_image[0] == 0
