"""Every backend of every operation gives what the reference gives: values and gradients, in every dtype and for awkward
shapes."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_decoder, require_triton
from torch import Tensor

import train
from caption import ops
from caption.errors import UserError
from caption.ops import cpu, exp_tanh, reference, switch

Function = Callable[..., Any]
GPU = torch.cuda.is_available()
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Relative to the largest value: a few units in the last place, more after sums of hundreds.
CLOSE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# B, Q, L, A or C, D or H: one of each; odd sizes; whole vectors; more rows than a tile; longer than a block.
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 7, 5, 6), (2, 3, 8, 16, 32), (1, 17, 130, 20, 30), (3, 2, 70, 80, 1040)]


def tensors(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


def attention_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Query, keys, vector and values; keys and vector are float32 or wider."""
    b, q, n, a, d = shape
    wide = torch.promote_types(dtype, torch.float32)
    return tensors([(b, q, a), (b, n, a), (a,), (b, n, d)], [dtype, wide, wide, dtype])


def inputs(operation: str, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Arguments of an operation, those alone that have gradients in training."""
    b, q, n, _, h = shape
    wide = torch.promote_types(dtype, torch.float32)
    if operation == "lstm_cell":
        return tensors([(b, q, h), *3 * [(b, q, 4 * h)]], [wide, *3 * [dtype]])
    if operation == "token_nll":
        return tensors([(b * q, h)], [dtype])
    if operation == "weighted_sum":
        weights, values = tensors([(b, q, n), (b, n, h)], [wide, dtype])
        return [weights.softmax(-1), values]
    return attention_inputs(shape, dtype)[: 4 if operation == "additive_attention" else 3]


def as_function(operation: str, run: Function, prepare: Function = reference.prepare_keys) -> Function:
    """The operation as a function of the tensors of `inputs` alone."""
    if operation == "token_nll":
        return lambda logits: run(logits, torch.arange(len(logits), device=logits.device) % logits.shape[1])
    if operation == "additive_attention":
        return lambda query, keys, vector, values: run(query, prepare(keys), vector, values, 0.7)
    if operation == "additive_scores":
        return lambda query, keys, vector: run(query, prepare(keys), vector)
    return run


def results_and_gradients(function: Function, arguments: list[Tensor]) -> list[Tensor]:
    """The results, and the gradients of a sum of them where gradients are on."""
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    results = function(*arguments)
    results = [results] if isinstance(results, Tensor) else [*results]
    if not torch.is_grad_enabled():
        return results
    torch.manual_seed(1)
    loss = sum((result * torch.randn(result.shape).bfloat16().to(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, arguments)]


@pytest.fixture
def _every_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are for small tensors, too."""
    monkeypatch.setattr(cpu, "MIN_WORK", 0)
    enabled = ops.torch_compile.enabled()
    ops.torch_compile.switch(True)
    yield
    ops.torch_compile.switch(enabled)


CASES = [
    pytest.param(
        operation, backend, DTYPES[dtype], shape, id=f"{operation}-{backend.name}-{dtype}-{'x'.join(map(str, shape))}"
    )
    for operation, backends in ops.BACKENDS.items()
    if operation not in ("prepare_keys", "dropout")  # part of additive_scores; random: test_dropout.py
    for backend in backends
    for dtype in DTYPES
    for shape in (SHAPES if backend.name != "torch.compile" else SHAPES[1:3])
]


@pytest.mark.usefixtures("_every_size")
@pytest.mark.parametrize(("operation", "backend", "dtype", "shape"), CASES)
def test_backend_equals_reference(
    operation: str, backend: ops.Backend, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Against the reference in double precision; gradients have their arguments' dtypes."""
    with torch.set_grad_enabled(operation != "weighted_sum"):  # whose kernel has no gradient
        check_backend(operation, backend, dtype, shape)


def check_backend(operation: str, backend: ops.Backend, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    device = "cuda" if GPU and backend.name in ("Triton", "torch.compile") else "cpu"
    arguments = [argument.to(device) for argument in inputs(operation, shape, dtype)]
    if backend.name == "Triton" and not GPU:
        if dtype == torch.float64 or (dtype == torch.bfloat16 and operation == "additive_attention"):
            pytest.skip("Triton's interpreter multiplies no bfloat16, its kernels no float64")
        require_triton()
    else:
        asked = as_function(operation, backend.supports, exp_tanh.prepare_keys)
        if not asked(*arguments):
            pytest.skip(f"{backend.name} does not support these tensors here")
    run = as_function(operation, backend.run, exp_tanh.prepare_keys)
    expected = results_and_gradients(
        as_function(operation, getattr(reference, operation)), [argument.double() for argument in arguments]
    )
    results = results_and_gradients(run, arguments)
    if torch.is_grad_enabled():
        gradients = results[-len(arguments) :]
        assert [gradient.dtype for gradient in gradients] == [argument.dtype for argument in arguments]
    assert all(value.dtype in (dtype, torch.promote_types(dtype, torch.float32)) for value in results)
    for value, other in zip(results, expected, strict=True):
        scale = max(1.0, other.abs().max().item())
        close = max(CLOSE[value.dtype], CLOSE[dtype] if dtype != torch.float64 else 0)
        torch.testing.assert_close(value.double(), other, atol=close * scale, rtol=0)


def test_every_operation_has_an_equation() -> None:
    assert all(callable(getattr(reference, operation)) for operation in ops.BACKENDS)


def test_the_switch_turns_every_backend_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step under "reference" calls no other implementation, and gives the same loss."""
    decoder = make_decoder().float().train()
    regions, captions, lengths = torch.randn(2, 5, 6), torch.full((2, 2, 3), 4), torch.full((2, 2), 3)

    def loss() -> Tensor:
        torch.manual_seed(0)
        decoder.dropout.p = decoder.state_dropout.p = 0.0
        return ops.token_nll(*decoder(decoder.prepare(regions), captions, lengths)[:2]).sum()

    expected = loss()
    expected.backward()
    for operation, backends in ops.BACKENDS.items():
        never = tuple(backend._replace(supports=None, run=None) for backend in backends)  # calling them would fail
        monkeypatch.setitem(ops.BACKENDS, operation, never)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)
    gradients = [parameter.grad for parameter in decoder.parameters()]
    decoder.zero_grad()
    with ops.use("reference"):
        torch.testing.assert_close(loss(), expected)
        loss().backward()
    for parameter, gradient in zip(decoder.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_environment_turns_every_backend_off() -> None:
    code = "from caption.ops import switch; print(switch.fast())"
    assert run_python(code, CAPTION_OPS="reference").stdout == "False\n"
    assert run_python(code, CAPTION_OPS="auto").stdout == "True\n"


def test_an_unknown_value_of_the_environment_is_refused(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train.py refuses it, too, and leaves no folder."""
    monkeypatch.setattr(switch, "_override", [])
    monkeypatch.setenv("CAPTION_OPS", "fast")
    switch._environment.cache_clear()
    with pytest.raises(UserError, match="CAPTION_OPS is 'fast', but must be auto or reference"):
        switch.fast()
    with pytest.raises(UserError, match="CAPTION_OPS is 'fast'"):
        train.main(["shapes-soft", "--data", str(shapes), "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    monkeypatch.delenv("CAPTION_OPS")
    switch._environment.cache_clear()


def test_choices_are_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(switch, "_chosen", {})
    with caplog.at_level(logging.INFO, "caption.ops"), ops.use("reference"):
        for _ in range(3):
            ops.token_nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    assert [record.getMessage() for record in caplog.records] == ["token_nll: reference"]
    assert ops.chosen() == {"token_nll": ["reference"]}


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")
def test_the_first_backend_that_supports_the_tensors_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "_chosen", {})
    cell, gates = torch.zeros(1, 2, 4), torch.zeros(1, 2, 16)
    ops.lstm_cell(cell, gates, gates, gates)
    ops.lstm_cell(cell.double(), *3 * [gates.double()])
    assert ops.chosen() == {"lstm_cell": ["C", "reference"]}
