"""The kernels in C give what additive.py gives without them, whatever the shapes, and are not needed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import make_decoder
from torch import Tensor

from caption.attention import additive, native
from caption.attention.additive import exponentials, tanh_scores
from caption.attention.contexts import contexts

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")
SHAPES = [(1, 1, 1, 16), (2, 3, 7, 48), (5, 1, 20, 16), (1, 4, 3, 512), (13, 5, 196, 64)]  # B, Q, L, A


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "WORTH", 0)


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
    monkeypatch.setattr(additive, "block_scores", None)  # would fail
    monkeypatch.setattr(additive, "block_gradients", None)
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
        whole = additive.block_scores(exponentials(query), exponentials(keys), vector)
    torch.testing.assert_close(scores, whole[1:3, ::2], atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(scores.sum(), [query, keys, vector])
    copies = [each.detach().clone().contiguous().requires_grad_() for each in some]
    wanted = torch.autograd.grad(tanh_scores(exponentials(copies[0]), exponentials(copies[1]), copies[2]).sum(), copies)
    torch.testing.assert_close(found[0][1:3, ::2], wanted[0])
    torch.testing.assert_close(found[1][1:3], wanted[1])
    torch.testing.assert_close(found[2], wanted[2])


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
    assert native.takes(asked, keys)
    assert not native.takes(asked.double(), keys.double())
    assert not native.takes(asked[..., :31], keys[..., :31])
    monkeypatch.setattr(native, "WORTH", 2 * 3 * 5 * 32 + 1)
    assert not native.takes(asked, keys)


@pytest.mark.parametrize("why", ["no compiler", "an error", "not to be loaded"])
def test_without(monkeypatch: pytest.MonkeyPatch, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A decoder works all the same, and the compiler is asked only once; what it said is told in one line."""
    asked: list[list[str]] = []

    def run(command: list[str], **more: object) -> None:
        asked.append(command)
        if why == "an error":
            raise subprocess.CalledProcessError(1, command, stderr=b"kernels.c:1: error: why\nmore")
        Path(command[-1]).write_text("no library")

    native.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else name)
    decoder = make_decoder().float()
    regions = torch.randn(2, 5, 6)
    for _ in range(2):
        decoded = decoder(decoder.prepare(regions), torch.full((2, 2, 3), 4), torch.full((2, 2), 3))
    assert decoded.logits.isfinite().all()
    assert not native.takes(torch.ones(1, 1, 16), torch.ones(1, 1, 16))
    assert len(asked) == (why != "no compiler")
    told = capsys.readouterr().err
    assert told.count("\n") == len(asked) and ("error: why" in told) == (why == "an error")
    native.library.cache_clear()
