"""scores_SPLIT.json."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from caption.config import SearchConfig
from caption.errors import UserError
from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import Evaluation
from caption.evaluation.results import collect_results, describe_search, read_scores, to_json
from caption.search import Hypothesis


def test_json_has_no_nan_and_one_line_per_image() -> None:
    """Many readers refuse NaN."""
    hypothesis = Hypothesis([4], -1.0, True, torch.ones(2, 1))
    scores = [
        mean_score("m", [0.5, 0.25]),
        Score("pointing", np.array([[0.0, 0], [1, 2]])),
        Score("s", np.zeros((2, 2))),
    ]
    split, captions = SimpleNamespace(image_ids=[3, 7], file_names=["a", "b"]), CaptionSet(["a dog", "a cat"], [[], []])
    results = collect_results(Evaluation(scores, {"words": 7}, []), split, captions, [hypothesis, hypothesis], seed=1)
    assert math.isnan(results.scores["s"])
    text = to_json({"data": "x"}, results)
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["scores"]["s"] is None and content["intervals"]["s"] is None
    assert content["scores"]["m"] == 37.5 and content["intervals"]["m"] == [25, 50] and content["scores"]["words"] == 7
    assert [(image["image_id"], image["caption"]) for image in content["images"]] == [(3, "a dog"), (7, "a cat")]
    assert [image["scores"] for image in content["images"]] == [
        {"m": 50, "pointing": None, "s": None},
        {"m": 25, "pointing": 50, "s": None},
    ]
    assert text.count("log_probability") == sum("log_probability" in line for line in text.splitlines()) == 2


@pytest.mark.parametrize(
    ("search", "precision", "text"),
    [
        (SearchConfig(beam_size=3), "fp32", "beam 3"),
        (
            SearchConfig(length_penalty=0.5, hard_attention="sample"),
            "bf16",
            "beam 3, length penalty 0.5, sampled locations, seed 7, bf16",
        ),
        (SearchConfig(method="sample", beam_size=5), "fp32", "the most probable of 5 samples, seed 7"),
        (SearchConfig(max_length=9, suppress_unknown=False), "fp32", "beam 3, at most 9 words, <unknown> allowed"),
        (
            SearchConfig(method="sample", beam_size=5, top_p=0.9, temperature=0.5),
            "fp32",
            "the most probable of 5 samples, temperature 0.5, top p 0.9, seed 7",
        ),
    ],
)
def test_a_search_is_described_by_what_differs_from_the_default(
    search: SearchConfig, precision: str, text: str
) -> None:
    assert describe_search(vars(search), precision, seed=7) == text


def test_damaged_scores_are_refused_in_one_line(tmp_path: Path) -> None:
    good = {
        "data": "d.h5",
        "search": vars(SearchConfig()),
        "precision": "fp32",
        "seed": 1,
        "images": [{"image_id": 1, "caption": "a"}],
    }
    path = tmp_path / "scores_test.json"
    path.write_text(json.dumps(good))
    assert read_scores(str(tmp_path), "test") == (str(tmp_path), "d.h5", "beam 3", {1: "a"})
    for text in (
        "[]", "{", "\x00", "null", "[" * 100_000, json.dumps({**good, "images": None}), json.dumps({"images": []}),
        json.dumps({**good, "images": [{"image_id": 1}]}), json.dumps({**good, "search": {"beam_size": 3}}),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match="scores_test.json: is damaged, .*; score that run first, by evaluate.py"):
            read_scores(str(tmp_path), "test")
    with pytest.raises(UserError, match="scores_val.json: no such file; score that run"):
        read_scores(str(tmp_path), "val")
