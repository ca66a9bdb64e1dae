"""Trainings on shapes that a benchmark compares: trained, scored, kept as lines of a file, and timed."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.measure import git
from caption.captioner import Captioner
from caption.config import Config
from caption.data import dataset, hdf5
from caption.training import loop, schedule
from caption.training.self_critical import CaptionSampler
from caption.training.state import TrainState

# The scores that are kept, and the heads of their columns.
SCORES = {
    "BLEU-4": "BLEU-4",
    "truthful": "truthful, %",
    "pointing": "pointing, %",
    "attention correctness": "attention correctness, %",
    "attention entropy": "entropy, nats",
}
STUDIED = {  # of evaluate.py --knock-out and --faithfulness
    "truthful, even attention": "truthful with even attention, %",
    "fall, attention": "fall without the 4 most attended regions, nats",
    "fall, random": "without 4 others",
}
KNOCK_OUTS = "knock-outs"  # the verdict on the attention, beside the scores
STEPS = 12  # timed, of each configuration


class Run(NamedTuple):
    """A training, and by what its line is known again."""

    key: dict[str, Any]  # the line begins with it
    folder: Path
    preset: str
    flags: Sequence[str]  # of train.py, beside data and output
    study: bool = False  # also whether captions depend on attention


def make_data(source: str) -> None:
    """Make the data set of shapes unless it is there."""
    if not Path(source).exists():
        subprocess.run([sys.executable, "-m", "preprocess", "shapes", "--output", source], check=True)


def lines(results: Path, **key: Any) -> list[dict[str, Any]]:
    """Return what was measured with these values."""
    found = map(json.loads, results.read_text().splitlines() if results.exists() else [])
    return [line for line in found if all(line.get(name) == value for name, value in key.items())]


def keep_line(results: Path, key: dict[str, Any], figures: dict[str, Any]) -> None:
    """Add a line: the key, the commit that was measured, the version of PyTorch and the figures."""
    line = {**key, "commit": git("rev-parse", "--short", "HEAD"), "torch": torch.__version__, **figures}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


def complete(results: Path, runs: Sequence[Run], source: str, jobs: int) -> None:
    """Train and score the runs that have no line yet, so many at a time, at one thread each."""
    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(_measure, results, run, source) for run in runs if not lines(results, **run.key)]
    for each in pending:
        each.result()  # tells of what failed


def _measure(results: Path, run: Run, source: str) -> None:
    """Train and score, and keep a line of it; a training that was interrupted goes on."""
    train = ["train.py", "--resume", str(run.folder)]
    if not (run.folder / "last.pt").exists():
        train = ["train.py", run.preset, "--data", source, "--output", str(run.folder), *run.flags]
    score = ["evaluate.py", "--checkpoint", str(run.folder / "best.pt"), "--data", source, "--split", "test"]
    score += ["--no-java", "--beam-size", "3"]
    score += ["--instances", str(Path(source).with_name(Path(source).stem + "_instances.json"))]
    studies = [[*score, "--knock-out", "uniform"], [*score, "--faithfulness"]] if run.study else []
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with run.folder.with_name(run.folder.name + ".log").open("a") as log:
        for command in (train, score, *studies):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *command], stdout=log, stderr=log, env=environment, check=True)
    scores = json.loads((run.folder / "scores_test.json").read_text())["scores"]
    kept, verdict = {name: scores[name] for name in SCORES}, {}
    if run.study:
        knocked = json.loads((run.folder / "knock_out_test.json").read_text())
        falls = json.loads((run.folder / "faithfulness_test.json").read_text())["attention against random"]
        even = next(each for each in knocked["differences"]["uniform"] if each["name"] == "truthful")
        kept |= dict(zip(STUDIED, (even["second"], falls["second"], falls["first"]), strict=True))
        verdict = {KNOCK_OUTS: knocked["verdict"]["word"]}
    keep_line(results, run.key, {"scores": {name: round(score, 3) for name, score in kept.items()}, **verdict})
    print(f"{run.folder}: done", file=sys.stderr)


def step_seconds(configs: Mapping[str, Config], source: str) -> dict[str, float]:
    """Return the median processor time of a training step of each configuration, taken in turn on the same batches, on
    one thread; other programs on the machine hardly change it."""
    torch.set_num_threads(1)
    split = dataset.CaptionDataset(source, "train")
    steps = {name: _make_step(config, split) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    rows, batches = dataset.training_batches(split, "mixed", 16, 1)  # as the presets do
    loader = dataset.build_loader(rows, batches)
    for number, batch in zip(range(STEPS + 2), loader, strict=False):
        for name, step in steps.items():
            begun = time.process_time()
            step(batch)
            if number >= 2:  # the first ones reserve memory
                times[name].append(time.process_time() - begun)
    return {name: statistics.median(each) for name, each in times.items()}


def _make_step(config: Config, split: dataset.CaptionDataset) -> Callable[[dataset.Batch], None]:
    """One step of training in the preset's last epoch, in which locations or captions are sampled, if they ever are."""
    image, vocabulary = hdf5.read_image_config(split.path), hdf5.read_vocabulary(split.path)
    captioner = Captioner(image, config.encoder, config.decoder, vocabulary)
    optimizer = schedule.build_optimizer(captioner, config.training)
    state = TrainState(epoch=config.training.epochs)
    critical = config.training.self_critical
    sampler = CaptionSampler(critical, split, config.search.max_length) if critical.first_epoch else None

    def step(batch: dataset.Batch) -> None:
        loader: Any = [batch]
        loop.train_epoch(captioner, loader, optimizer, config.training, state, 10**6, caption_sampler=sampler)

    return step


def row(name: str, found: Sequence[dict[str, Any]], scores: Iterable[str], *more: str) -> str:
    """Return a row of a table: the number of seeds, the mean and range of each of `scores`, and further cells."""
    cells = [cell([line["scores"][score] for line in found]) for score in scores]
    return "| " + " | ".join([name, str(len(found)), *cells, *more]) + " |"


def header(*names: str) -> str:
    """Return the head of a table."""
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def cell(values: Sequence[float]) -> str:
    """Mean and range; a dash where nothing was measured."""
    if not values:
        return "–"
    digits = 2 if max(values) < 5 else 1
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low}-{high})"
