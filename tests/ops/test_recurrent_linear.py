"""Layers applied at every step: inside `reuse_weights` they give what they give outside, forward and backward."""

import gc
import weakref

import pytest
import torch
from conftest import D, make_kind
from torch import Tensor

from caption.config import SearchConfig
from caption.data.vocabulary import END
from caption.ops import recurrent_linear
from caption.ops.recurrent_linear import PackedWeight, RecurrentLinear, WeightCache, reuse_weights, supports_onednn
from caption.search import search


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_linear, "MIN_WEIGHTS", 0)


def layer_and_steps(
    bias: bool, dtype: torch.dtype = torch.double, width: int = 5
) -> tuple[RecurrentLinear, list[Tensor]]:
    """A layer, and what it reads at three steps, fewer rows at each; the second's rows lie apart in memory."""
    torch.manual_seed(0)
    layer = RecurrentLinear(7, width, bias=bias).to(dtype)
    whole = torch.randn(4, 3, 7, dtype=dtype)
    return layer, [each.requires_grad_() for each in (whole.clone(), whole[:3, :2].clone(), whole[0, 0].clone())]


def gradients(layer: RecurrentLinear, reads: list[Tensor], inside: bool) -> list[Tensor]:
    torch.manual_seed(1)
    if inside:
        with reuse_weights(layer):
            results = [layer(x[:, :1] if x.dim() == 3 else x) for x in reads] + [layer(reads[0])]
    else:
        results = [layer(x[:, :1] if x.dim() == 3 else x) for x in reads] + [layer(reads[0])]
    loss = sum((result * torch.randn_like(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [*reads, *layer.parameters()])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [5, 9])  # fewer than are read, and more
@pytest.mark.parametrize(("dtype", "close"), [(torch.double, 1e-12), (torch.float, 1e-5)])
def test_equals_linear(width: int, bias: bool, dtype: torch.dtype, close: float) -> None:
    layer, reads = layer_and_steps(bias, dtype, width)
    for one, other in zip(gradients(layer, reads, True), gradients(layer, reads, False), strict=True):
        torch.testing.assert_close(one, other, atol=close, rtol=close)


def test_packed_where_it_pays() -> None:
    """Or the tests above, and speed, would say nothing of it."""
    here = torch.backends.mkldnn.is_available()
    few, rows = torch.randn(3, 7), torch.randn(recurrent_linear.MIN_ROWS + 1, 7)
    assert supports_onednn(few) == supports_onednn(rows) == here
    assert (
        PackedWeight(few, supports_onednn(few)).reordered == here
        and not PackedWeight(few, supports_onednn(few), several_steps=False).reordered
    )
    assert not supports_onednn(few.double())
    assert (
        supports_onednn(few.bfloat16())
        == supports_onednn(rows.bfloat16())
        == (here and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("bias", "width"), [(False, 5), (True, 9)])
def test_many_rows_alone(bias: bool, width: int, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside `reuse_weights`, too: a call is a step of its own. In half precision as nn.Linear there."""
    layer = RecurrentLinear(7, width, bias=bias)
    x = torch.randn(2, recurrent_linear.MIN_ROWS, 7).requires_grad_()
    made = []
    monkeypatch.setattr(recurrent_linear, "WeightCache", lambda *each: made.append(WeightCache(*each)) or made[-1])

    def results() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            result = layer(x)
        return [result, *torch.autograd.grad((slopes * result).sum(), [x, *layer.parameters()])]

    slopes = torch.randn(2, recurrent_linear.MIN_ROWS, width)
    found = results()
    monkeypatch.setattr(RecurrentLinear, "forward", torch.nn.Linear.forward)
    for one, other in zip(found, results(), strict=True):
        assert one.dtype == other.dtype
        close = 0.02 * other.abs().max().item() if half else 1e-4
        torch.testing.assert_close(one, other, atol=close, rtol=1e-5)
    assert len(made) == supports_onednn(x.bfloat16() if half else x)


def test_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast as nn.Linear under autocast, on processors with and without products in bfloat16."""
    layer, reads = layer_and_steps(True, torch.float)
    for supported in (True, False):
        if not supported:
            monkeypatch.setattr(recurrent_linear, "supports_onednn", lambda x: False)
        with torch.autocast("cpu", torch.bfloat16):
            with reuse_weights(layer):
                found = layer(reads[0])
            wanted = torch.nn.functional.linear(reads[0], layer.weight, layer.bias)
        assert found.dtype == wanted.dtype == torch.bfloat16
        torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.01)
        of = [reads[0], layer.weight, layer.bias]
        both = [torch.autograd.grad(each.float().square().sum(), of) for each in (found, wanted)]
        for one, other in zip(*both, strict=True):
            assert one.dtype == torch.float
            torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)


def test_nothing_stays_behind() -> None:
    """After an error, too, and after the backward pass; the weights may change then."""
    layer, reads = layer_and_steps(False)
    with pytest.raises(ZeroDivisionError), reuse_weights(layer):
        assert isinstance(layer.cache, WeightCache)
        layer(reads[0])
        raise ZeroDivisionError
    assert layer.cache is None
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer(reads[0]).any()
    with reuse_weights(layer):
        assert not layer(reads[0]).any()


def test_a_gradient_twice() -> None:
    """Of what is read alone, then of the weights: each counts once."""
    layer, reads = layer_and_steps(True)
    with reuse_weights(layer):
        total = sum(layer(x).square().sum() for x in reads)
    wanted = sum(torch.nn.functional.linear(x, layer.weight, layer.bias).square().sum() for x in reads)
    torch.autograd.grad(total, reads, retain_graph=True)
    for one, other in zip(*(torch.autograd.grad(each, [*layer.parameters()]) for each in (total, wanted)), strict=True):
        torch.testing.assert_close(one, other)


def test_another_precision() -> None:
    """Inside the same `reuse_weights`."""
    layer, reads = layer_and_steps(True, torch.float)
    with torch.no_grad(), reuse_weights(layer):
        first = layer(reads[0])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(reads[0]).dtype == torch.bfloat16
        assert torch.equal(layer(reads[0]), first)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_memory_is_freed_at_once(backward: bool, inside: bool) -> None:
    """Without the garbage collector, which comes late: no reference goes in a circle."""
    layer = RecurrentLinear(7, 5)
    held = []
    gc.collect()
    gc.disable()
    try:
        with reuse_weights(layer if inside else None):
            results = [layer(torch.randn(recurrent_linear.MIN_ROWS + 1, 7)) for _ in range(2)]
        held += [weakref.ref(result.grad_fn) for result in results]
        held += [weakref.ref(result.grad_fn.cache) for result in results if hasattr(result.grad_fn, "cache")]
        assert len(held) > 2 or not torch.backends.mkldnn.is_available()
        if backward:
            sum(results).sum().backward()
        del results
        assert not any(each() for each in held)
    finally:
        gc.enable()


def test_without_gradient() -> None:
    layer, reads = layer_and_steps(True, torch.float)
    with torch.inference_mode(), reuse_weights(layer):
        found = layer(reads[0])
    torch.testing.assert_close(found, layer(reads[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "current", "adaptive", "up-down", "multi-head"])
def test_decoders(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and search of whole decoders, in single precision, with and without."""
    decoder = make_kind(kind).float()
    regions = torch.randn(3, 6, D)
    captions = torch.tensor([[[5, 6, 7, END], [5, 6, END, 0]], [[6, END, 0, 0], [7, END, 0, 0]], [[END, 0, 0, 0]] * 2])
    lengths = torch.tensor([[4, 3], [2, 2], [1, 0]])

    def results() -> list[Tensor]:
        memory = decoder.prepare(regions)
        decoded = decoder(memory, captions, lengths)
        loss = decoded.logits.square().mean() + decoded.weights.square().mean()
        found = search(decoder, memory, SearchConfig(beam_size=3, max_length=5))
        told = torch.tensor([each.log_probability for several in found for each in several])
        return [decoded.logits, decoded.weights, told, *torch.autograd.grad(loss, [*decoder.parameters()])]

    inside = results()
    monkeypatch.setattr(RecurrentLinear, "forward", torch.nn.Linear.forward)
    for one, other in zip(inside, results(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_small_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_linear, "MIN_WEIGHTS", 36)
    small, large = RecurrentLinear(7, 5), RecurrentLinear(6, 6)
    with reuse_weights(torch.nn.Sequential(small, large)):
        assert small.cache is None and large.cache is not None


def test_a_backward_pass_that_stops_short_leaves_nothing() -> None:
    layer, reads = layer_and_steps(True)
    with reuse_weights(layer):
        results = [layer(x) for x in reads]
    torch.autograd.grad(results[0].sum(), reads[0], retain_graph=True)
    found = torch.autograd.grad(results[1].sum(), layer.weight)[0]
    torch.testing.assert_close(found, reads[1].sum((0, 1)).expand(5, -1))
