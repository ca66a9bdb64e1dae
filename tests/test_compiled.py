"""Compiled functions give what the plain ones give, forward and backward, whatever the shapes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train
from caption.errors import UserError
from caption.ops import cpu, torch_compile
from caption.ops.lstm import equations
from caption.ops.token_nll import plain

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


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
    for images, rows in ((4, 3), (3, 3), (3, 2), (2, 2), (5, 4), (2, 1), (1, 1)):
        gates = [torch.randn(images * rows, width).requires_grad_() for width in (16, 4 * 16, 4 * 16, 4 * 16)]
        logits, targets = torch.randn(images * rows, 40).requires_grad_(), torch.arange(images * rows) % 40

        def words(logits: Tensor, targets: Tensor = targets) -> Tensor:
            return plain(logits, targets)

        for function, given in ((equations, gates), (words, [logits])):
            monkeypatch.setitem(torch_compile._state, "wanted", False)
            wanted = with_gradients(function, given)
            monkeypatch.setitem(torch_compile._state, "wanted", True)
            for one, other in zip(with_gradients(function, given), wanted, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
    assert counters["stats"]["unique_graphs"] <= 4 * 2  # of one image, of one row, of one of both, of several


def test_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has kernels in C, and takes the option of a run that began on a GPU as it is."""
    monkeypatch.setitem(torch_compile._state, "wanted", False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_compile.want(torch.device("cpu"))
    assert not torch_compile.wanted()
    with pytest.raises(UserError, match=r"training.compile needs Triton"):
        torch_compile.want(torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    torch_compile.want(torch.device("cuda"))
    assert torch_compile.wanted()


def test_plain_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)  # would fail
    equations(torch.ones(1, 2), *(torch.ones(1, 8) for _ in range(3)))


@needs_compiler
@pytest.mark.slow
def test_training(monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path) -> None:
    """Two epochs with what a GPU would compile, compiled here, and without: the same losses, but for rounding."""
    losses = []
    monkeypatch.setattr(cpu, "library", lambda: None)
    for compile in (False, True):
        monkeypatch.setattr(torch_compile, "want", lambda device, compile=compile: torch_compile.switch(compile))
        folder = tmp_path / str(compile)
        given = ["shapes-soft", "--data", str(shapes), "--output", str(folder), "--device", "cpu"]
        more = ["--training.epochs", "2", "--training.precision", "fp32", "--training.compile"]
        train.main([*given, *more])
        assert torch_compile.wanted() == compile
        log = (folder / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train"]["cross_entropy"] for line in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 2
