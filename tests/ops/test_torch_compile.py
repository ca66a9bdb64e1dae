"""Compiled equations give what the equations give, whatever the shapes, on a GPU and only if asked for."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train
from caption import ops
from caption.errors import UserError
from caption.ops import cpu, reference, torch_compile

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


def with_gradients(function, values: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    results = function(*values, *constants)
    results = [results] if isinstance(results, Tensor) else [*results]
    torch.manual_seed(1)
    loss = sum((result * torch.randn_like(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, values)]


@needs_compiler
def test_shapes_that_change_are_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several numbers of images and rows, one and more, give what the reference gives."""
    torch._dynamo.reset()
    torch_compile._compiled.cache_clear()
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch.manual_seed(0)
    monkeypatch.setitem(torch_compile._state, "enabled", True)
    for images, rows in ((4, 3), (3, 3), (3, 2), (2, 2), (5, 4), (2, 1), (1, 1)):
        cell, *gates = [torch.randn(images, rows, width).requires_grad_() for width in (16, 4 * 16, 4 * 16, 4 * 16)]
        logits, targets = torch.randn(images * rows, 40).requires_grad_(), torch.arange(images * rows) % 40
        for compiled, equation, arguments, constants in (
            (torch_compile.lstm_cell, reference.lstm_cell, [cell, *gates], []),
            (torch_compile.token_nll, reference.token_nll, [logits], [targets]),
        ):
            expected = with_gradients(equation, arguments, constants)
            for one, other in zip(with_gradients(compiled, arguments, constants), expected, strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)
    assert counters["stats"]["unique_graphs"] <= 4 * 2  # of one image, of one row, of one of both, of several


def test_enabled_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has kernels in C, and takes the option of a run that began on a GPU as it is."""
    monkeypatch.setitem(torch_compile._state, "enabled", False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_compile.enable(torch.device("cpu"))
    assert not torch_compile.enabled()
    with pytest.raises(UserError, match=r"training.compile needs Triton"):
        torch_compile.enable(torch.device("cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    torch_compile.enable(torch.device("cuda"))
    assert torch_compile.enabled()


def test_nothing_is_compiled_unless_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_compile._state, "enabled", False)
    monkeypatch.setattr(torch, "compile", None)  # calling it would fail
    monkeypatch.setattr(cpu, "library", lambda: None)
    torch_compile._compiled.cache_clear()
    ops.lstm_cell(torch.ones(1, 2), *(torch.ones(1, 8) for _ in range(3)))


@needs_compiler
@pytest.mark.slow
def test_training(monkeypatch: pytest.MonkeyPatch, shapes: Path, tmp_path: Path) -> None:
    """Two epochs with what a GPU would compile, compiled here, and without: the same losses, but for rounding."""
    losses = []
    monkeypatch.setattr(cpu, "library", lambda: None)
    for compile in (False, True):
        monkeypatch.setattr(ops, "enable_compile", lambda device, compile=compile: torch_compile.switch(compile))
        folder = tmp_path / str(compile)
        given = ["shapes-soft", "--data", str(shapes), "--output", str(folder), "--device", "cpu"]
        more = ["--training.epochs", "2", "--training.precision", "fp32", "--training.compile"]
        train.main([*given, *more])
        assert torch_compile.enabled() == compile
        log = (folder / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train"]["cross_entropy"] for line in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 2
