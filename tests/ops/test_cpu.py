"""The kernels in C: what the parametrised test of backends does not reach (strides, threads, special values), and how
they are compiled, cached and done without."""

import functools
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_decoder
from torch import Tensor

from caption import device, ops
from caption.config import DecoderConfig, SearchConfig
from caption.decoders import ShowAttendTellDecoder
from caption.ops import cpu, cpu_library, exp_tanh, reference
from caption.ops.exp_tanh import prepare_keys
from caption.search import search

needs_compiler = pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler")
MIN_WORK = cpu.MIN_WORK


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MIN_WORK", 0)


def inputs(shape: tuple[int, int, int, int], std: float = 1.0) -> list[Tensor]:
    """q, k and v."""
    torch.manual_seed(0)
    images, rows, regions, width = shape
    values = torch.randn(images, rows, width), torch.randn(images, regions, width), torch.randn(width)
    return [(std * value).requires_grad_() for value in values]


def gradients_of(function: Callable[..., Any], values: list[Tensor]) -> list[Tensor]:
    """The results and the gradients of their weighted sum, with weights that are the same in every precision."""
    values = [value.clone().requires_grad_() for value in values]
    results = function(*values)
    results = [results] if isinstance(results, Tensor) else [*results]
    torch.manual_seed(1)
    sums = [(result * torch.randn(result.shape).bfloat16().to(result.dtype)).sum() for result in results]
    return [*results, *torch.autograd.grad(sum(sums), values)]


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 3, 7, 48), (5, 1, 20, 16), (1, 4, 3, 512), (13, 5, 196, 64)])
@pytest.mark.parametrize("std", [0.1, 1.0, 4.0])
def test_additive_scores_equal_the_reference(shape: tuple[int, int, int, int], std: float) -> None:
    """In double precision, with small and with saturated scores."""
    values = inputs(shape, std)
    expected = gradients_of(reference.additive_scores, [value.detach().double() for value in values])
    results = gradients_of(lambda q, k, v: cpu.additive_scores(q, prepare_keys(k), v), values)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=0)


@needs_compiler
def test_strided_arguments_give_the_same() -> None:
    """Some rows and images of more, and a gradient that is one number everywhere."""
    query, keys, vector = inputs((4, 3, 7, 32))
    some = [query[1:3, ::2], keys[1:3], vector]
    scores = cpu.additive_scores(some[0], prepare_keys(some[1]), vector)
    with torch.no_grad():
        everything = exp_tanh.additive_scores(query, prepare_keys(keys), vector)
    torch.testing.assert_close(scores, everything[1:3, ::2], atol=1e-5, rtol=1e-5)
    result = torch.autograd.grad(scores.sum(), [query, keys, vector])
    copies = [value.detach().clone().contiguous().requires_grad_() for value in some]
    expected = torch.autograd.grad(cpu.additive_scores(copies[0], prepare_keys(copies[1]), copies[2]).sum(), copies)
    torch.testing.assert_close(result[0][1:3, ::2], expected[0])
    torch.testing.assert_close(result[1][1:3], expected[1])
    torch.testing.assert_close(result[2], expected[2])


def steps_of_scores(query: Tensor, keys: Tensor, vector: Tensor, steps: int = 3) -> list[Tensor]:
    """The scores of several steps, the last of fewer images."""
    results = [cpu.additive_scores(query * (1 + step), keys, vector) for step in range(steps)]
    return [*results, cpu.additive_scores(query[:2], keys[:2], vector)]


@needs_compiler
def test_one_gradient_of_the_keys_for_all_steps() -> None:
    """All steps add to it: in a pass, in a second one, and after passes that stopped short of the keys or began
    elsewhere."""
    query, keys, vector = inputs((4, 3, 7, 32))
    weights = torch.randn(5, 4, 3, 7)

    def loss(results: list[Tensor], first: int = 0) -> Tensor:
        return sum((weights[i][: len(results[i])] * results[i]).sum() for i in range(first, len(results)))

    apart = [reference.additive_scores(query * (1 + step), keys, vector) for step in range(3)]
    apart.append(reference.additive_scores(query[:2], keys[:2], vector))
    expected = [torch.autograd.grad(loss(apart, first), keys, retain_graph=True)[0] for first in (0, 2)]
    results = steps_of_scores(query, prepare_keys(keys), vector)
    torch.autograd.grad(loss(results), query, retain_graph=True)
    for first in (2, 0, 0):
        result = torch.autograd.grad(loss(results, first), keys, retain_graph=True)[0]
        torch.testing.assert_close(result, expected[first == 2], atol=1e-4, rtol=1e-4)
        torch.autograd.grad(loss(results, 1), query, retain_graph=True)


@needs_compiler
def test_the_keys_gradient_is_summed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, vector = inputs((4, 3, 7, 32))
    totals = []  # kept, so that no address is used again

    def backward(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        totals.append(arguments[-1])
        return cpu._scores_backward(*arguments)

    monkeypatch.setattr(cpu, "KERNELS", cpu.KERNELS._replace(backward=backward))
    sum(scores.sum() for scores in steps_of_scores(query, prepare_keys(keys), vector)).backward()
    assert len(totals) == 4 and len({total.data_ptr() for total in totals}) == 2  # those of fewer images have their own


@needs_compiler
def test_transposed_keys_gates_and_logits_give_the_same() -> None:
    """Their gradients, which PyTorch would lay out like them, are contiguous."""
    query, keys, vector = inputs((2, 3, 32, 48))
    keys = keys.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert not prepare_keys(keys).is_contiguous()
    result = torch.autograd.grad(cpu.additive_scores(query, prepare_keys(keys), vector).sum(), keys)
    straight = keys.detach().contiguous().requires_grad_()
    expected = torch.autograd.grad(cpu.additive_scores(query, prepare_keys(straight), vector).sum(), straight)
    torch.testing.assert_close(result[0], expected[0])
    cell, gates, targets = torch.randn(5, 6), torch.randn(24, 5).t(), torch.arange(5)
    for function, arguments in (
        (cpu.lstm_cell, [cell, gates, gates, gates]),
        (lambda logits: cpu.token_nll(logits, targets), [gates]),
    ):
        expected = gradients_of(function, [argument.contiguous() for argument in arguments])
        for one, other in zip(gradients_of(function, arguments), expected, strict=True):
            torch.testing.assert_close(one, other)


@needs_compiler
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_any_number_of_lanes_gives_the_reference(lanes: int, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor decides it; the compiler splits what is longer than a register."""
    monkeypatch.setattr(cpu_library, "FLAGS", (*cpu_library.FLAGS[:-1], f"-DLANES={lanes}"))
    monkeypatch.setattr(cpu, "LANES", lanes)
    values = inputs((2, 3, 7, 3 * lanes))
    assert cpu.supports_additive_scores(*values) and not cpu.supports_additive_scores(*inputs((2, 3, 7, lanes + 2)))
    expected = gradients_of(reference.additive_scores, values)
    results = gradients_of(lambda q, k, v: cpu.additive_scores(q, prepare_keys(k), v), values)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    weights, regions = torch.rand(2, 3, 7), torch.randn(2, 7, 3 * lanes)
    torch.testing.assert_close(cpu.weighted_sum(weights, regions), reference.weighted_sum(weights, regions))
    arguments = [torch.randn(5, 6), *torch.randn(3, 5, 24)]
    for one, other in zip(cpu.lstm_cell(*arguments), reference.lstm_cell(*arguments), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("features", "lanes"), [({"avx512f", "avx2"}, 16), ({"avx2"}, 8), ({"asimd"}, 4), (set(), 4)])
def test_a_vector_is_a_register_of_the_processor(
    features: set[str], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_features", lambda: features)
    specification = importlib.util.spec_from_file_location("another", cpu_library.__file__)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert lanes == module.LANES and f"-DLANES={lanes}" in module.FLAGS


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits() -> None:
    """No sum is split among threads."""
    values, threads = inputs((2, 3, 9, 256)), torch.get_num_threads()

    def results() -> list[Tensor]:
        return gradients_of(lambda q, k, v: cpu.additive_scores(q, prepare_keys(k), v), values)

    try:
        torch.set_num_threads(1)
        alone = results()
        torch.set_num_threads(3)
        for one, other in zip(results(), alone, strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_only_single_precision_whole_vectors_and_enough_work_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, vector = torch.ones(2, 3, 32), torch.ones(2, 5, 32), torch.ones(32)
    assert cpu.supports_additive_scores(query, keys, vector)
    assert not cpu.supports_additive_scores(query.double(), keys.double(), vector.double())
    assert not cpu.supports_additive_scores(query[..., :31], keys[..., :31], vector[:31])
    assert not cpu.supports_additive_scores(query, keys, vector.bfloat16())
    monkeypatch.setattr(cpu, "MIN_WORK", 2 * 3 * 5 * 32 + 1)
    assert not cpu.supports_additive_scores(query, keys, vector)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 12), (9, 33), (2, 1030)])
def test_lstm_cell_equals_the_reference(rows: int, width: int, scale: float, dtype: torch.dtype) -> None:
    """In double precision; hidden state and the gates' gradients are rounded to the gates' precision, the cell and its
    gradient are not."""
    torch.manual_seed(0)
    values = [torch.randn(rows, width), *(scale * torch.randn(rows, 4 * width).to(dtype) for _ in range(3))]
    expected = gradients_of(reference.lstm_cell, [value.double() for value in values])
    results = gradients_of(cpu.lstm_cell, values)
    assert [value.dtype for value in results] == [dtype, torch.float32, torch.float32, dtype, dtype, dtype]
    for one, other in zip(results, expected, strict=True):
        close = 1e-5 if one.dtype == torch.float32 else 2**-8
        torch.testing.assert_close(one.double(), other, atol=1e-6 * (1 + scale), rtol=close)


@needs_compiler
def test_lstm_cell_of_mixed_precisions_is_pytorch_s_and_nan_stays_nan() -> None:
    cell, gates = torch.randn(3, 8), torch.randn(3, 32)
    hidden, next_cell = ops.lstm_cell(cell, gates, gates.bfloat16(), gates.bfloat16())
    assert hidden.dtype == next_cell.dtype == torch.float32
    torch.testing.assert_close(hidden, reference.lstm_cell(cell, gates, gates, gates)[0], atol=0.02, rtol=0.02)
    for dtype in (torch.float32, torch.bfloat16):
        nan, infinite = [3 * [(gates / 0 * factor).to(dtype)] for factor in (0, 1)]
        assert all(value.isnan().all() for value in cpu.lstm_cell(cell, *nan))
        for one, other in zip(cpu.lstm_cell(cell, *infinite), reference.lstm_cell(cell, *infinite), strict=True):
            torch.testing.assert_close(one, other)


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 1024), (4, 1025), (2, 9490)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_token_nll_equals_the_reference(shape: tuple[int, int], dtype: torch.dtype, scale: float) -> None:
    """In double precision; the gradient is rounded to the precision of the logits."""
    torch.manual_seed(0)
    logits, targets = (scale * torch.randn(shape)).to(dtype), torch.randint(shape[1], shape[:1])
    expected = gradients_of(lambda x: reference.token_nll(x, targets), [logits.double()])
    results = gradients_of(lambda x: cpu.token_nll(x, targets), [logits])
    torch.testing.assert_close(results[0].double(), expected[0], atol=1e-5, rtol=1e-5)
    assert results[1].dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(results[1].double(), expected[1], atol=2e-6, rtol=close)


@needs_compiler
def test_token_nll_of_nan_of_impossible_words_and_of_none() -> None:
    targets = torch.tensor([0, 0, 0])
    logits = torch.tensor([[torch.nan, 1.0], [1.0, torch.nan], [1.0, -torch.inf]])
    assert cpu.token_nll(logits, targets).isnan().tolist() == [True, True, False]
    assert cpu.token_nll(logits[2:], targets[2:]).item() == 0
    assert cpu.token_nll(logits[:0], targets[:0]).shape == (0,)
    with pytest.raises(RuntimeError, match="out of bounds"):
        cpu.token_nll(logits, targets + 2)
    half = torch.zeros(1, 2, dtype=torch.bfloat16, requires_grad=True)
    slope = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # NaN by its last bits
    assert torch.autograd.grad(cpu.token_nll(half, targets[:1]), half, slope)[0].isnan().all()


def test_nothing_is_compiled_for_a_single_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling would take as long as the caption."""
    monkeypatch.setattr(cpu, "MIN_WORK", MIN_WORK)
    monkeypatch.setattr(cpu, "library", None)  # calling it would fail
    decoder = ShowAttendTellDecoder(DecoderConfig(), 2048, (14, 14), 20).eval()
    with torch.inference_mode():
        assert search(decoder, decoder.prepare(torch.randn(1, 196, 2048)), SearchConfig(beam_size=10, max_length=3))
    with pytest.raises(TypeError, match="not callable"):
        decoder(decoder.prepare(torch.randn(1, 4, 2048)), torch.full((1, 1, 3), 4), torch.full((1, 1), 3))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of its own, and a library that is not loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_library, "library", functools.cache(cpu_library.library.__wrapped__))
    monkeypatch.setattr(cpu, "library", cpu_library.library)
    return tmp_path / "show-attend-and-tell"


@pytest.mark.parametrize("why", ["no compiler", "an error", "not to be loaded"])
def test_without_the_library_pytorch_does_the_same(
    monkeypatch: pytest.MonkeyPatch, cache: Path, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The compiler is tried only once, and what it says is told in one line."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        commands.append(command)
        if why == "an error":
            raise subprocess.CalledProcessError(1, command, stderr=b"kernels.c:1: error: why\nmore")
        Path(command[-1]).write_text("no library")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else sys.executable)
    decoder = make_decoder().float()
    regions = torch.randn(2, 5, 6)
    for _ in range(2):
        output = decoder(decoder.prepare(regions), torch.full((2, 2, 3), 4), torch.full((2, 2), 3))
    assert output.logits.isfinite().all()
    assert not cpu.supports_lstm_cell(*(torch.ones(1, 1, width) for width in (16, 64, 64, 64)))
    assert len(commands) == {"no compiler": 0, "an error": 1, "not to be loaded": 2}[why]  # once more, without a cache
    lines = capsys.readouterr().err
    assert lines.count("\n") == (why != "no compiler") and ("error: why" in lines) == (why == "an error")


LOAD = "from caption.ops.cpu_library import library; assert library() is not None"


def load_in_a_process(**environment: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", LOAD], cwd=root, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )


@needs_compiler
def test_a_second_process_does_not_compile_again(cache: Path) -> None:
    assert load_in_a_process(XDG_CACHE_HOME=str(cache.parent)).wait() == 0
    (library,) = cache.glob("*")
    before = library.stat()
    assert load_in_a_process(XDG_CACHE_HOME=str(cache.parent), CC="false").wait() == 0
    after = (next(cache.glob("*"))).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and stat.S_IMODE(before.st_mode) == 0o700


@needs_compiler
def test_processes_that_compile_at_once_leave_one_library(cache: Path) -> None:
    processes = [load_in_a_process(XDG_CACHE_HOME=str(cache.parent)) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(list(cache.glob("*"))) == 1


@needs_compiler
@pytest.mark.parametrize("what", ["folder", "library", "link"])
def test_what_others_can_write_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The library is compiled into a temporary folder instead."""
    cache.mkdir(mode=0o700)
    target = cache / f"kernels-{cpu_library._fingerprint(shutil.which('gcc'))}.so"
    target.write_text("not to be loaded")
    target.chmod(0o600)
    if what == "folder":
        cache.chmod(0o777)
    elif what == "library":
        target.chmod(0o666)
    else:
        target.rename(cache / "elsewhere")
        target.symlink_to(cache / "elsewhere")
    loaded: list[str] = []
    load = cpu_library.ctypes.CDLL
    monkeypatch.setattr(cpu_library.ctypes, "CDLL", lambda path: loaded.append(path) or load(path))
    assert cpu_library.library() is not None
    assert len(loaded) == 1 and not loaded[0].startswith(str(cache))


@needs_compiler
def test_another_source_compiler_or_processor_has_another_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = shutil.which("gcc")
    fingerprints = [cpu_library._fingerprint(compiler), cpu_library._fingerprint(sys.executable)]
    monkeypatch.setattr(cpu_library, "_processor", lambda: "another processor")
    fingerprints.append(cpu_library._fingerprint(compiler))
    other = tmp_path / "kernels.c"
    other.write_text("int x;")
    monkeypatch.setattr(cpu_library, "SOURCE", other)
    fingerprints.append(cpu_library._fingerprint(compiler))
    assert len(set(fingerprints)) == 4


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.joinpath("file").write_text("no folder")
    assert load_in_a_process(XDG_CACHE_HOME=str(cache.parent / "file")).wait() == 0
    assert not cache.exists()
