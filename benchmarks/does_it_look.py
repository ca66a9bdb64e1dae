"""The figures of docs/does-it-look.md, from what evaluate.py and benchmarks.attention wrote.

    python -m benchmarks.does_it_look "shapes-soft=runs/attention/soft-1/knock_out_test.json" ... [--output docs]

does-it-look-knock-outs.png: what is left of each model's CIDEr-D under each knock-out of its file.
does-it-look-truth.png: of every run of benchmarks/attention.jsonl, how often its captions are true, as trained and with
even attention, by how often attention points at the object that a word names.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import attention, runs
from caption.evaluation.knock_out import JUDGED
from caption.visualise.figures import save_figure

MARKERS = {
    "transformer": "^", "multi-head": "s", "draw": "D", "retina": "v", "hard": "*", "local-m": "P", "local-p": "X",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=knock_out_SPLIT.json")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args()
    pairs = [model.split("=", 1) for model in args.models]
    contents = {name: json.loads(Path(path).read_text()) for name, path in pairs}
    draw_knock_outs(contents, args.output / "does-it-look-knock-outs.png")
    draw_truth(runs.lines(attention.RESULTS, epochs=3), args.output / "does-it-look-truth.png")


def draw_knock_outs(contents: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw what is left of the score under each knock-out, in percent with its interval: a line for each model."""
    names = list(next(iter(contents.values()))["differences"])
    figure = Figure(figsize=(9, 0.55 * len(contents) + 1.2), layout="constrained")
    axis = figure.subplots()
    for row, content in enumerate(contents.values()):
        for number, name in enumerate(names):
            found = next(each for each in content["differences"][name] if each["name"] == JUDGED)
            trained = found["first"]
            left, low, high = (
                100 * value / trained for value in (found["second"], *(trained + found[end] for end in ("low", "high")))
            )
            place = row + 0.1 * (number - (len(names) - 1) / 2)
            axis.plot([low, high], [place, place], color=f"C{number}", linewidth=1.5)
            axis.plot(left, place, "o", color=f"C{number}", markersize=5, label=name if row == 0 else None)
    axis.axvline(100, color="black", linewidth=0.8)
    axis.set(xlabel=f"{JUDGED} left, % of that as trained", xlim=(0, None))
    axis.set_yticks(range(len(contents)), list(contents))
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    save_figure(figure, path)


def draw_truth(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the truth of captions over pointing, a point for each run: as trained, and with even attention."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    variants = [name for name in attention.VARIANTS if any(line["variant"] == name for line in lines)]
    for axis, score, title in zip(
        panels, ("truthful", "truthful, even attention"), ("as trained", "with even attention"), strict=True
    ):
        for number, variant in enumerate(variants):
            found = [line["scores"] for line in lines if line["variant"] == variant]
            axis.scatter(
                [each["pointing"] for each in found],
                [each[score] for each in found],
                color=f"C{number % 10}",
                marker=MARKERS.get(variant, "o"),
                alpha=0.8,
                label=variant if axis is panels[0] else None,
            )
        axis.set(title=title, xlabel="pointing, %")
        axis.grid(alpha=0.3)
    panels[0].set(ylabel="true captions, %", ylim=(0, 102))
    figure.legend(loc="outside right center", frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
