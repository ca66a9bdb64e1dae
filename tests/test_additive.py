"""The additive score without a tanh for each region: equal to the plain one, forward, backward, and in memory."""

import pytest
import torch
from torch import Tensor

from caption.attention import AdditiveScore
from caption.ops import exp_tanh
from caption.ops.exp_tanh import exponentials, tanh_scores


def plain(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Eq. 4 as it stands: q [B, Q, A], k [B, L, A], v [A] -> e [B, Q, L]."""
    return torch.tanh(keys.unsqueeze(1) + query.unsqueeze(2)) @ vector


def inputs(dtype: torch.dtype, spread: float = 1.0) -> list[Tensor]:
    """q, k and v of 5 images, 3 rows, 7 regions, width 11."""
    torch.manual_seed(0)
    shapes = ((5, 3, 11), (5, 7, 11), (11,))
    return [(spread * torch.randn(shape, dtype=torch.double)).to(dtype).requires_grad_() for shape in shapes]


def gradients(score: Tensor, values: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad((score * torch.randn(score.shape, dtype=torch.double).to(score.dtype)).sum(), values)


# One region of one image at a time; four and three regions; two, two and one image; all.
@pytest.mark.parametrize("cached", [1, 3 * 11 * 5, 3 * 7 * 11 * 2, 2**20])
@pytest.mark.parametrize(("dtype", "close"), [(torch.double, 1e-12), (torch.float, 3e-6)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_equals_the_plain_score(
    monkeypatch: pytest.MonkeyPatch, cached: int, dtype: torch.dtype, close: float, spread: float
) -> None:
    monkeypatch.setattr(exp_tanh, "CACHED", cached)
    values = inputs(dtype, spread)
    wanted = plain(*values)
    found = tanh_scores(exponentials(values[0]), exponentials(values[1]), values[2])
    scale = wanted.abs().max().item()
    torch.testing.assert_close(found, wanted, atol=close * scale, rtol=0)
    for one, other in zip(gradients(found, values), gradients(wanted, values), strict=True):
        torch.testing.assert_close(one, other, atol=close * max(1.0, other.abs().max().item()), rtol=0)


def test_gradients_by_differences() -> None:
    values = inputs(torch.double)
    assert torch.autograd.gradcheck(lambda q, k, v: tanh_scores(exponentials(q), exponentials(k), v), values)


@pytest.mark.parametrize("far", [19.0, 60.0, 1e4])
def test_saturated_scores_are_finite(far: float) -> None:
    """Where tanh is one to the last digit, values are exact and gradients zero, not infinite or no numbers."""
    query = torch.tensor([[[far, -far, far]]], requires_grad=True)
    keys = torch.tensor([[[far, -far, 0.5], [1.0, 2.0, 3.0]]], requires_grad=True)
    vector = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    found = tanh_scores(exponentials(query), exponentials(keys), vector)
    torch.testing.assert_close(found, plain(query, keys, vector))
    for gradient in torch.autograd.grad(found.sum(), (query, keys)):
        assert gradient.abs().max() < 1e-6


def saved_bytes(score: AdditiveScore, query: Tensor, regions: Tensor, steps: int) -> int:
    """What automatic differentiation holds between the passes."""
    held: dict[int, int] = {}

    def note(values: Tensor) -> Tensor:
        held[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
        keys = score.keys(regions)
        scores = [score(query, keys) for _ in range(steps)]
    assert all(each.requires_grad for each in scores)
    return sum(held.values())


def test_no_activations_are_kept() -> None:
    """Each step more keeps a few numbers a row and width, not one for each region."""
    score, images, rows, regions, width = AdditiveScore(8, 8, 16), 4, 5, 50, 16
    query, values = torch.randn(images, rows, 8), torch.randn(images, regions, 8)
    one, ten = (saved_bytes(score, query, values, steps) for steps in (1, 10))
    assert ten - one <= 9 * 8 * images * rows * width * 4 < 9 * images * rows * regions * width * 4


def test_half_precision_is_only_outside() -> None:
    """Under autocast the projections are half, and what is summed is not."""
    torch.manual_seed(0)
    score, query, regions = AdditiveScore(8, 8, 16), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        keys = score.keys(regions)
        found = score(query, keys)
        halves = score.query(query), score.key(regions)
    wanted = plain(*(half.float() for half in halves), score.vector.weight[0])
    assert keys.dtype == found.dtype == torch.float
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
