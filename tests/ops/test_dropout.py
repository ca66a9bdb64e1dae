"""Dropout by shared random bits is dropout."""

import pytest
import torch
from torch import nn

from caption.ops import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_each_element_by_chance(p: float) -> None:
    """So many are zero, whichever of the four that share a number, and independently of its neighbour."""
    torch.manual_seed(0)
    zero = (Dropout(p)(torch.ones(4 * 200_000)) == 0).view(-1, 4).double()
    assert (zero.mean(0) - p).abs().max() < 5 * (p * (1 - p) / len(zero)) ** 0.5
    assert (zero.T.corrcoef() - torch.eye(4)).abs().max() < 5 / len(zero) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float, torch.double, torch.bfloat16])
def test_expectation_and_gradient(dtype: torch.dtype) -> None:
    """What is left grows by 1 / (1 - p), and the gradient goes where the value went."""
    torch.manual_seed(0)
    x = (torch.rand(7, 13, 5) + 0.5).to(dtype).requires_grad_()  # no element is 0 of itself
    result = Dropout(0.25)(x)
    kept = result != 0
    assert 0.6 < kept.float().mean() < 0.9 and result.dtype == dtype
    torch.testing.assert_close(result[kept], (x / 0.75)[kept])
    (gradient,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(gradient, kept.to(dtype) / 0.75)


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-7])
def test_all_or_nothing(p: float) -> None:
    x = torch.randn(50)
    torch.testing.assert_close(Dropout(p)(x), nn.Dropout(p)(x))


def test_rests_in_evaluation() -> None:
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_the_seed_decides() -> None:
    x, dropout = torch.ones(999), Dropout(0.5)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(torch.stack([dropout(x), dropout(x)]))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert not torch.equal(*results[0])
