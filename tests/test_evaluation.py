"""Scores as they are told to people and to programs."""

import json
import math

import numpy as np
import pytest
import torch

from caption.evaluation.bootstrap import Difference, Score, intervals, mean
from caption.evaluation.table import as_json, blocks, comparison, entropy, per_picture, table
from caption.search import Hypothesis

VALUES = {"truthful": 50.0, "truthful, unseen": 12.345, "length ratio": 0.98765, "words": 7, "pointing": math.nan}
RANGES = {"truthful": (40.0, 60.0), "length ratio": (0.9, 1.1), "pointing": (math.nan, math.nan)}


def test_what_was_measured_apart_stands_beside() -> None:
    assert [(block.columns, list(block.rows)) for block in blocks(VALUES)] == [
        (["score", "unseen"], ["truthful"]),
        (["score"], ["length ratio", "words", "pointing"]),
    ]
    lines = table(VALUES, RANGES).splitlines()
    assert lines[1].split() == ["truthful", "50.00", "40.00", "to", "60.00", "12.35"] or "12.34" in lines[1]
    assert [line.split() for line in lines[4:]] == [
        ["length", "ratio", "0.988", "0.900", "to", "1.100"],
        ["words", "7"],
        ["pointing", "–"],
    ]
    assert all(line == line.rstrip() for line in lines)


def test_a_difference_is_real_below_one_in_twenty() -> None:
    differences = [Difference("a", 10.0, 12.0, 1, 3, 0.049), Difference("b", 10.0, 9.5, -2, 1, 0.05)]
    first, second = comparison(differences).splitlines()[1:]
    assert first.split() == ["a", "10.00", "12.00", "+2.00", "+1.00", "to", "+3.00", "0.0490", "real"]
    assert comparison([Difference("c", math.nan, 1.0, 0, 0, math.nan)]).splitlines()[1].split() == ["c", "–"]
    assert second.split() == ["b", "10.00", "9.50", "-0.50", "-2.00", "to", "+1.00", "0.0500"]


def test_json_is_json_whatever_the_numbers() -> None:
    """No NaN, which many readers refuse; a picture a line."""
    hypothesis = Hypothesis([4], -1.0, True, torch.ones(2, 1))
    scores = [mean("m", [0.5, 0.25]), Score("pointing", np.array([[0.0, 0], [1, 2]]))]
    images = per_picture(scores, [hypothesis, hypothesis])
    text = as_json({"data": "x", "scores": VALUES, "intervals": RANGES, "images": images})
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert told["scores"]["pointing"] is None and told["intervals"]["pointing"] is None
    assert told["scores"]["truthful"] == 50 and told["intervals"]["truthful"] == [40, 60]
    assert [image["scores"] for image in told["images"]] == [{"m": 50, "pointing": None}, {"m": 25, "pointing": 50}]
    assert text.count("log_probability") == sum("log_probability" in line for line in text.splitlines()) == 2


def test_nothing_to_measure_is_no_number_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    nothing = Score("pointing", np.zeros((3, 2)))
    assert math.isnan(nothing.value) and all(map(math.isnan, intervals([nothing])[0])) and not list(recwarn)


def test_entropy_is_of_words() -> None:
    """One word with attention on one place, two with it on all four: two thirds of ln 4."""
    score = entropy([np.array([[1.0, 0, 0, 0]]), np.full((2, 4), 0.25)])
    assert score.value == pytest.approx(2 / 3 * math.log(4)) and score.per_image[0] == 0
