"""Faithfulness, on models whose answer is known, and for every kind of decoder."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KINDS, D, make_kind
from torch import Tensor

import evaluate
from caption import checkpoint
from caption.attention import AttentionOutput, Memory
from caption.captioner import Captioner
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.faithfulness import (
    KEPT,
    ORDERS,
    Falls,
    erase,
    erased_counts,
    fall_scores,
    region_coverage,
    replace,
)

GRID = FeatureGrid.even(2, 3, 6)
L = 6


class Reader:
    """Attends to the region `shown`, but reads the region `used`: its value is the logit of word 4 against 0."""

    def __init__(self, shown: int, used: int) -> None:
        self.shown, self.used = shown, used

    def prepare(self, regions: Tensor) -> Memory:
        return Memory(regions, regions, regions.mean(1))

    def start(self, memory: Memory, rows: int) -> None:
        return None

    def step(self, words: Tensor, state: None, memory: Memory) -> tuple[Tensor, None, AttentionOutput]:
        logits = torch.full((len(words), 1, 5), -torch.inf, dtype=memory.values.dtype)
        logits[..., 0] = 0
        logits[..., 4] = memory.values[:, None, self.used, 0]
        context = memory.values[:, None, self.used]
        weights = torch.eye(L, dtype=memory.values.dtype)[self.shown].expand(len(words), 1, L)
        return logits, None, AttentionOutput(context, weights)


def falls(shown: int, used: int) -> np.ndarray:
    """Of a caption of one word, whose region has the value 2 and all others 0."""
    regions = torch.zeros(1, L, 1, dtype=torch.double)
    regions[0, used] = 2
    coverage = [np.eye(L)[[used]]]
    generator = torch.Generator().manual_seed(0)
    return erase(Reader(shown, used), regions, [[4]], coverage, GRID, generator)[0, 0]


def test_without_the_region_that_a_word_was_read_from_it_falls_by_what_that_was_worth() -> None:
    """Each region becomes the mean of the image, 1 / 3: log sigma(2) - log sigma(1 / 3)."""
    worth = math.log1p(math.exp(-1 / 3)) - math.log1p(math.exp(-2))
    found = dict(zip(ORDERS, falls(shown=2, used=2), strict=True))
    assert erased_counts(L) == [1, 2, 4, 6]
    for order in ("attention", KEPT, "gradient", "object"):
        assert found[order] == pytest.approx([worth] * 4)
    assert found["center"] == pytest.approx([0, 0, 0, worth])  # a corner is among the last
    assert all(each == pytest.approx(0) or each == pytest.approx(worth) for each in found["random"])


def test_an_attention_that_shows_another_region_than_is_read_is_not_faithful() -> None:
    found = dict(zip(ORDERS, falls(shown=0, used=5), strict=True))
    assert found["attention"][0] == 0 and found["gradient"][0] > 0.3 and found["attention"][-1] > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_erased_regions_are_those_that_the_mean_would_give(kind: str) -> None:
    decoder = make_kind(kind)
    torch.manual_seed(1)
    regions = torch.randn(2, L, D, dtype=torch.double)
    mean = regions.mean(1, keepdim=True).expand_as(regions)
    erased = torch.rand(2, L) < 0.5
    expected = decoder.prepare(torch.where(erased.unsqueeze(-1), mean, regions))
    found = replace(decoder.prepare(regions), decoder.prepare(mean), erased)
    torch.testing.assert_close(found.keys, expected.keys)
    torch.testing.assert_close(found.values, expected.values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_decoder_is_measured(kind: str) -> None:
    """All regions at once are the same for every order, unless weights are kept that say where a region lies."""
    torch.manual_seed(1)
    regions = torch.randn(2, L, D, dtype=torch.double)
    generator = torch.Generator().manual_seed(0)
    found = erase(make_kind(kind), regions, [[4, 5, 6], [7]], None, GRID, generator)
    assert found.shape == (2, 3, len(ORDERS), 4)
    assert np.isnan(found[:, :, ORDERS.index("object")]).all()
    known = [ORDERS.index(order) for order in ORDERS if order != "object"]
    assert np.isfinite(found[:, :, known]).all() and np.abs(found[0][:, known]).max() > 1e-3
    anew = found[:, :, [order for order in known if order != ORDERS.index(KEPT)]]
    assert np.allclose(anew[..., -1], anew[:, :, :1, -1])


def test_a_region_is_covered_by_the_part_of_its_square_inside_the_mask() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0:2, 1:4] = True  # squares of two pixels, in two rows and three columns
    assert region_coverage(mask, GRID) == pytest.approx([0.5, 1, 0, 0, 0, 0])


def test_falls_are_means_over_the_words_of_a_kind() -> None:
    """The order of objects, and all others beside it, are of the words that tell of one."""
    values = np.zeros((3, len(ORDERS), 4))
    values[:, 0, 0] = (1, 2, 6)
    values[:, -1, 0] = (np.nan, 4, np.nan)
    scores = fall_scores([Falls(["a", "cat", "sat"], values), Falls(["a"], values[:1])], L, {"a": "function words"})
    assert scores["all words", "attention", 1].value == pytest.approx((1 + 2 + 6 + 1) / 4)
    assert scores["function words", "attention", 1].value == pytest.approx(1)
    assert scores["content words", "attention", 1].value == pytest.approx(4)
    assert scores["words of an object", "object", 1].value == pytest.approx(4)
    assert scores["words of an object", "attention", 1].value == pytest.approx(2)
    assert {kind for kind, order, _ in scores if order == "object"} == {"words of an object"}


def test_captions_without_words_are_refused() -> None:
    with pytest.raises(UserError, match="all captions are empty"):
        fall_scores([Falls([], np.zeros((0, len(ORDERS), 4)))] * 2, L, {})


def test_with_its_weights_kept_attention_does_not_turn_to_another_region() -> None:
    """Two regions tell of opposite words: without the one, attention scored anew reads the other."""
    score = torch.tensor([3.0, 2.9, 0, 0, 0, 0])

    class Scored(Reader):
        def step(self, words: Tensor, state: None, memory: Memory) -> tuple[Tensor, None, AttentionOutput]:
            own = (memory.keys[:, None, :, 0].abs() * score * 10).softmax(-1)
            weights = own if memory.forced is None else memory.forced[:, :, 0, 0]
            context = weights @ memory.values
            logits = torch.full((len(words), 1, 5), -torch.inf, dtype=context.dtype)
            logits[..., 0], logits[..., 4] = 0, context[..., 0]
            return logits, None, AttentionOutput(context, weights)

    regions = torch.tensor([1.0, -1, 0, 0, 0, 0], dtype=torch.double).view(1, L, 1)
    found = erase(Scored(0, 0), regions, [[4]], None, GRID, torch.Generator().manual_seed(0))[0, 0]
    anew, kept = (found[ORDERS.index(order)] for order in ("attention", KEPT))
    assert anew[0] > 1.5 * kept[0] > 0 and anew[-1] == pytest.approx(kept[-1])


@pytest.mark.parametrize("mode", ["argmax", "sample"])
def test_sampled_locations_are_refused(shapes: Path, mode: str) -> None:
    with pytest.raises(UserError, match=f"--faithfulness reads expectations, but --hard-attention is {mode}"):
        evaluate.main(["--checkpoint", "x", "--data", str(shapes), "--faithfulness", "--hard-attention", mode])


def test_the_table_the_figure_and_the_numbers_are_written(
    shapes: Path, captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path / "best.pt", captioner.eval().to_checkpoint())
    args = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes), "--max-length", "6", "--faithfulness"]
    evaluate.main([*args, "--instances", str(shapes.with_name("shapes_instances.json"))])
    output = capsys.readouterr().out
    assert re.search("all words +1 +2 +4 +8 +all 16\n", output)
    assert "without the 1 most attended of 16 regions, a word falls by" in output
    content: dict[str, Any] = json.loads((tmp_path / "faithfulness_test.json").read_text())
    curve = content["falls"]["all words"]["attention"]
    assert curve["x"] == [1, 2, 4, 8, 16] and all(
        low <= y <= high for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True)
    )
    assert (tmp_path / "faithfulness_test.png").stat().st_size > 10_000
    assert not (tmp_path / "scores_test.json").exists()
