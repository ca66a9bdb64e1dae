"""Additive scores without a tanh for each region: equal to the equation, forward, backward, and light in memory."""

import pytest
import torch
from torch import Tensor

from caption.attention import AdditiveScore
from caption.ops import exp_tanh, reference
from caption.ops.exp_tanh import MAX_ABS, additive_scores, prepare_keys


def inputs(dtype: torch.dtype, std: float = 1.0) -> list[Tensor]:
    """q, k and v of 5 images, 3 rows, 7 regions, width 11."""
    torch.manual_seed(0)
    shapes = ((5, 3, 11), (5, 7, 11), (11,))
    return [(std * torch.randn(shape, dtype=torch.double)).to(dtype).requires_grad_() for shape in shapes]


def scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    return additive_scores(query, prepare_keys(keys), vector)


def gradients(score: Tensor, values: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad((score * torch.randn(score.shape, dtype=torch.double).to(score.dtype)).sum(), values)


# One region of one image at a time; four and three regions; two, two and one image; all.
@pytest.mark.parametrize("block_size", [1, 3 * 11 * 5, 3 * 7 * 11 * 2, 2**20])
@pytest.mark.parametrize(("dtype", "close"), [(torch.double, 1e-12), (torch.float, 3e-6)])
@pytest.mark.parametrize("std", [0.1, 1.0, 4.0])
def test_blocks_of_every_size_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, block_size: int, dtype: torch.dtype, close: float, std: float
) -> None:
    monkeypatch.setattr(exp_tanh, "BLOCK_SIZE", block_size)
    values = inputs(dtype, std)
    expected, result = reference.additive_scores(*values), scores(*values)
    scale = expected.abs().max().item()
    torch.testing.assert_close(result, expected, atol=close * scale, rtol=0)
    for one, other in zip(gradients(result, values), gradients(expected, values), strict=True):
        torch.testing.assert_close(one, other, atol=close * max(1.0, other.abs().max().item()), rtol=0)


def test_gradients_equal_central_differences() -> None:
    assert torch.autograd.gradcheck(scores, inputs(torch.double))


@pytest.mark.parametrize("far", [19.0, 60.0, 1e4])
def test_saturated_scores_are_exact_and_their_gradients_vanish(far: float) -> None:
    """Where tanh is one to the last digit, values are exact and gradients zero, not infinite or no numbers."""
    query = torch.tensor([[[far, -far, far]]], requires_grad=True)
    keys = torch.tensor([[[far, -far, 0.5], [1.0, 2.0, 3.0]]], requires_grad=True)
    vector = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    result = scores(query, keys, vector)
    torch.testing.assert_close(result, reference.additive_scores(query, keys, vector))
    for gradient in torch.autograd.grad(result.sum(), (query, keys)):
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(("key", "query"), [(25.0, -22.0), (-25.0, 24.5), (42.0, -42.5), (-40.0, 40.0), (42.9, -41.0)])
def test_large_keys_and_queries_that_cancel_are_exact_up_to_the_clamp(key: float, query: float) -> None:
    """Value and gradients are the reference's in float32 as long as |k| and |q| are at most MAX_ABS."""
    assert max(abs(key), abs(query)) <= MAX_ABS
    values = [torch.full(shape, value, requires_grad=True) for shape, value in (((1, 1, 1), query), ((1, 1, 1), key))]
    vector = torch.ones(1, requires_grad=True)
    result, expected = scores(*values, vector), reference.additive_scores(*values, vector)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    wanted = torch.autograd.grad(expected.sum(), [*values, vector])
    for one, other in zip(torch.autograd.grad(result.sum(), [*values, vector]), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_beyond_the_clamp_keys_and_queries_count_as_the_clamp() -> None:
    """docs/paper.md states the bound: a key of 50 and a query of -48 score as 43 and -43."""
    result = scores(torch.full((1, 1, 1), -48.0), torch.full((1, 1, 1), 50.0), torch.ones(1))
    assert result.item() == pytest.approx(0.0, abs=1e-6)


def saved_bytes(score: AdditiveScore, query: Tensor, regions: Tensor, steps: int) -> int:
    """Bytes that automatic differentiation holds between the passes."""
    held: dict[int, int] = {}

    def note(values: Tensor) -> Tensor:
        held[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
        keys = score.keys(regions)
        results = [score(query, keys) for _ in range(steps)]
    assert all(result.requires_grad for result in results)
    return sum(held.values())


def test_no_activations_are_kept() -> None:
    """Each further step keeps a few numbers for a row and width, not one for each region."""
    score, images, rows, regions, width = AdditiveScore(8, 8, 16), 4, 5, 50, 16
    query, values = torch.randn(images, rows, 8), torch.randn(images, regions, 8)
    one, ten = (saved_bytes(score, query, values, steps) for steps in (1, 10))
    assert ten - one <= 9 * 8 * images * rows * width * 4 < 9 * images * rows * regions * width * 4


def test_half_precision_is_only_outside() -> None:
    """Under autocast the projections are in half precision, and the sums are not."""
    torch.manual_seed(0)
    score, query, regions = AdditiveScore(8, 8, 16), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        keys = score.keys(regions)
        result = score(query, keys)
        halves = score.query(query), score.key(regions)
    expected = reference.additive_scores(*(half.float() for half in halves), score.vector.weight[0])
    assert keys.dtype == result.dtype == torch.float
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_keys_read_by_others_too_have_both_gradients() -> None:
    """A step that adds to the shared gradient, and one that reads only some of the images."""
    query, keys, vector = inputs(torch.double)
    prepared = prepare_keys(keys)
    result = additive_scores(query, prepared, vector).sum() + 2 * additive_scores(query[:2], prepared[:2], vector).sum()
    expected = reference.additive_scores(query, keys, vector).sum()
    expected = expected + 2 * reference.additive_scores(query[:2], keys[:2], vector).sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, keys)[0] for value in (result, expected)))
