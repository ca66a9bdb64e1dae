"""The kernels in C give what is given without them, whatever the shapes, and are not needed."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_decoder
from torch import Tensor

from caption.attention import AdditiveScore, SoftAttention
from caption.config import DecoderConfig, SearchConfig
from caption.decoders.base import Decoder
from caption.ops import cpu, exp_tanh
from caption.ops.contexts import contexts
from caption.ops.exp_tanh import exponentials, for_many, tanh_scores
from caption.ops.gate import gated
from caption.ops.lstm import equations, lstm_rows
from caption.ops.recurrent_linear import transposed
from caption.ops.token_nll import plain, surprises
from caption.search import search

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")
WORTH = cpu.WORTH
SHAPES = [(1, 1, 1, 16), (2, 3, 7, 48), (5, 1, 20, 16), (1, 4, 3, 512), (13, 5, 196, 64)]  # B, Q, L, A


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "WORTH", 0)


def inputs(shape: tuple[int, int, int, int], spread: float = 1.0) -> list[Tensor]:
    """q, k and v."""
    torch.manual_seed(0)
    images, rows, regions, width = shape
    values = torch.randn(images, rows, width), torch.randn(images, regions, width), torch.randn(width)
    return [(spread * each).requires_grad_() for each in values]


def results(values: list[Tensor]) -> list[Tensor]:
    scores = tanh_scores(exponentials(values[0]), exponentials(values[1]), values[2])
    torch.manual_seed(1)
    weights = torch.randn(scores.shape, dtype=torch.double).to(scores.dtype)
    return [scores, *torch.autograd.grad((scores * weights).sum(), values)]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_equals_pytorch(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int], spread: float) -> None:
    """In double precision, by the loop over blocks."""
    values = inputs(shape, spread)
    wanted = results([each.detach().double().requires_grad_() for each in values])
    monkeypatch.setattr(exp_tanh, "block_scores", None)  # would fail
    monkeypatch.setattr(exp_tanh, "block_gradients", None)
    for one, other in zip(results(values), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=0)


@needs_compiler
@pytest.mark.parametrize("shape", [*SHAPES, (2, 5, 6, 80)])
@pytest.mark.parametrize("tuned", [False, True])
def test_contexts(shape: tuple[int, int, int, int], tuned: bool) -> None:
    """Against a product of matrices in double precision; the values have a gradient where the encoder is tuned."""
    query, values, _ = inputs(shape)
    weights = (query.detach() @ values.detach().transpose(1, 2)).softmax(-1).requires_grad_()
    wanted_of = [weights, values] if tuned else [weights]
    slope = torch.randn(query.shape)
    found = contexts(weights, values if tuned else values.detach())
    doubles = [each.detach().double().requires_grad_() for each in (weights, values)]
    wanted = doubles[0] @ doubles[1]
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    assert type(found.grad_fn).__name__ == "_ContextsBackward"
    for one, other in zip(
        torch.autograd.grad((found * slope).sum(), wanted_of),
        torch.autograd.grad((wanted * slope).sum(), doubles[: len(wanted_of)]),
        strict=True,
    ):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-5)


@needs_compiler
def test_what_lies_apart_in_memory() -> None:
    """Some rows and images of more, and a gradient that is one number everywhere."""
    query, keys, vector = inputs((4, 3, 7, 32))
    some = [query[1:3, ::2], keys[1:3], vector]
    scores = tanh_scores(exponentials(some[0]), exponentials(some[1]), vector)
    with torch.no_grad():
        whole = exp_tanh.block_scores(exponentials(query), exponentials(keys), vector)
    torch.testing.assert_close(scores, whole[1:3, ::2], atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(scores.sum(), [query, keys, vector])
    copies = [each.detach().clone().contiguous().requires_grad_() for each in some]
    wanted = torch.autograd.grad(tanh_scores(exponentials(copies[0]), exponentials(copies[1]), copies[2]).sum(), copies)
    torch.testing.assert_close(found[0][1:3, ::2], wanted[0])
    torch.testing.assert_close(found[1][1:3], wanted[1])
    torch.testing.assert_close(found[2], wanted[2])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 300)])
def test_exponentials(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Against PyTorch's in double precision, some at the limit and beyond; a number that is none stays so."""
    torch.manual_seed(0)
    values = (12 * torch.randn(shape)).to(dtype)
    found, wanted = (gradients_of(exponentials, [each]) for each in (values, values.double()))
    assert found[0].grad_fn.name() == "_ExponentialsBackward"
    assert [each.dtype for each in found] == [torch.float32, dtype]
    torch.testing.assert_close(found[0].double(), wanted[0], atol=0, rtol=1e-5)
    torch.testing.assert_close(found[1].double(), wanted[1], atol=0, rtol=1e-5 if dtype == torch.float32 else 2**-8)
    with torch.no_grad():
        values[0] = torch.nan
    assert exponentials(values.requires_grad_())[0].isnan().all()


def looks(query: Tensor, keys: Tensor, vector: Tensor, steps: int = 3) -> list[Tensor]:
    """The scores of several steps, the last of fewer images."""
    asked = exponentials(query)
    made = [tanh_scores(asked * (1 + step), keys, vector) for step in range(steps)]
    return [*made, tanh_scores(asked[:2], keys[:2], vector)]


@needs_compiler
def test_keys_of_many_steps() -> None:
    """One gradient that all steps add to: in a pass, in a second one, and after passes that stopped short of the keys
    or began elsewhere."""
    query, keys, vector = inputs((4, 3, 7, 32))
    weights = torch.randn(5, 4, 3, 7)

    def loss(made: list[Tensor], first: int = 0) -> Tensor:
        return sum((weights[i][: len(made[i])] * made[i]).sum() for i in range(first, len(made)))

    apart = looks(query, exponentials(keys), vector)
    wanted = [torch.autograd.grad(loss(apart, first), keys, retain_graph=True)[0] for first in (0, 2)]
    shared = for_many(exponentials(keys))
    made = looks(query, shared, vector)
    torch.autograd.grad(loss(made), query, retain_graph=True)
    for first in (2, 0, 0):
        found = torch.autograd.grad(loss(made, first), keys, retain_graph=True)[0]
        torch.testing.assert_close(found, wanted[first == 2], atol=1e-5, rtol=1e-5)
        torch.autograd.grad(loss(made, 1), query, retain_graph=True)
    more = torch.autograd.grad(loss(made) + shared.sum(), keys)[0]  # read by others, too
    torch.testing.assert_close(more, wanted[0] + 2 * exponentials(keys), atol=1e-4, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("shared", [False, True])
def test_keys_and_gates_and_logits_that_lie_the_other_way_round(shared: bool) -> None:
    """Their gradients, which PyTorch would lay out likewise."""
    query, keys, vector = inputs((2, 3, 32, 48))
    keys = keys.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    made = (2 * keys).exp()
    assert not made.is_contiguous()
    found = torch.autograd.grad(
        tanh_scores(exponentials(query), for_many(made) if shared else made, vector).sum(), keys
    )
    straight = keys.detach().contiguous().requires_grad_()
    wanted = torch.autograd.grad(tanh_scores(exponentials(query), exponentials(straight), vector).sum(), straight)
    torch.testing.assert_close(found[0], wanted[0])
    cell, gates, targets = torch.randn(5, 6), torch.randn(24, 5).t(), torch.arange(5)
    for function, given in ((lstm_rows, [cell, gates, gates, gates]), (lambda x: surprises(x, targets), [gates])):
        wanted = gradients_of(function, [each.contiguous() for each in given])
        for one, other in zip(gradients_of(function, given), wanted, strict=True):
            torch.testing.assert_close(one, other)


@needs_compiler
def test_keys_gradient_is_summed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, vector = inputs((4, 3, 7, 32))
    work, places = cpu.gradients, []

    def seen(*given: Tensor) -> tuple[Tensor, Tensor]:
        places.append(given[-1].data_ptr())
        return work(*given)

    monkeypatch.setattr(cpu, "gradients", seen)
    sum(each.sum() for each in looks(query, for_many(exponentials(keys)), vector)).backward()
    assert len(places) == 4 and len(set(places)) == 2  # those of fewer images have their own


@needs_compiler
def test_the_same_by_any_number_of_threads() -> None:
    """To the bit: no sum is parted among threads."""
    values, threads = inputs((2, 3, 9, 256)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = results(values)
        torch.set_num_threads(3)
        for one, other in zip(results(values), alone, strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision, widths of whole vectors, and enough to do."""
    asked, keys = torch.ones(2, 3, 32), torch.ones(2, 5, 32)
    assert cpu.takes(asked, keys)
    assert not cpu.takes(asked.double(), keys.double())
    assert not cpu.takes(asked[..., :31], keys[..., :31])
    assert not cpu.takes(asked, keys, torch.ones(32).bfloat16())
    monkeypatch.setattr(cpu, "WORTH", 2 * 3 * 5 * 32 + 1)
    assert not cpu.takes(asked, keys)


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (16, 40), (33, 16), (17, 31), (5, 700)])
def test_transposed(shape: tuple[int, int]) -> None:
    matrix = torch.arange(float(2 * shape[0] * shape[1])).view(shape[0], -1)
    for one in (matrix, matrix[:, ::2], matrix.t()):
        assert transposed(one).is_contiguous() and torch.equal(transposed(one), one.t())


def gradients_of(function: Callable[..., Any], values: list[Tensor]) -> list[Tensor]:
    """What it gives and the gradients of a sum of that with weights that are the same in every precision."""
    values = [each.clone().requires_grad_() for each in values]
    results = function(*values)
    results = [results] if isinstance(results, Tensor) else [*results]
    torch.manual_seed(1)
    sums = [(each * torch.randn(each.shape).bfloat16().to(each.dtype)).sum() for each in results]
    return [*results, *torch.autograd.grad(sum(sums), values)]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 12), (9, 33), (2, 1030)])
def test_lstm(monkeypatch: pytest.MonkeyPatch, rows: int, width: int, scale: float, dtype: torch.dtype) -> None:
    """Against its equations in double precision; state and gradients of the gates are rounded to the gates' precision,
    the cell and its gradient are not."""
    torch.manual_seed(0)
    values = [torch.randn(rows, width), *(scale * torch.randn(rows, 4 * width).to(dtype) for _ in range(3))]
    wanted = gradients_of(equations, [each.double() for each in values])
    monkeypatch.setattr("caption.ops.lstm.equations", None)  # would fail
    found = gradients_of(lstm_rows, values)
    assert [each.dtype for each in found] == [dtype, torch.float32, torch.float32, dtype, dtype, dtype]
    for one, other in zip(found, wanted, strict=True):
        close = 1e-5 if one.dtype == torch.float32 else 2**-8
        torch.testing.assert_close(one.double(), other, atol=1e-6 * (1 + scale), rtol=close)


@needs_compiler
def test_lstm_of_several_precisions_and_of_no_number() -> None:
    """DistributedBatches of different precisions are PyTorch's; one that is not a number does not pass unseen."""
    cell, gates = torch.randn(3, 8), torch.randn(3, 32)
    hidden, following = lstm_rows(cell, gates, gates.bfloat16(), gates.bfloat16())
    assert hidden.dtype == following.dtype == torch.float32
    torch.testing.assert_close(hidden, equations(cell, gates, gates, gates)[0], atol=0.02, rtol=0.02)
    for dtype in (torch.float32, torch.bfloat16):
        nothing, endless = [3 * [(gates / 0 * one).to(dtype)] for one in (0, 1)]
        assert all(each.isnan().all() for each in lstm_rows(cell, *nothing))
        for one, other in zip(lstm_rows(cell, *endless), equations(cell, *endless), strict=True):
            torch.testing.assert_close(one, other)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "seen"), [((1, 1), 1, 1), ((3, 5), 12, 33), ((2, 1), 1030, 2050)])
def test_gate(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[int, int], width: int, seen: int, dtype: torch.dtype
) -> None:
    """Against PyTorch in double precision; beta and the gradients of weight and bias are single."""
    torch.manual_seed(0)
    values = [torch.randn(*rows, seen).to(dtype), torch.randn(*rows, width).to(dtype)]
    values += [torch.randn(1, width) / width**0.5, torch.randn(1)]
    wanted = gradients_of(gated, [each.double() for each in values])
    monkeypatch.setattr(torch, "sigmoid", None)  # would fail
    found = gradients_of(gated, values)
    assert [each.dtype for each in found] == [dtype, torch.float32, dtype, dtype, torch.float32, torch.float32]
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        close = 1e-5 if one.dtype == torch.float32 else 2**-8
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=close)


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 1024), (4, 1025), (2, 9490)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_surprises(shape: tuple[int, int], dtype: torch.dtype, scale: float) -> None:
    """Against PyTorch's in double precision; the gradient is rounded to the precision of the logits."""
    torch.manual_seed(0)
    logits, targets = (scale * torch.randn(shape)).to(dtype), torch.randint(shape[1], shape[:1])
    wanted = gradients_of(lambda x: plain(x, targets), [logits.double()])
    found = gradients_of(lambda x: surprises(x, targets), [logits])
    torch.testing.assert_close(found[0].double(), wanted[0], atol=1e-5, rtol=1e-5)
    assert found[1].dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found[1].double(), wanted[1], atol=2e-6, rtol=close)


@needs_compiler
def test_surprises_of_no_number_and_of_no_word() -> None:
    targets = torch.tensor([0, 0, 0])
    logits = torch.tensor([[torch.nan, 1.0], [1.0, torch.nan], [1.0, -torch.inf]])
    assert surprises(logits, targets).isnan().tolist() == [True, True, False]
    assert surprises(logits[2:], targets[2:]).item() == 0
    assert surprises(logits[:0], targets[:0]).shape == (0,)
    with pytest.raises(RuntimeError, match="out of bounds"):
        surprises(logits, targets + 2)
    half = torch.zeros(1, 2, dtype=torch.bfloat16, requires_grad=True)
    slope = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # not a number, by its last bits
    assert torch.autograd.grad(surprises(half, targets[:1]), half, slope)[0].isnan().all()


def test_not_compiled_for_a_single_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would take as long as the caption."""
    monkeypatch.setattr(cpu, "WORTH", WORTH)
    monkeypatch.setattr(cpu, "library", None)  # would fail
    decoder = Decoder(DecoderConfig(), SoftAttention(AdditiveScore(512, 2048, 512), 2048), 2048, 20).eval()
    with torch.inference_mode():
        assert search(decoder, decoder.prepare(torch.randn(1, 196, 2048)), SearchConfig(beam_size=10, max_length=3))
    with pytest.raises(TypeError, match="not callable"):
        decoder(decoder.prepare(torch.randn(1, 4, 2048)), torch.full((1, 1, 3), 4), torch.full((1, 1), 3))


@pytest.mark.parametrize("why", ["no compiler", "an error", "not to be loaded"])
def test_without(monkeypatch: pytest.MonkeyPatch, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A decoder works all the same, and the compiler is asked only once; what it said is told in one line."""
    asked: list[list[str]] = []

    def run(command: list[str], **more: object) -> None:
        asked.append(command)
        if why == "an error":
            raise subprocess.CalledProcessError(1, command, stderr=b"kernels.c:1: error: why\nmore")
        Path(command[-1]).write_text("no library")

    cpu.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else name)
    decoder = make_decoder().float()
    regions = torch.randn(2, 5, 6)
    for _ in range(2):
        decoded = decoder(decoder.prepare(regions), torch.full((2, 2, 3), 4), torch.full((2, 2), 3))
    assert decoded.logits.isfinite().all()
    assert not cpu.takes(torch.ones(1, 1, 16), torch.ones(1, 1, 16))
    assert len(asked) == (why != "no compiler")
    told = capsys.readouterr().err
    assert told.count("\n") == len(asked) and ("error: why" in told) == (why == "an error")
    cpu.library.cache_clear()
