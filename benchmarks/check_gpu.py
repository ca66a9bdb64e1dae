"""Everything that only a GPU can show, in one command: what is right, then how fast it is.

    python -m benchmarks.check_gpu [correct] [time] [--dry]        (make check-gpu)

Each part takes at most six minutes. A section runs in a process of its own with a limit of time: one that fails, hangs
or crashes does not stop the rest. A line that begins with FAIL is a fault, and then the exit code is 1. --dry does the
same on a CPU at tiny sizes, to try the script where there is no GPU. Needs nothing but requirements.txt and pytest.
"""

import argparse
import copy
import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.train_step import make_batches, make_step
from caption import ops
from caption.config import DecoderConfig, EncoderConfig, SearchConfig, TrainingConfig
from caption.decoders import build_decoder
from caption.device import autocast, set_tf32
from caption.encoders.registry import build_encoder
from caption.ops import cuda_graphs, reference, torch_compile
from caption.search import search
from caption.training import losses

MINUTES = 6  # of a part
KINDS: dict[str, dict[str, object]] = {
    "soft": {},
    "hard": {"attention": "hard"},
    "general, local_p": {"score": "general", "window": "local_p"},
    "multi_head": {"score": "multi_head"},
    "draw": {"attention": "draw"},
    "retina": {"attention": "retina"},
    "luong": {"name": "luong"},
    "adaptive": {"name": "adaptive"},
    "up_down": {"name": "up_down"},
    "transformer": {"name": "transformer"},
}


class Sizes(NamedTuple):
    """The sizes of a model, real ones or tiny ones."""

    width: int  # E, H and A; D is twice as wide
    words: int  # V


class Section(NamedTuple):
    """One section: a function of this module, or a command."""

    name: str
    seconds: int  # at most
    command: list[str]
    lines: int = 80  # of its output, the last


def verdict(name: str, good: bool, detail: str = "") -> None:
    """Print one line, and remember a fault."""
    print(f"{'ok  ' if good else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)
    faults.extend([] if good else [name])


faults: list[str] = []


# Correctness


def environment(device: torch.device, sizes: Sizes) -> None:
    """Versions, and what Triton needs to build its launcher."""
    print(measure.machine(device))
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        print(f"capability {torch.cuda.get_device_capability()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    for name in ("triton", "torchvision", "numpy", "h5py", "pillow", "tyro"):
        found = next((each.version for each in importlib.metadata.distributions(name=name)), "missing")
        print(f"{name} {found}", end="; ")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    print(
        f"C compiler {shutil.which('cc') or shutil.which('gcc')}, Python.h {'found' if header.exists() else 'missing'}"
    )


def kernels(device: torch.device, sizes: Sizes) -> None:
    """Additive attention, and its scores alone, by the fastest backend, against the equations in double precision."""
    shapes = [(2, 3, 20, 16, 24)]
    if device.type == "cuda":
        shapes = [(16, 5, 196, 512, 2048), (16, 1, 196, 512, 2048), (32, 7, 49, 512, 1280), (3, 17, 130, 80, 65)]
    for mode, limit in (("highest", 1e-5), ("high", 2e-3)):  # of fp32 products: exact, or TF32
        torch.set_float32_matmul_precision(mode)
        for b, q, n, a, d in shapes:
            for dtype, close in ((torch.float32, limit), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)):
                torch.manual_seed(0)
                made = [torch.randn(shape, device=device) for shape in ((b, q, a), (b, n, a), (a,), (b, n, d))]
                made[3] = made[3].to(dtype)
                doubles = [tensor.double() for tensor in made]
                for alone in (False, True) if dtype == torch.float32 else (False,):
                    start = time.perf_counter()
                    found = attend_and_gradients(ops, made, alone)
                    measure.seconds(lambda: None, device)
                    took = time.perf_counter() - start
                    expected = attend_and_gradients(reference, doubles, alone)
                    error = max(relative_error(*pair) for pair in zip(found, expected, strict=True))
                    name = f"{'scores' if alone else 'attention'} {mode} {str(dtype)[6:]} B{b} Q{q} L{n} A{a} D{d}"
                    verdict(name, error < close, f"error {error:.1e}, first call {took:.2f} s")
    for operation in ("additive_attention", "additive_scores"):
        chosen = ops.chosen()[operation]
        verdict(f"backend of {operation}", device.type == "cpu" or chosen == ["Triton"], str(chosen))


def attend_and_gradients(functions: Any, tensors: list[Tensor], alone: bool) -> list[Tensor]:
    """Contexts and weights, or the scores alone, and the gradients of query, keys, vector and values."""
    query, keys, vector, values = inputs = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    prepared = functions.prepare_keys(keys)
    if alone:
        results = [functions.additive_scores(query, prepared, vector)]
    else:
        results = [*functions.additive_attention(query, prepared, vector, values, 0.8)]
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(result.shape, generator=generator).to(result) for result in results]
    total = torch.stack([(a * b).sum().double() for a, b in zip(results, factors, strict=True)]).sum()
    return [*results, *torch.autograd.grad(total, inputs[: 3 if alone else 4])]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return ((found.cpu().double() - expected.cpu().double()).norm() / expected.cpu().double().norm().add(1e-9)).item()


def build(kind: str, sizes: Sizes, **more: object) -> torch.nn.Module:
    """A decoder with fixed weights, without dropout."""
    torch.manual_seed(3)
    width = sizes.width
    options = {
        "embedding_dim": width,
        "hidden_dim": width,
        "attention_dim": width,
        "state_dropout": 0.0,
        "dropout": 0.0,
    }
    config = DecoderConfig(**{**options, **KINDS[kind], **more})  # type: ignore[arg-type]
    return build_decoder(config, 2 * width, (7, 7), sizes.words)


def captions(images: int, rows: int, steps: int, words: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random captions [B, Q, T] and their falling lengths [B, Q]."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(steps // 2, steps + 1, (images, rows), generator=generator).sort(1, descending=True).values
    lengths[0, 0] = steps
    lengths = lengths[lengths[:, 0].argsort(descending=True, stable=True)]
    ids = torch.randint(4, words, (images, rows, steps), generator=generator)
    ids[torch.arange(steps) == lengths.unsqueeze(-1) - 1] = 2
    return ids.masked_fill(torch.arange(steps) >= lengths.unsqueeze(-1), 0), lengths


def loss_of(
    decoder: torch.nn.Module, features: Tensor, ids: Tensor, lengths: Tensor, precision: str, sampled: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss of one step, and the locations that hard attention sampled."""
    training = TrainingConfig(doubly_stochastic=1.0)
    rows = torch.ones(lengths.shape, dtype=torch.bool, device=features.device) if sampled else None
    with autocast(features.device, precision):
        decoded = decoder(decoder.prepare(features)._replace(sample_rows=rows), ids, lengths)  # type: ignore[operator]
    loss = losses.total_loss(losses.compute_terms(losses.LossInputs(decoded), training), training)
    if sampled:
        return loss - decoded.sample.log_probability.mean(), decoded.sample.location
    return loss, None


def decoders(device: torch.device, sizes: Sizes) -> None:
    """One training step of every kind of decoder: this device against the CPU's equations, in fp32 without TF32."""
    set_tf32(device, allowed=False)
    ids, lengths = captions(4, 3, 9, sizes.words)
    features = torch.randn(4, 49, 2 * sizes.width, generator=torch.Generator().manual_seed(1))
    for kind in KINDS:
        plain = build(kind, sizes).train()
        there = copy.deepcopy(plain).to(device)
        with ops.use("reference"):
            expected, _ = loss_of(plain, features, ids, lengths, "fp32", False)
            expected.backward()  # type: ignore[no-untyped-call]
        found, _ = loss_of(there, features.to(device), ids.to(device), lengths, "fp32", False)
        found.backward()  # type: ignore[no-untyped-call]
        pairs = zip(plain.parameters(), there.parameters(), strict=True)
        gradients = [(a.grad, b.grad.cpu()) for a, b in pairs if a.grad is not None and b.grad is not None]
        whole = torch.stack([a.norm() for a, _ in gradients]).norm()  # some gradients are 0 but for rounding
        error = max(((a - b).norm() / (a.norm() + 1e-3 * whole)).item() for a, b in gradients)
        good = abs(expected.item() - found.item()) < 1e-3 and error < 1e-2
        verdict(f"CPU = {device.type}, {kind}", good, f"loss {expected:.5f} {found:.5f}, worst gradient {error:.1e}")


def train(kind: str, sizes: Sizes, device: torch.device, replay: bool, precision: str) -> tuple[Tensor, list[Tensor]]:
    """Losses of 24 steps of three shapes with Adam, by CUDA graphs or step by step, and hard attention's locations."""
    decoder = build(kind, sizes).to(device).train()
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-3, fused=True)
    found, locations = [], []
    with mock.patch.object(cuda_graphs, "records", lambda _: replay):
        torch.manual_seed(5)
        for step in range(24 if device.type == "cuda" else 6):
            ids, lengths = captions(4, 3, (9, 6, 13)[step % 3], sizes.words, step % 3)
            generator = torch.Generator().manual_seed(step)
            features = torch.randn(4, 49, 2 * sizes.width, generator=generator).to(device)
            loss, sampled = loss_of(decoder, features, ids.to(device), lengths, precision, kind == "hard")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
            optimizer.step()
            found.append(loss.detach())
            locations += [] if sampled is None else [sampled.flatten()[:50].clone()]
    return torch.stack(found).cpu(), locations


def graphs(device: torch.device, sizes: Sizes) -> None:
    """Training by CUDA graphs is training step by step; locations differ from replay to replay."""
    replay = device.type == "cuda"
    for kind in ("soft", "luong", "adaptive", "up_down", "multi_head", "general, local_p"):
        for precision in ("fp32", "bf16") if replay else ("fp32",):
            for compiled in (False, True) if replay else (False,):
                torch_compile.switch(compiled)
                found, _ = train(kind, sizes, device, replay, precision)
                torch_compile.switch(False)
                expected, _ = train(kind, sizes, device, False, precision)
                error = (found - expected).abs().max().item()
                name = f"graphs{' + torch.compile' if compiled else ''} = steps, {kind} {precision}"
                good = error < (2e-3 if precision == "fp32" else 5e-2)
                verdict(name, good, f"largest difference {error:.1e}, last loss {found[-1]:.4f} {expected[-1]:.4f}")
    found, locations = train("hard", sizes, device, replay, "fp32")
    fresh = not any(torch.equal(locations[i], locations[i + 3]) for i in range(3))
    verdict("hard attention samples anew in every replay", fresh and bool(found.isfinite().all()))


def waits(device: torch.device, sizes: Sizes) -> None:
    """Count the lines at which the host waits for the GPU: a training step at none, a search at every eighth word."""
    ids, lengths = captions(8, 5, 12, sizes.words)
    there, features = ids.to(device), torch.randn(8, 49, 2 * sizes.width, device=device)
    for kind in KINDS:
        decoder = build(kind, sizes).to(device).train()
        sampled = getattr(decoder, "stochastic", False)

        def step(decoder: torch.nn.Module = decoder, sampled: bool = sampled) -> None:
            loss_of(decoder, features, there, lengths, "bf16", sampled)[0].backward()  # type: ignore[no-untyped-call]

        found = count_waits(step, device)
        verdict(f"a training step of {kind} does not wait", not found, str(dict(found) or "nowhere"))
        decoder.eval()
        for method in ("beam", "sample"):
            config = SearchConfig(beam_size=3, max_length=20, method=method)  # type: ignore[arg-type]

            @torch.inference_mode()
            def write(decoder: torch.nn.Module = decoder, config: SearchConfig = config) -> None:
                search(decoder, decoder.prepare(features), config)  # type: ignore[arg-type, operator]

            if kind in ("soft", "transformer"):
                print(f"     waits of 20 words by {method}, {kind}: {dict(count_waits(write, device))}", flush=True)


def count_waits(work: Callable[[], object], device: torch.device) -> Counter[str]:
    """Return how often each line of the product waits for the GPU, in the third run of the work."""
    found: Counter[str] = Counter()
    for _ in range(2):
        work()
    if device.type == "cpu":
        return found

    def note(*_: object, **__: object) -> None:
        frames = [frame for frame in traceback.extract_stack() if f"{os.sep}caption{os.sep}" in frame.filename]
        found[f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"] += 1

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(), mock.patch.object(warnings, "showwarning", note):
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found


# Times


def steps(device: torch.device, sizes: Sizes) -> None:
    """Wall time of a training step beside the time that the GPU is busy, and its kernels, at three sizes of batch."""
    for selection in ("bf16", "bf16 hard"):
        for images in (16, 32, 64):
            batch = make_batches(1, images=images)[0]
            features = torch.randn(images, 196, 2048, device=device)
            for replay, compiled in ((False, False), (True, False), (True, True)):
                torch_compile.switch(compiled)
                with mock.patch.object(cuda_graphs, "records", lambda _, replay=replay: replay):
                    step = functools.partial(make_step(selection, 2048, device, images), features, *batch)
                    how = ("steps", "graphs", "graphs + compile")[replay + compiled]
                    print(f"{selection}, {images} images x 5, {how}: {wall_and_busy(step, device)}", flush=True)
            torch_compile.switch(False)


def wall_and_busy(work: Callable[[], object], device: torch.device, count: int = 20) -> str:
    """Milliseconds of the work, how long the GPU is busy meanwhile, how many kernels it runs, and the peak memory."""
    for _ in range(4):
        work()
    torch.cuda.reset_peak_memory_stats()
    wall = measure.seconds(lambda: [work() for _ in range(count)], device) / count
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        measure.seconds(lambda: [work() for _ in range(3)], device)
    events = [event for event in profile.events() or [] if event.device_type.name == "CUDA"]
    busy = sum(event.device_time_total for event in events) / 3e3
    peak = torch.cuda.max_memory_allocated() / 1e9
    return f"wall {1e3 * wall:.1f} ms, GPU busy {busy:.1f} ms, {len(events) // 3} kernels, peak {peak:.1f} GB"


def encoder(device: torch.device, sizes: Sizes) -> None:
    """ResNet-101 up to layer3, 32 images a batch."""
    made = build_encoder(EncoderConfig("resnet101", layer="layer3"), 224).to(device).eval()
    images = torch.randint(0, 255, (32, 3, 224, 224), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def encode(precision: str) -> None:
        with autocast(device, precision):
            made(images)

    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        for precision in ("fp32", "bf16"):
            figures = wall_and_busy(functools.partial(encode, precision), device, 10)
            print(f"resnet101 layer3, 32 images, {precision}, cudnn.benchmark {benchmark}: {figures}", flush=True)


FUNCTIONS: dict[str, Callable[[torch.device, Sizes], None]] = {
    each.__name__: each for each in (environment, kernels, decoders, graphs, waits, steps, encoder)
}


# The parts


def correct(folder: Path, device: str) -> list[Section]:
    """The sections that show what is right: the tests, models against the CPU, and the programs as a user runs them."""
    python, dry = sys.executable, device == "cpu"
    tests = ["tests/ops/test_exp_tanh.py"] if dry else ["tests/ops", "tests/test_device.py"]
    counts = ["60", "16", "16"] if dry else ["400", "60", "60"]
    shapes, common = str(folder / "shapes.h5"), ["--device", device, "--training.epochs", "2"]

    def training(preset: str, *more: str) -> Section:
        name = " ".join([preset, *more]).replace("training.", "")
        output = ["--output", str(folder / f"run-{preset}{len(more)}")]
        return Section(
            f"train {name}", 75, [python, "train.py", preset, "--data", shapes, *output, *common, *more], lines=5
        )

    soft, image = folder / "run-shapes-soft0", str(folder / "images")
    one = [python, "caption_image.py", "--checkpoint", str(soft / "best.pt"), "--image", image, "--device", device]
    bare = ["env", f"TRITON_CACHE_DIR={folder / 'no-cache'}", "CC=/nonexistent/cc"]
    return [
        *(functional("environment", 60), Section("tests", 120, [python, "-m", "pytest", "-q", "--maxfail=5", *tests])),
        *(functional("kernels", 90), functional("decoders", 60), functional("graphs", 120), functional("waits", 60)),
        Section(
            "preprocess",
            60,
            [python, "-m", "preprocess", "shapes", "--output", shapes, "--count", *counts, "--save-images", image],
            lines=3,
        ),
        training("shapes-soft"),
        training("shapes-soft", "--training.no-cuda-graphs"),
        training("shapes-soft", "--training.compile", "--training.precision", "fp16"),
        training("shapes-hard", "--training.reinforce.first-epoch", "1"),
        training("shapes-transformer"),
        training("shapes-self-critical", "--training.self-critical.first-epoch", "2"),
        Section("resume, with nothing left to do", 40, [python, "train.py", "--resume", str(soft)], lines=3),
        Section(
            "evaluate",
            60,
            [python, "evaluate.py", "--checkpoint", str(soft / "best.pt"), "--data", shapes, "--split", "test",
             "--beam-size", "3", "--no-java", "--device", device],
            lines=9,
        ),
        *(
            Section(
                f"evaluate {study[0]}",
                60,
                [python, "evaluate.py", "--checkpoint", str(soft / "best.pt"), "--data", shapes, "--split", "test",
                 "--no-java", "--device", device, *study],
                lines=3,
            )
            for study in (["--knock-out", "all"], ["--faithfulness"])
        ),
        Section("caption_image", 40, one, lines=2),
        Section("caption_image without a C compiler", 40, [*bare, *one], lines=3),
    ]  # fmt: skip


def times(folder: Path, device: str) -> list[Section]:
    """The sections that measure; on a GPU alone."""
    if device == "cpu":
        return []
    python = [sys.executable, "-m"]
    return [
        functional("environment", 60),
        functional("steps", 150),
        functional("encoder", 60),
        Section("benchmarks.attend", 50, [*python, "benchmarks.attend", "--device", device, "--rounds", "5"]),
        Section(
            "benchmarks.train_step",
            100,
            [*python, "benchmarks.train_step", "--device", device, "--rounds", "3", "--width", "2048", "--profile"],
        ),
        Section("benchmarks.search", 50, [*python, "benchmarks.search", "--device", device, "--rounds", "3"]),
    ]


def functional(name: str, seconds: int) -> Section:
    """A function of this module as a section."""
    return Section(name, seconds, [sys.executable, "-m", "benchmarks.check_gpu", "--section", name])


def run(section: Section, seconds: float, more: list[str]) -> bool:
    """Run a section for at most so long, print the end of its output, and return whether it succeeded."""
    most = min(section.seconds, seconds)
    print(f"\n##### {section.name} (at most {most:.0f} s)", flush=True)
    start = time.monotonic()
    command = section.command + (more if "--section" in section.command else [])
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(command, stdout=output, stderr=output, timeout=most, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 124
        output.seek(0)
        print("".join(output.readlines()[-section.lines :]), end="")
    took = f"exit code {code} after {time.monotonic() - start:.0f} s"
    print(f"{'FAIL' if code else 'ok  '} {section.name}: {took}", flush=True)
    return code == 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="correct|time", default=["correct", "time"])
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--section", choices=FUNCTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if unknown := set(args.parts) - {"correct", "time"}:
        parser.error(f"a part is {unknown.pop()!r}, but must be correct or time")
    if not args.dry and not torch.cuda.is_available():
        parser.error("there is no GPU; --dry tries the script on the CPU")
    device = torch.device("cpu" if args.dry else "cuda")
    if args.section:
        FUNCTIONS[args.section](device, Sizes(32, 60) if args.dry else Sizes(512, 9490))
        return 1 if faults else 0
    failed = []
    with tempfile.TemporaryDirectory() as name:
        for part in args.parts:
            end = time.monotonic() + 60 * MINUTES
            for section in (correct if part == "correct" else times)(Path(name), device.type):
                left = end - time.monotonic()
                if left < 5 or not run(section, left, ["--dry"] if args.dry else []):
                    failed.append(section.name)
    print(f"\n{'all sections passed' if not failed else 'failed, or without time: ' + ', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
