"""What attention does for captions of shapes: every variant with the same budget, over some seeds, in one table.

    python -m benchmarks.attention [--data data/shapes.h5] [--output runs/attention] [--epochs 3] [--seeds 1 2]

Trains and scores what has no line in benchmarks/attention.jsonl yet, so that it goes on where it was interrupted, on
another machine, too; then measures the speed of training, all variants in turn in this process (a ratio, so that other
machines agree), and prints the table. Two trainings at a time (`--jobs`), at one thread each. Means over the seeds, and
their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import git
from caption.captioner import Captioner
from caption.config.presets import PRESETS
from caption.data import dataset, hdf5
from caption.training import loop, schedule
from caption.training.self_critical import CaptionSampler
from caption.training.state import TrainState

VARIANTS = (
    "soft", "dot", "general", "scaled-dot", "local-m", "local-p", "hard", "luong", "adaptive", "up-down",
    "multi-head", "transformer", "draw", "retina", "self-critical",
)  # fmt: skip
RESULTS = Path(__file__).with_name("attention.jsonl")
KEPT = ("BLEU-4", "truthful", "pointing", "attention correctness", "attention entropy")
COLUMNS = ("BLEU-4", "truthful, %", "pointing, %", "attention correctness, %", "entropy, nats")
STEPS = 12  # timed, of each variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--output", type=Path, default=Path("runs/attention"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if not Path(args.data).exists():
        subprocess.run([sys.executable, "-m", "preprocess", "shapes", "--output", args.data], check=True)
    known = {(each["variant"], each["seed"]) for each in results(args.epochs)}
    with ThreadPoolExecutor(args.jobs) as pool:
        wanted = [(variant, seed) for seed in args.seeds for variant in args.variants if (variant, seed) not in known]
        runs = [pool.submit(measure, args.output, *each, args.data, args.epochs) for each in wanted]
    for run in runs:
        run.result()  # tells of what failed
    speeds = relative_speeds(args.variants, args.data)
    print("| preset | seeds | " + " | ".join(COLUMNS) + " | speed of training, soft = 1 |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    for variant in args.variants:
        found = [each for each in results(args.epochs) if each["variant"] == variant and each["seed"] in args.seeds]
        cells = [cell([each["scores"][name] for each in found]) for name in KEPT]
        print(f"| `shapes-{variant}` | {len(found)} | " + " | ".join(cells) + f" | {speeds[variant]:.2f} |")


def results(epochs: int) -> list[dict[str, Any]]:
    """What was measured with this budget."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [each for each in map(json.loads, lines) if each["epochs"] == epochs]


def measure(output: Path, variant: str, seed: int, source: str, epochs: int) -> None:
    """Train and score, and keep a line of it; a training that was interrupted goes on."""
    folder = output / f"{variant}-{seed}"
    train = ["train.py", "--resume", str(folder)]
    if not (folder / "last.pt").exists():
        train = ["train.py", f"shapes-{variant}", "--data", source, "--output", str(folder)]
        train += ["--training.seed", str(seed), "--training.epochs", str(epochs)]
    instances = str(Path(source).with_name(Path(source).stem + "_instances.json"))
    score = ["evaluate.py", "--checkpoint", str(folder / "best.pt"), "--data", source, "--split", "test", "--no-java"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        for command in (train, [*score, "--beam-size", "3", "--instances", instances]):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *command], stdout=log, stderr=log, env=environment, check=True)
    scores = json.loads((folder / "scores_test.json").read_text())["scores"]
    commit = git("rev-parse", "--short", "HEAD")
    line = {"variant": variant, "seed": seed, "epochs": epochs, "commit": commit, "torch": torch.__version__}
    with RESULTS.open("a") as file:
        file.write(json.dumps({**line, "scores": {name: round(scores[name], 3) for name in KEPT}}) + "\n")
    print(f"{folder}: done", file=sys.stderr)


def relative_speeds(variants: tuple[str, ...], source: str) -> dict[str, float]:
    """Captions a second of every variant over those of soft: medians of steps on the same batches, taken in turn."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    split = dataset.CaptionDataset(source, "train")
    steps = {name: make_step(PRESETS[f"shapes-{name}"][1], split, device) for name in {"soft", *variants}}
    times: dict[str, list[float]] = {name: [] for name in steps}
    rows, batches = dataset.training_batches(split, "mixed", 16, 1)  # as the presets do
    loader = dataset.build_loader(rows, batches)
    for number, batch in zip(range(STEPS + 2), loader, strict=False):
        for name, step in steps.items():
            begun = time.perf_counter()
            step(batch)
            if number >= 2:  # the first ones reserve memory
                times[name].append(time.perf_counter() - begun)
    soft = statistics.median(times["soft"])
    return {name: soft / statistics.median(times[name]) for name in steps}


def make_step(config: Any, split: dataset.CaptionDataset, device: torch.device) -> Callable[[dataset.Batch], None]:
    """One step of training in the preset's last epoch, in which locations or captions are sampled, if they ever are."""
    source = split.path
    image, vocabulary = hdf5.read_image_config(source), hdf5.read_vocabulary(source)
    captioner = Captioner(image, config.encoder, config.decoder, vocabulary)
    optimizer = schedule.build_optimizer(captioner, config.training)
    state = TrainState(epoch=config.training.epochs)
    critical = config.training.self_critical
    sampler = CaptionSampler(critical, split, config.search.max_length) if critical.first_epoch else None

    def step(batch: dataset.Batch) -> None:
        loader: Any = [batch]
        loop.train_epoch(captioner, loader, optimizer, config.training, state, 10**6, caption_sampler=sampler)

    return step


def cell(values: list[float]) -> str:
    """Mean and range; a dash where nothing was measured."""
    if not values:
        return "–"
    digits = 2 if max(values) < 5 else 1
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low}-{high})"


if __name__ == "__main__":
    main()
