"""The equations themselves: each against its formula written out for one element, or PyTorch's own layer."""

import math

import pytest
import torch
from conftest import pytorch_s_lstm
from torch import Tensor

from caption.ops import reference


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_lstm_cell_is_pytorch_s() -> None:
    """Word and context are the input of PyTorch's cell, whose gates stand in another order."""
    word, context, hidden, cell = doubles(3, 5), doubles(3, 6), doubles(3, 4), doubles(3, 4)
    of_input, of_hidden, bias = doubles(16, 11), doubles(16, 4), doubles(16)
    theirs = pytorch_s_lstm(of_input, of_hidden, bias)(torch.cat([word, context], 1), (hidden, cell))
    addends = (word @ of_input[:, :5].T + bias, hidden @ of_hidden.T, context @ of_input[:, 5:].T)
    for value, expected in zip(reference.lstm_cell(cell, *addends), theirs, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("i", "f", "o", "expected"),
    [
        (-99, 99, 99, [math.tanh(0.7), 0.7]),  # keep what is there
        (99, -99, 99, [math.tanh(math.tanh(0.3)), math.tanh(0.3)]),  # forget it, and write the modulator's 0.3
        (99, 99, -99, [0, 0.7 + math.tanh(0.3)]),  # add both, and show nothing
    ],
)
def test_the_gates_of_the_lstm_keep_write_and_show(i: float, f: float, o: float, expected: list[float]) -> None:
    cell, zero = torch.full((2, 3, 1), 0.7).double(), torch.zeros(2, 3, 4).double()
    gates = torch.tensor([i, f, o, 0.3]).double().expand(2, 3, 4)
    for addends in ((gates, zero, zero), (zero, gates, zero), (zero, zero, gates)):
        hidden, next_cell = reference.lstm_cell(cell, *addends)
        assert hidden.shape == next_cell.shape == cell.shape
        assert hidden[1, 2].item() == pytest.approx(expected[0]) and next_cell[1, 2].item() == pytest.approx(
            expected[1]
        )


def test_additive_scores_are_the_perceptron_of_each_region() -> None:
    query, keys, vector = doubles(2, 3, 5), doubles(2, 4, 5), doubles(5)
    scores = reference.additive_scores(query, keys, vector)
    assert scores.shape == (2, 3, 4)
    for b, q, n in [(0, 0, 0), (1, 2, 3), (0, 1, 3), (1, 0, 2)]:
        expected = sum(
            v * math.tanh(k + w)
            for v, k, w in zip(vector.tolist(), keys[b, n].tolist(), query[b, q].tolist(), strict=True)
        )
        assert scores[b, q, n].item() == pytest.approx(expected)


def test_additive_scores_of_half_precision_are_summed_in_float32() -> None:
    query, keys, vector = doubles(1, 2, 64).bfloat16(), doubles(1, 3, 64).float(), doubles(64).float()
    scores = reference.additive_scores(query, keys, vector)
    assert scores.dtype == torch.float32
    expected = reference.additive_scores(query.double(), keys.double(), vector.double())
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_additive_scores_equal_central_differences() -> None:
    values = [doubles(*shape).requires_grad_() for shape in ((2, 3, 5), (2, 4, 5), (5,))]
    assert torch.autograd.gradcheck(reference.additive_scores, values)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_attention_weights_are_a_distribution_over_the_regions(temperature: float) -> None:
    scores = doubles(2, 3, 4)
    weights = reference.attention_weights(scores, temperature)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3).double())
    odds = (weights[..., 0] / weights[..., 1]).log()
    torch.testing.assert_close(odds, (scores[..., 0] - scores[..., 1]) / temperature)


def test_large_scores_have_weights_and_no_overflow() -> None:
    weights = reference.attention_weights(torch.tensor([[[1000.0, 999.0, -1000.0]]]))
    assert weights[0, 0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 0])


def test_a_weighted_sum_is_the_expectation_of_the_values() -> None:
    """One region for all the weight on it, the mean for even weights, and for any weights the sum by hand."""
    weights, values = doubles(2, 3, 4).softmax(-1), doubles(2, 4, 5)
    weights[0, 0] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    weights[1, 1] = 0.25
    contexts = reference.weighted_sum(weights, values)
    assert contexts.shape == (2, 3, 5)
    torch.testing.assert_close(contexts[0, 0], values[0, 2])
    torch.testing.assert_close(contexts[1, 1], values[1].mean(0))
    expected = sum(weights[1, 2, n] * values[1, n] for n in range(4))
    torch.testing.assert_close(contexts[1, 2], expected)
    assert reference.weighted_sum(weights.float(), values.bfloat16()).dtype == torch.bfloat16


def test_the_gate_is_a_number_for_each_row_that_scales_its_context() -> None:
    context, hidden, weight, bias = doubles(2, 3, 5), doubles(2, 3, 4), doubles(1, 4), doubles(1)
    gated, gate = reference.gate_context(context, hidden, weight, bias)
    assert gated.shape == context.shape and gate.shape == (2, 3)
    for b, q in [(0, 0), (1, 2), (0, 1)]:
        beta = 1 / (1 + math.exp(-(sum(w * h for w, h in zip(weight[0], hidden[b, q], strict=True)) + bias).item()))
        assert gate[b, q].item() == pytest.approx(beta)
        torch.testing.assert_close(gated[b, q], beta * context[b, q])


@pytest.mark.parametrize(("bias", "expected"), [(-99.0, 0.0), (0.0, 0.5), (99.0, 1.0)])
def test_the_gate_is_closed_half_open_or_open(bias: float, expected: float) -> None:
    context = doubles(1, 2, 3)
    zero, biases = torch.zeros(1, 4).double(), torch.full((1,), bias).double()
    gated, gate = reference.gate_context(context, doubles(1, 2, 4), zero, biases)
    torch.testing.assert_close(gate, torch.full((1, 2), expected).double())
    torch.testing.assert_close(gated, expected * context)
