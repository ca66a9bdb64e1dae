"""Compiled functions give what the plain ones give, forward and backward, whatever the shapes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train
from caption import compiled
from caption.attention import additive
from caption.attention.additive import exponentials, tanh_scores
from caption.decoder import lstm
from caption.errors import UserError
from caption.losses import surprises

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


@pytest.fixture
def _wanted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(compiled._state, "wanted", True)
    yield


def scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    return tanh_scores(exponentials(query), exponentials(keys), vector)


def with_gradients(function, values: list[Tensor]) -> list[Tensor]:
    results = function(*values)
    results = [results] if isinstance(results, Tensor) else [*results]
    torch.manual_seed(1)
    loss = sum((each * torch.randn_like(each)).sum() for each in results)
    return [*results, *torch.autograd.grad(loss, values)]


@needs_compiler
def test_compiled_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """At several shapes, with one and with several rows; and not compiled anew for each."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch.manual_seed(0)
    for images, rows, regions in ((4, 3, 20), (3, 3, 20), (3, 2, 20), (2, 2, 20), (5, 4, 20), (2, 1, 20), (1, 1, 20)):
        query, keys, vector = torch.randn(images, rows, 32), torch.randn(images, regions, 32), torch.randn(32)
        values = [each.requires_grad_() for each in (query, keys, vector)]
        gates = [torch.randn(images, rows, width).requires_grad_() for width in (16, 4 * 16, 4 * 16, 4 * 16)]
        logits, targets = torch.randn(images * rows, 40).requires_grad_(), torch.arange(images * rows) % 40

        def words(logits: Tensor, targets: Tensor = targets) -> Tensor:
            return surprises(logits, targets)

        for function, given in ((scores, values), (lstm, gates), (words, [logits])):
            monkeypatch.setitem(compiled._state, "wanted", False)
            wanted = with_gradients(function, given)
            monkeypatch.setitem(compiled._state, "wanted", True)
            for one, other in zip(with_gradients(function, given), wanted, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
    assert counters["stats"]["unique_graphs"] <= 4 * 4  # of one image, of one row, of one of both, of several


@needs_compiler
@pytest.mark.usefixtures("_wanted")
def test_no_activations_are_kept() -> None:
    """The compiler computes r again, too: what is saved is not of [B, Q, L, A]."""
    images, rows, regions, width = 4, 5, 50, 64
    asked, keys = torch.rand(images, rows, width).requires_grad_(), torch.rand(images, regions, width).requires_grad_()
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.numel()) or x, lambda x: x):
        tanh_scores(asked, keys, torch.rand(width).requires_grad_())
    assert max(held) <= images * regions * width


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    given = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(UserError, match=r"training.compile needs a C\+\+ compiler"):
        train.main([*given, "--training.compile"])
    assert not (tmp_path / "run").exists() and not compiled.wanted()


def test_plain_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "kernel_scores", None)  # would fail
    tanh_scores(torch.ones(1, 1, 2), torch.ones(1, 3, 2), torch.ones(2))


@needs_compiler
@pytest.mark.slow
def test_training(monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path) -> None:
    """Two epochs with and without: the same losses, but for rounding."""
    losses = []
    for name, more in (("plain", []), ("compiled", ["--training.compile"])):
        monkeypatch.setitem(compiled._state, "wanted", False)
        given = ["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / name), "--device", "cpu"]
        train.main([*given, "--training.epochs", "2", "--training.precision", "fp32", *more])
        assert compiled.wanted() == bool(more)
        log = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train"]["cross_entropy"] for line in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 2
