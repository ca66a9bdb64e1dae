"""What attention does for captions of shapes: every variant with the same budget, over some seeds, in one table.

    python -m benchmarks.attention [--data data/shapes.h5] [--output runs/attention] [--epochs 8] [--seeds 1 2]

Trains and scores what is not there yet, so that it goes on where it was interrupted; then prints the table of all that
is there. Two trainings at a time (`--jobs`), at one thread each. Means over the seeds, and their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VARIANTS = ("soft", "dot", "general", "scaled-dot", "local-m", "local-p", "hard", "draw", "retina")
COLUMNS: dict[str, Callable[[dict[str, float]], float]] = {
    "BLEU-4": lambda scores: scores["BLEU-4"],
    "truthful, %": lambda scores: scores["truthful"],
    "pointing, %": lambda scores: scores["pointing"],
    "attention correctness, %": lambda scores: scores["attention correctness"],
    "entropy, nats": lambda scores: scores["attention entropy"],
    "captions/s in training": lambda scores: scores["captions_per_second"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--output", type=Path, default=Path("runs/attention"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if not Path(args.data).exists():
        subprocess.run([sys.executable, "-m", "preprocess", "shapes", "--output", args.data], check=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        for seed in args.seeds:
            for variant in args.variants:
                pool.submit(_run, args.output / f"{variant}-{seed}", variant, seed, args.data, args.epochs)
    print("| preset | seeds | " + " | ".join(COLUMNS) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for variant in args.variants:
        folders = [args.output / f"{variant}-{seed}" for seed in args.seeds]
        found = [_scores(folder) for folder in folders if (folder / "scores_test.json").exists()]
        if found:
            cells = [_cell([column(scores) for scores in found]) for column in COLUMNS.values()]
            print(f"| `shapes-{variant}` | {len(found)} | " + " | ".join(cells) + " |")


def _run(folder: Path, variant: str, seed: int, data: str, epochs: int) -> None:
    """Train and score, unless it was done; a training that was interrupted goes on."""
    if (folder / "scores_test.json").exists():
        return
    train = ["train.py", "--resume", str(folder)]
    if not (folder / "last.pt").exists():
        train = ["train.py", f"shapes-{variant}", "--data", data, "--output", str(folder), "--training.seed", str(seed)]
        train += ["--training.epochs", str(epochs)]
    instances = str(Path(data).with_name(Path(data).stem + "_instances.json"))
    score = ["evaluate.py", "--checkpoint", str(folder / "best.pt"), "--data", data, "--split", "test", "--no-java"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        for command in (train, [*score, "--beam-size", "3", "--grounding", instances]):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *command], stdout=log, stderr=log, env=environment, check=True)
    print(f"{folder}: done", file=sys.stderr)


def _scores(folder: Path) -> dict[str, float]:
    scores: dict[str, float] = json.loads((folder / "scores_test.json").read_text())["scores"]
    epochs = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {**scores, "captions_per_second": statistics.median(e["train"]["captions_per_second"] for e in epochs)}


def _cell(values: list[float]) -> str:
    """Mean and range."""
    mean = f"{statistics.mean(values):.{0 if min(values) >= 100 else 2 if max(values) < 5 else 1}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g}-{max(values):.4g})"


if __name__ == "__main__":
    main()
