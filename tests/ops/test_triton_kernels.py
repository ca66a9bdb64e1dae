"""The kernels of additive attention, run by Triton's interpreter where there is no GPU, against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from caption import ops
from caption.attention import AdditiveScore, ConcatScore, SoftAttention
from caption.ops import reference, triton
from caption.ops.exp_tanh import prepare_keys

pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
from caption.ops import triton_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter multiplies no bfloat16")


def inputs(images: int, rows: int, regions: int, width: int, depth: int, dtype: torch.dtype) -> list[Tensor]:
    """q [B, Q, A], k [B, L, A], v [A] and values [B, L, D]."""
    torch.manual_seed(0)
    query, keys, vector = (torch.randn(shape) for shape in ((images, rows, width), (images, regions, width), (width,)))
    values = torch.randn(images, regions, depth).to(dtype)
    return [tensor.to(DEVICE).requires_grad_() for tensor in (query, keys, vector, values)]


def attend(query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return triton_kernels.additive_attention(query, prepare_keys(keys), vector, values, temperature)


@pytest.mark.parametrize(
    ("shape", "dtype", "close"),
    [
        ((2, 3, 7, 5, 6), torch.float, 4e-6),  # less than a block of everything
        ((1, 1, 64, 64, 64), torch.float, 4e-6),  # just a block
        ((2, 5, 70, 80, 65), torch.float, 4e-6),  # several blocks, the last not full
        ((1, 17, 130, 20, 30), torch.float, 4e-6),  # more rows than a product of matrices takes at least
        ((2, 5, 70, 80, 65), torch.half, 1e-3),
        pytest.param((2, 5, 70, 80, 65), torch.bfloat16, 8e-3, marks=needs_gpu),
    ],
)
def test_attention_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype, close: float) -> None:
    values = inputs(*shape, dtype)
    result = attend(*values, 0.7)
    expected = reference.additive_attention(*(value.double() for value in values), 0.7)
    assert result[0].dtype == dtype and result[1].dtype == torch.float
    torch.manual_seed(1)
    factors = [torch.randn(value.shape, device=DEVICE) for value in result]
    totals = [
        sum((value.double() * factor).sum() for value, factor in zip(several, factors, strict=True))
        for several in (result, expected)
    ]
    gradients = [torch.autograd.grad(total, values) for total in totals]
    for one, other in zip((*result, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=close * max(1, other.abs().max().item()), rtol=0)


def test_gradients_are_the_same_every_time() -> None:
    values = inputs(2, 5, 70, 80, 65, torch.float)
    one, other = (torch.autograd.grad(attend(*values, 1.0)[0].sum(), values) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [AdditiveScore, ConcatScore])
def test_soft_attention_gives_the_same_with_and_without_the_kernels(
    kind: type[AdditiveScore], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = SoftAttention(kind(6, 8, 10), 8, temperature=0.5).to(DEVICE)
    query, regions = torch.randn(2, 3, 6, device=DEVICE), torch.randn(2, 9, 8, device=DEVICE)
    results, calls = [], []
    run = triton_kernels.additive_attention
    monkeypatch.setattr(triton_kernels, "additive_attention", lambda *arguments: calls.append(1) or run(*arguments))
    for supported in (True, False):
        backend = ops.Backend("Triton", lambda *_, supported=supported: supported, triton.additive_attention)
        monkeypatch.setitem(ops.BACKENDS, "additive_attention", (backend,))
        results.append(attention(query, attention.prepare(regions)))
        assert len(calls) == 1
    torch.testing.assert_close(results[0].context, results[1].context)
    torch.testing.assert_close(results[0].weights, results[1].weights)


def test_double_precision_and_the_cpu_are_not_supported() -> None:
    values = [value.detach() for value in inputs(2, 3, 7, 5, 6, torch.float)]
    assert triton.supports_additive_attention(*values, 1.0) == (DEVICE == "cuda")
    assert not triton.supports_additive_attention(*(value.double() for value in values), 1.0)
    assert not triton.works(torch.device("cpu"))


def test_a_launcher_that_cannot_be_built_is_told_once_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No C compiler, or no Python.h: attention goes on without the kernels."""

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(triton_kernels, "additive_attention", fail)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    triton.works.cache_clear()
    assert [triton.works(torch.device("cuda")) for _ in range(2)] == [False, False]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Failed to find C compiler" in line and "python3-dev" in line
    triton.works.cache_clear()


def test_the_kernels_are_not_imported_without_a_gpu() -> None:
    code = "import sys, caption.captioner; sys.exit('caption.ops.triton_kernels' in sys.modules)"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=False).returncode == 0
