"""What the measurements share: time, memory, the machine's own rate, and a line for history.jsonl."""

import argparse
import ctypes
import functools
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from caption.device import choose_device, is_emulated, tune

HISTORY = Path(__file__).with_name("history.jsonl")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that the scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="add a line to history.jsonl")
    return parser


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, torch.device]:
    """Read the command line, and make everything ready to measure."""
    args = parser.parse_args()
    device = choose_device(args.device)
    tune(device)
    torch.manual_seed(0)
    return args, device


def precisions(device: torch.device) -> list[str]:
    """fp32 and bf16, or fp32 alone where bf16 is emulated: the measurement would not come back."""
    if not is_emulated("bf16", device):
        return ["fp32", "bf16"]
    print("bf16 is left out: this processor has no instructions for it")
    return ["fp32"]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes, on a GPU until it is done."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in so many rounds after three to warm up, until memory need not be asked of the system any more:
    a machine that slows down slows them all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(-3, rounds):
        for name, work in works.items():
            taken = seconds(work, device)
            if round_ >= 0:
                times[name].append(taken)
    return times


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of four shapes of matrix products."""
    best = 0.0
    for m, n, k in ((2048, 2048, 2048), (4096, 4096, 4096), (6272, 512, 2048), (12544, 512, 2048)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        product = functools.partial(torch.matmul, a, b)
        product()
        best = max(best, 2 * m * n * k / statistics.median(seconds(product, device) for _ in range(5)))
    return best


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Megabytes that the work holds at most beyond what was held before; on Linux, or a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or what was freed counts as held
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    held = status("VmRSS")
    work()
    return status("VmHWM") - held


def top_ten(work: Callable[[], object], device: torch.device) -> str:
    """The operations that take longest themselves, without what they call; the second time, in memory that is there."""
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        seconds(work, device)
    events = profile.key_averages()
    if device.type == "cuda":  # kernels alone: what calls them is told with their time, too
        kernels = [each for each in events if each.device_type.name == "CUDA" and not each.is_user_annotation]
        own = [(each.self_device_time_total, each) for each in kernels]
    else:
        own = [(each.self_cpu_time_total, each) for each in events]
    whole = sum(taken for taken, _ in own)
    return "\n".join(
        f"{each.key[:60]:62}{each.count:7} x {taken / each.count:9.0f} us {taken / whole:7.1%}"
        for taken, each in sorted(own, key=lambda pair: -pair[0])[:10]
    )


def status(name: str) -> float:
    """Of this process, in megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def spread(values: list[float], scale: float = 1e3) -> str:
    """Median, least and most; seconds as milliseconds."""
    return f"{scale * statistics.median(values):.0f} ({scale * min(values):.0f}-{scale * max(values):.0f})"


def machine(device: torch.device) -> str:
    """What it was measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), model)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"torch {torch.__version__}, {device.type}, {where}; {model}"


def git(*arguments: str) -> str:
    """What a command of git says of this repository; nothing where there is none: a measurement is not lost for it."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=HISTORY.parent)
    return done.stdout.strip()


def keep(script: str, device: torch.device, figures: dict[str, Any]) -> None:
    """Add a line to history.jsonl: what was measured, of which commit."""
    commit = git("rev-parse", "--short", "HEAD")
    if git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude,top)benchmarks/{HISTORY.name}"):
        commit += "-dirty"
    line = {"script": script, "commit": commit, "machine": machine(device), **figures}
    with HISTORY.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"kept in {HISTORY.name}")
