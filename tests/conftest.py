"""Small data and models that many tests share."""

import contextlib
import functools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "0" if os.path.exists("/dev/nvidiactl") else "1")  # read when it is imported

if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from caption import ops
from caption.attention import Memory, build_attention
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig, TransformerConfig
from caption.data.hdf5 import manifest_of, read_texts, read_vocabulary, write_manifest, write_texts
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.decoders import ShowAttendTellDecoder, build_decoder
from caption.search import Hypothesis, search
from preprocess.__main__ import main as preprocess
from preprocess.verify import compute_digests

V, D, L = 11, 6, 5
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@functools.cache
def require_triton() -> None:
    """Skip the test where Triton is missing, or older than NumPy allows: then its interpreter ends in a TypeError."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
    from caption.ops import triton_kernels

    ones = torch.ones(1, 1, 1, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        triton_kernels.additive_scores(ones, ones, ones[0, 0])
    except Exception as error:
        if "only 0-dimensional arrays can be converted" in str(error):
            pytest.skip(f"this Triton's interpreter does not know NumPy {np.__version__}", allow_module_level=True)
        raise


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))  # more than are free slow one another


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """`train.main` takes over Ctrl-C and SIGTERM, and sets TF32, cuDNN and CUDA graphs on a GPU; give them back."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
    ops.enable_graphs(False)


@pytest.fixture(autouse=True)
def _fast_backends(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of tests/ops are of the fast backends: they run whatever CAPTION_OPS says."""
    with ops.use("auto") if request.path.parent.name == "ops" else contextlib.nullcontext():
        yield


@pytest.fixture
def _double() -> Iterator[None]:
    """Models in double precision."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """A run's log.jsonl, but for the time it took."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record in records:
        del record["train"]["captions_per_second"], record["train"]["data_fraction"]
    return records


@pytest.fixture
def decoder() -> ShowAttendTellDecoder:
    """A small random decoder in double precision, evaluation mode."""
    return make_decoder()


def attention_config(
    score: str = "additive", window: str = "", plane: bool = True, attention: str = "soft", hidden: int = 8
) -> DecoderConfig:
    """Of queries [B, Q, H]; without a window, for any regions."""
    local = {"window": window, "window_dims": "2d" if plane else "1d", "window_radius": 1} if window else {}
    widths = {"embedding_dim": 7, "hidden_dim": hidden, "attention_dim": 9}
    return DecoderConfig(**widths, score=score, attention=attention, dropout=0.5, **local)


def make_attention(*arguments: Any, **options: Any) -> Any:
    """The attention of `attention_config`, for regions on a grid of 2 x 3."""
    return build_attention(attention_config(*arguments, **options), D, (2, 3))


def make_decoder(vocabulary: int = V, seed: int = 0, **options: Any) -> ShowAttendTellDecoder:
    """A decoder with the attention of `attention_config`."""
    torch.manual_seed(seed)
    return far_from_uniform(ShowAttendTellDecoder(attention_config(**options), D, (2, 3), vocabulary))


def far_from_uniform(module: Any) -> Any:
    """Its weights are sampled so wide that a wrong step shows; in double precision, evaluation mode."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return module.double().eval()


# Every kind of decoder, by what its configuration says beside the widths.
KINDS: dict[str, dict[str, Any]] = {
    "soft": {},
    "hard": {"attention": "hard"},
    "draw": {"attention": "draw", "glimpse_size": 2},
    "retina": {"attention": "retina", "glimpse_size": 2},
    "current": {"name": "luong"},
    "current hard": {"name": "luong", "attention": "hard"},
    "current draw": {"name": "luong", "attention": "draw"},
    "current retina": {"name": "luong", "attention": "retina"},
    "current tied": {"name": "luong", "tie_embeddings": True},
    "current multi-head": {"name": "luong", "score": "multi_head", "heads": 4},
    "adaptive": {"name": "adaptive"},
    "adaptive hard": {"name": "adaptive", "attention": "hard", "score": "concat"},
    "up-down": {"name": "up_down"},
    "up-down retina": {"name": "up_down", "attention": "retina"},
    "up-down multi-head": {"name": "up_down", "score": "multi_head", "heads": 4},
    "multi-head": {"score": "multi_head", "heads": 4},
    "multi-head tied": {"score": "multi_head", "heads": 4, "tie_embeddings": True},
    "transformer": {"name": "transformer", "heads": 2},
    "transformer post": {"name": "transformer", "heads": 4, "transformer": TransformerConfig(2, "post", "learned")},
    "transformer grid": {
        "name": "transformer",
        "heads": 2,
        "tie_embeddings": True,
        "transformer": TransformerConfig(layers=2, grid_positions=True),
    },
}


def make_kind(name: str, seed: int = 0) -> Any:
    """A small random decoder of a kind, over 2 x 3 regions [B, 6, D], in double precision, evaluation mode."""
    torch.manual_seed(seed)
    config = DecoderConfig(
        embedding_dim=8, hidden_dim=8 if name == "current tied" else 12, attention_dim=16, **KINDS[name]
    )
    return far_from_uniform(build_decoder(config, D, (2, 3), V))


def make_memory(decoder: ShowAttendTellDecoder, images: int = 3, seed: int = 1) -> Memory:
    torch.manual_seed(seed)
    return decoder.attention.prepare(torch.randn(images, L, D, dtype=torch.double))


def pytorch_s_lstm(inputs: Tensor, hidden: Tensor, bias: Tensor) -> nn.LSTMCell:
    """PyTorch's LSTM with our weights [4H, n] and [4H, H] and bias [4H]."""
    cell = nn.LSTMCell(inputs.shape[1], hidden.shape[1]).double()
    with torch.no_grad():
        cell.weight_ih.copy_(inputs)
        cell.weight_hh.copy_(hidden)
        cell.bias_ih.copy_(bias)
        cell.bias_hh.zero_()
        # PyTorch's gates are input, forget, modulator, output; ours input, forget, output, modulator.
        for weight in cell.parameters():
            i, f, o, g = weight.clone().chunk(4)
            weight.copy_(torch.cat([i, f, g, o]))
    return cell


def check_gradients(decoder: Any, loss: Callable[[], Tensor], count: int, rel: float) -> None:
    """The loss's gradient, in so many places of every weight, against central differences."""
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in decoder.named_parameters():
        values, slope = parameter.data.view(-1), parameter.grad.view(-1)
        for i in torch.randint(len(values), (count,), generator=generator).tolist():
            if name == "embedding.weight" and i < parameter.shape[1]:
                continue  # padding's own row has no gradient by design
            kept, numbers = values[i].item(), []
            for step in (1e-6, -1e-6):
                values[i] = kept + step
                numbers.append(loss().item())
            values[i] = kept
            assert slope[i].item() == pytest.approx((numbers[0] - numbers[1]) / 2e-6, abs=1e-7, rel=rel), name


def saved_and_loaded(decoder: DecoderConfig) -> tuple[Captioner, list[list[Hypothesis]]]:
    """A random captioner with such a decoder, made again from its content; both must write the same captions of the
    same images, which are given, too."""
    torch.manual_seed(0)
    encoder = EncoderConfig(name="small_cnn", finetune_from="all")
    made = Captioner(ImageConfig(32, "squash"), encoder, decoder, Vocabulary([*SPECIALS, "a", "b"])).eval()
    again = Captioner.from_checkpoint(made.to_checkpoint(), "memory").eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    config = SearchConfig(beam_size=2, max_length=4)
    a, b = (search(model.decoder, model.encode(images), config) for model in (made, again))
    assert [[h.words for h in found] for found in a] == [[h.words for h in found] for found in b]
    return again, a


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny shapes file: 40, 10 and 10 images of 32 x 32; its test images lie beside it."""
    folder = tmp_path_factory.mktemp("shapes")
    path = folder / "shapes.h5"
    preprocess(
        ["shapes", "--output", str(path), "--count", "40", "10", "10", "--size", "32", "--save-images", str(folder)]
    )
    return path


@pytest.fixture(scope="session")
def meteor() -> Any:
    """METEOR's program, which takes seconds to start."""
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")
    if shutil.which("java") is None:
        pytest.skip("there is no java here")
    return module.Meteor()


@pytest.fixture
def captioner(shapes: Path) -> Captioner:
    """An untrained captioner for the tiny shapes file."""
    torch.manual_seed(0)
    return Captioner(
        ImageConfig(32, "squash"),
        EncoderConfig(name="small_cnn", finetune_from="all"),
        DecoderConfig(embedding_dim=16, hidden_dim=24, attention_dim=16, state_dropout=0.0, dropout=0.0),
        read_vocabulary(shapes),
    )


def copy_file(source: Path, target: Path, drop_last_word: bool = False, words: list[str] | None = None) -> Path:
    """A copy of a data file, its vocabulary perhaps shorter, or another one."""
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "r+") as file:
        words = words or read_texts(file, "vocabulary")
        del file["vocabulary"]
        kept = words[:-1] if drop_last_word else words
        write_texts(file, "vocabulary", kept)
        manifest = manifest_of(file)
        write_manifest(file, {**manifest, "digests": compute_digests(file)})
    return target


def random_images(count: int, size: int) -> torch.Tensor:
    """Return the same random images uint8 [B, 3, S, S] each time."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not use a network or throw an error."""
    with strict_page(browser, viewport={"width": 1000, "height": 700}) as new:
        yield new


@contextlib.contextmanager
def strict_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A page that must not use a network or throw an error, in a context with these options."""
    context = browser.new_context(offline=True, **options)
    new, errors = context.new_page(), []
    new.on("pageerror", lambda error: errors.append(str(error)))
    new.on("request", lambda request: request.url.startswith(("file:", "data:")) or errors.append(request.url))
    yield new
    context.close()
    assert errors == []
