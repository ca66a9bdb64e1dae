"""The kernels of additive attention and of its scores alone, run by Triton's interpreter where there is no GPU, against
the reference."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import require_triton
from torch import Tensor

from caption import ops
from caption.attention import AdditiveScore, ConcatScore, HardAttention, SoftAttention
from caption.attention.windows import WINDOWS
from caption.ops import reference, triton
from caption.ops.exp_tanh import prepare_keys

require_triton()
from caption.ops import triton_kernels  # noqa: E402

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


def score(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    return triton_kernels.additive_scores(query, prepare_keys(keys), vector)


def assert_equal_with_gradients(
    results: list[Tensor], expected: list[Tensor], values: list[Tensor], close: float
) -> None:
    """Results and the gradients of a sum of them are equal, relative to the largest of each."""
    torch.manual_seed(1)
    factors = [torch.randn(value.shape, device=DEVICE) for value in results]
    totals = [
        sum((value.double() * factor).sum() for value, factor in zip(several, factors, strict=True))
        for several in (results, expected)
    ]
    gradients = [torch.autograd.grad(total, values) for total in totals]
    for one, other in zip((*results, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=close * max(1, other.abs().max().item()), rtol=0)


SHAPES = [  # B, Q, L, A, D
    (2, 3, 7, 5, 6),  # less than a block of everything
    (1, 1, 64, 64, 64),  # just a block of regions
    (2, 5, 70, 80, 65),  # several blocks, the last not full
    (1, 17, 130, 20, 30),  # more rows than a program takes
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float, torch.half, torch.bfloat16])  # of the query
def test_scores_alone_equal_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    query, keys, vector, _ = inputs(*shape, torch.float)
    query = query.detach().to(dtype).requires_grad_()
    result = score(query, keys, vector)
    assert result.dtype == torch.float
    expected = reference.additive_scores(query.double(), keys.double(), vector.double())
    close = {torch.float: 4e-6, torch.half: 1e-3, torch.bfloat16: 8e-3}[dtype]  # that of the query's gradient
    assert_equal_with_gradients([result], [expected], [query, keys, vector], close)


def test_scores_of_strided_tensors_equal_the_reference() -> None:
    query, keys, vector, _ = inputs(2, 3, 20, 5, 6, torch.float)
    values = [query.transpose(1, 2).detach(), keys.transpose(1, 2).detach(), vector.detach().expand(2, 5)[0]]
    values = [value.requires_grad_() for value in values]
    arguments = [values[0].transpose(1, 2), values[1].transpose(1, 2), values[2]]
    expected = reference.additive_scores(*(value.double() for value in arguments))
    result = score(*arguments)
    torch.testing.assert_close(result.double(), expected, atol=4e-6, rtol=0)
    one, other = (torch.autograd.grad(scores.sum(), values) for scores in (result, expected))  # of a single 1, expanded
    for gradient, wanted in zip(one, other, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # K U is infinity there
@pytest.mark.parametrize("far", [19.0, 60.0, 1e4])
def test_saturated_scores_are_exact_and_their_gradients_vanish(far: float) -> None:
    query = torch.tensor([[[far, -far, far]]], device=DEVICE, requires_grad=True)
    keys = torch.tensor([[[far, -far, 0.5], [1.0, 2.0, 3.0]]], device=DEVICE, requires_grad=True)
    vector = torch.tensor([1.0, 2.0, 4.0], device=DEVICE, requires_grad=True)
    result = score(query, keys, vector)
    torch.testing.assert_close(result, reference.additive_scores(query, keys, vector))
    for gradient in torch.autograd.grad(result.sum(), (query, keys)):
        assert gradient.abs().max() < 1e-6


def test_blocks_shrink_where_the_grid_would_not_fill_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """132 multiprocessors, as an H100 has; 196 regions are 4 blocks of 64, 7 of 32 or 13 of 16."""
    monkeypatch.setattr(triton_kernels, "multiprocessors", lambda _: 132)
    sizes = [triton_kernels.block_size(64, 196, images, torch.device("cuda")) for images in (64, 33, 32, 19, 18, 1)]
    assert sizes == [64, 64, 32, 32, 16, 16]


@pytest.mark.parametrize("multiprocessors", [1, 5, 1000])  # blocks of 64, 32 and 16 regions
def test_blocks_of_every_size_equal_the_reference(monkeypatch: pytest.MonkeyPatch, multiprocessors: int) -> None:
    monkeypatch.setattr(triton_kernels, "multiprocessors", lambda _: multiprocessors)
    values = inputs(2, 3, 70, 40, 33, torch.float)
    assert triton_kernels.block_size(64, 70, 2, DEVICE) == {1: 64, 5: 32, 1000: 16}[multiprocessors]
    doubles = [value.double() for value in values]
    assert_equal_with_gradients(
        [*attend(*values, 0.7), score(*values[:3])],
        [*reference.additive_attention(*doubles, 0.7), reference.additive_scores(*doubles[:3])],
        values,
        4e-6,
    )


@pytest.mark.parametrize("run", [attend, score])
def test_all_steps_add_to_one_gradient_of_the_keys(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel of a backward pass is given the same memory, and the sum is right."""
    query, keys, vector, values = inputs(2, 3, 7, 5, 6, torch.float)
    memory, backward = [], triton_kernels._scores_backward

    def note(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        memory.append(arguments[-1].data_ptr())
        return backward(*arguments)

    monkeypatch.setattr(triton_kernels, "_scores_backward", note)
    monkeypatch.setattr(triton_kernels, "KERNELS", triton_kernels.KERNELS._replace(backward=note))
    prepared, total, expected = prepare_keys(keys), 0, 0
    for step in range(3):
        if run is attend:
            total += triton_kernels.additive_attention(query + step, prepared, vector, values, 1.0)[0].square().sum()
            expected += reference.additive_attention(query + step, keys, vector, values)[0].square().sum()
        else:
            total += triton_kernels.additive_scores(query + step, prepared, vector).square().sum()
            expected += reference.additive_scores(query + step, keys, vector).square().sum()
    gradients = [torch.autograd.grad(value, [query, keys, vector]) for value in (total, expected)]
    assert len(memory) == 3 and len(set(memory)) == 1
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "close"),
    [
        *((shape, torch.float, 4e-6) for shape in SHAPES),
        ((2, 5, 70, 80, 65), torch.half, 1e-3),
        pytest.param((2, 5, 70, 80, 65), torch.bfloat16, 8e-3, marks=needs_gpu),
    ],
)
def test_attention_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype, close: float) -> None:
    values = inputs(*shape, dtype)
    result = attend(*values, 0.7)
    expected = reference.additive_attention(*(value.double() for value in values), 0.7)
    assert result[0].dtype == dtype and result[1].dtype == torch.float
    assert_equal_with_gradients(result, expected, values, close)


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


@pytest.mark.parametrize("window", [None, *WINDOWS])
@pytest.mark.parametrize("kind", [SoftAttention, HardAttention])
def test_hard_attention_and_windows_use_the_kernel_of_scores(
    kind: type[SoftAttention], window: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the backends in the order in which a GPU has them, and the same contexts as by the equation."""
    torch.manual_seed(0)
    attention = kind(
        AdditiveScore(6, 8, 10), 8, 0.5, None if window is None else WINDOWS[window]((3, 3), 1, True, 6, 10)
    ).to(DEVICE)
    query, regions = torch.randn(2, 3, 6, device=DEVICE), torch.randn(2, 9, 8, device=DEVICE)
    rows = torch.ones(2, 3, dtype=torch.bool, device=DEVICE) if kind is HardAttention else None
    monkeypatch.setattr(triton, "works", lambda _: True)
    for operation in ("additive_scores", "additive_attention"):
        backends = [
            backend._replace(supports=lambda *_: True) if backend.name == "Triton" else backend
            for backend in ops.BACKENDS[operation]
        ]
        monkeypatch.setitem(ops.BACKENDS, operation, backends)
    monkeypatch.setattr(ops.switch, "_chosen", {})
    results = []
    for backends in ("auto", "reference"):
        with ops.use(backends):
            memory = attention.prepare(regions)._replace(sample_rows=rows, argmax=True)
            results.append(attention(query, memory))
    operation = "additive_attention" if kind is SoftAttention and window is None else "additive_scores"
    assert ops.chosen()[operation] == ["Triton", "reference"]
    torch.testing.assert_close(results[0].context, results[1].context)
    torch.testing.assert_close(results[0].weights, results[1].weights)


def test_double_precision_and_the_cpu_are_not_supported() -> None:
    values = [value.detach() for value in inputs(2, 3, 7, 5, 6, torch.float)]
    assert triton.supports_additive_attention(*values, 1.0) == (DEVICE == "cuda")
    assert not triton.supports_additive_attention(*(value.double() for value in values), 1.0)
    assert triton.supports_additive_scores(*values[:3]) == (DEVICE == "cuda")
    assert not triton.supports_additive_scores(*(value.double() for value in values[:3]))
    assert not triton.works(torch.device("cpu"))


@pytest.fixture
def _pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors for a GPU are made on the CPU, and nothing is known of it yet."""
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    triton.works.cache_clear()
    yield
    triton.works.cache_clear()


def ask_for_both(values: torch.dtype = torch.float) -> tuple[bool, bool]:
    """Return whether scores alone, and attention over values of this dtype, are supported on a pretended GPU."""

    class OnGPU(NamedTuple):
        dtype: torch.dtype
        is_cuda: bool = True
        device: torch.device = torch.device("cuda")

    single = OnGPU(torch.float)
    arguments: Any = (single, single, single)
    return (
        triton.supports_additive_scores(*arguments),
        triton.supports_additive_attention(*arguments, OnGPU(values), 1.0),
    )


@pytest.mark.usefixtures("_pretended_gpu")
def test_a_launcher_that_cannot_be_built_is_told_once_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No C compiler, or no Python.h: attention goes on without the kernels."""

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(triton_kernels, "additive_scores", fail)
    monkeypatch.setattr(triton_kernels, "additive_attention", fail)
    assert ask_for_both() == ask_for_both() == (False, False)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Failed to find C compiler" in line and "python3-dev" in line


@pytest.mark.usefixtures("_pretended_gpu")
def test_values_that_do_not_compile_leave_the_scores_their_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As bfloat16 and TF32 do not on Turing by Triton 3.2: each dtype and precision is tried by itself."""
    run = triton_kernels.additive_attention

    def fail(*arguments: Any) -> Any:
        if arguments[3].dtype == torch.bfloat16 or torch.get_float32_matmul_precision() != "highest":
            raise IndexError("map::at")
        return run(*arguments)

    monkeypatch.setattr(triton_kernels, "additive_attention", fail)
    assert ask_for_both(torch.bfloat16) == ask_for_both(torch.bfloat16) == (True, False)
    assert capsys.readouterr().err.count("map::at") == 1
    assert ask_for_both() == (True, True)
    torch.set_float32_matmul_precision("high")
    assert ask_for_both() == (True, False)


def test_the_kernels_are_not_imported_without_a_gpu() -> None:
    code = "import sys, caption.captioner; sys.exit('caption.ops.triton_kernels' in sys.modules)"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=False).returncode == 0
