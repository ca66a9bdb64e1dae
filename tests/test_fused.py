"""The kernels of fused attention, run by Triton's interpreter where there is no GPU, against plain PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from caption.attention import AdditiveScore, ConcatScore, SoftAttention, soft
from caption.ops.exp_tanh import exponentials, tanh_scores

pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
from caption.ops import triton_attention as fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter multiplies no bfloat16")


def inputs(images: int, rows: int, regions: int, width: int, depth: int, dtype: torch.dtype) -> list[Tensor]:
    """U [B, Q, A], K [B, L, A], v [A] and values [B, L, D]."""
    torch.manual_seed(0)
    query, keys, vector = (torch.randn(shape) for shape in ((images, rows, width), (images, regions, width), (width,)))
    values = torch.randn(images, regions, depth).to(dtype)
    made = (exponentials(query), exponentials(keys), vector, values)
    return [each.to(DEVICE).requires_grad_() for each in made]


def plain(asked: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, and in double precision."""
    asked, keys, vector, values = (each.double() for each in (asked, keys, vector, values))
    weights = (tanh_scores(asked, keys, vector) / temperature).softmax(-1)
    return weights @ values, weights


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
def test_equals_plain_attention(shape: tuple[int, ...], dtype: torch.dtype, close: float) -> None:
    values = inputs(*shape, dtype)
    found, wanted = fused.attend(*values, 0.7), plain(*values, 0.7)
    assert found[0].dtype == dtype and found[1].dtype == torch.float
    torch.manual_seed(1)
    factors = [torch.randn(each.shape, device=DEVICE) for each in found]
    totals = [
        sum((each.double() * factor).sum() for each, factor in zip(several, factors, strict=True))
        for several in (found, wanted)
    ]
    gradients = [torch.autograd.grad(total, values) for total in totals]
    for one, other in zip((*found, *gradients[0]), (*wanted, *gradients[1]), strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=close * max(1, other.abs().max().item()), rtol=0)


def test_gradients_are_the_same_every_time() -> None:
    values = inputs(2, 5, 70, 80, 65, torch.float)
    one, other = (torch.autograd.grad(fused.attend(*values, 1.0)[0].sum(), values) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [AdditiveScore, ConcatScore])
def test_soft_attention_takes_it(kind: type[AdditiveScore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels run, and gives what it gives without them; with a window it does without."""
    torch.manual_seed(0)
    attention = SoftAttention(kind(6, 8, 10), 8, temperature=0.5).to(DEVICE)
    query, regions = torch.randn(2, 3, 6, device=DEVICE), torch.randn(2, 9, 8, device=DEVICE)
    results, calls = [], []
    attend = fused.attend
    monkeypatch.setattr(fused, "attend", lambda *given: calls.append(1) or attend(*given))
    for kernels in (True, False):
        monkeypatch.setattr(soft, "fuses", lambda device, kernels=kernels: kernels)
        results.append(attention(query, attention.prepare(regions)))
        assert len(calls) == 1
    torch.testing.assert_close(results[0].context, results[1].context)
    torch.testing.assert_close(results[0].weights, results[1].weights)


def test_only_gpus_fuse() -> None:
    assert soft.fuses("cuda") and not soft.fuses("cpu")


def test_the_kernels_are_not_imported_without_a_gpu() -> None:
    code = "import sys, caption.captioner; sys.exit('caption.ops.triton_attention' in sys.modules)"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=False).returncode == 0
