"""What attention does for captions of shapes: every variant with the same budget, over some seeds, in one table.

    python -m benchmarks.attention [--data data/shapes.h5] [--output runs/attention] [--epochs 3] [--seeds 1 2]

Trains and scores what has no line in benchmarks/attention.jsonl yet, so that it goes on where it was interrupted, on
another machine, too; then measures the speed of training, all variants in turn in this process (a ratio, so that other
machines agree), and prints the table. Two trainings at a time (`--jobs`), at one thread each. Means over the seeds, and
their range.
"""

import argparse
from pathlib import Path

from benchmarks import runs
from caption.config.presets import PRESETS

VARIANTS = (
    "soft", "dot", "general", "scaled-dot", "local-m", "local-p", "hard", "luong", "adaptive", "up-down",
    "multi-head", "transformer", "draw", "retina", "self-critical",
)  # fmt: skip
RESULTS = Path(__file__).with_name("attention.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/shapes.h5")
    parser.add_argument("--output", type=Path, default=Path("runs/attention"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    runs.make_data(args.data)
    wanted = [
        runs.Run(
            {"variant": variant, "seed": seed, "epochs": args.epochs},
            args.output / f"{variant}-{seed}",
            f"shapes-{variant}",
            ["--training.seed", str(seed), "--training.epochs", str(args.epochs)],
            study=True,
        )
        for seed in args.seeds
        for variant in args.variants
    ]
    runs.complete(RESULTS, wanted, args.data, args.jobs)
    seconds = runs.step_seconds({name: PRESETS[f"shapes-{name}"][1] for name in {"soft", *args.variants}}, args.data)
    columns = runs.SCORES | runs.STUDIED
    print(runs.header("preset", "seeds", *columns.values(), runs.KNOCK_OUTS, "speed of training, soft = 1"))
    for variant in args.variants:
        found = [line for run in wanted if run.key["variant"] == variant for line in runs.lines(RESULTS, **run.key)]
        verdicts = ", ".join(dict.fromkeys(line[runs.KNOCK_OUTS] for line in found)) or "–"
        speed = f"{seconds['soft'] / seconds[variant]:.2f}"
        print(runs.row(f"`shapes-{variant}`", found, columns, verdicts, speed))


if __name__ == "__main__":
    main()
