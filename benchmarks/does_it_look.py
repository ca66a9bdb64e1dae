"""The tables and figures of docs/does-it-look.md, from what evaluate.py and benchmarks.attention wrote.

    python -m benchmarks.does_it_look shapes-soft=runs/attention/soft-1 ... [--output docs]

Of each folder, prints what is left of CIDEr-D under each knock-out of its knock_out_SPLIT.json, and how far words fall
by its faithfulness_SPLIT.json. Draws the first as does-it-look-knock-outs.png, the second as does-it-look-falls.png,
and as does-it-look-truth.png, of every run of benchmarks/attention.jsonl, how often its captions are true, as trained
and with even attention, by how often attention points at the object that a word names.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import attention, runs
from caption.evaluation.faithfulness import ALL_WORDS
from caption.evaluation.knock_out import JUDGED
from caption.visualise.figures import Curve, draw_falls, save_figure

MARKERS = {
    "transformer": "^", "multi-head": "s", "draw": "D", "retina": "v", "hard": "*", "local-m": "P", "local-p": "X",
    "self-critical": "h", "adaptive": "p", "up-down": "d",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args()
    folders = {name: Path(folder) for name, folder in (model.split("=", 1) for model in args.models)}
    knocked = {name: read(folder, "knock_out") for name, folder in folders.items()}
    falls = {name: read(folder, "faithfulness") for name, folder in folders.items()}
    print(knock_out_table(knocked), falls_table(falls), sep="\n\n")
    draw_knock_outs(knocked, args.output / "does-it-look-knock-outs.png")
    panels = {f"{name}, {ALL_WORDS}": curves(content) for name, content in falls.items()}
    draw_falls(panels, args.output / "does-it-look-falls.png")
    draw_truth(runs.lines(attention.RESULTS, epochs=3), args.output / "does-it-look-truth.png")


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return the only file of a study in a folder."""
    (path,) = folder.glob(f"{name}_*.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def left(content: Mapping[str, Any], knock_out: str) -> tuple[float, float, float]:
    """Return what is left of the score under a knock-out, in percent of that as trained, with its interval."""
    found = next(each for each in content["differences"][knock_out] if each["name"] == JUDGED)
    value, low, high = (
        100 * (1 + change / found["first"])
        for change in (found["second"] - found["first"], found["low"], found["high"])
    )
    return value, low, high


def trained(content: Mapping[str, Any]) -> float:
    """Return the score as trained."""
    return float(next(each["first"] for each in content["differences"]["uniform"] if each["name"] == JUDGED))


def knock_out_table(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is left of the score as a table in Markdown, a row for each model."""
    names = list(next(iter(contents.values()))["differences"])
    heads = [
        "model",
        f"{JUDGED} as trained",
        *(f"`{name}`, %" for name in names),
        "maximum at the border, %",
        "verdict",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, content in contents.items():
        cells = ["{:.0f} ({:.0f}-{:.0f})".format(*left(content, name)) for name in names]
        ends = [f"{content['maximum at the border']:.0f}", content["verdict"]["word"]]
        lines.append("| " + " | ".join([model, f"{trained(content):.1f}", *cells, *ends]) + " |")
    return "\n".join(lines)


def curves(content: Mapping[str, Any]) -> dict[str, Curve]:
    """Return the curves of all words, by order."""
    return {order: Curve(**curve) for order, curve in content["falls"][ALL_WORDS].items()}


def falls_table(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the falls of all words without a few regions as a table in Markdown, a row for each model."""
    orders = list(curves(next(iter(contents.values()))))
    heads = ["model", "erased", *(f"{order}, nats" for order in orders)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, content in contents.items():
        found, erased = curves(content), content["erased"]
        cells = []
        for order in orders:
            curve = found[order]
            at = list(curve.x).index(erased)
            cells.append(f"{curve.y[at]:.3f} ({curve.low[at]:.3f}-{curve.high[at]:.3f})")
        lines.append("| " + " | ".join([model, f"{erased} of {found[orders[0]].x[-1]}", *cells]) + " |")
    return "\n".join(lines)


def draw_knock_outs(contents: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw what is left of the score under each knock-out, in percent with its interval: a line for each model."""
    names = list(next(iter(contents.values()))["differences"])
    figure = Figure(figsize=(9, 0.55 * len(contents) + 1.2), layout="constrained")
    axis = figure.subplots()
    for row, content in enumerate(contents.values()):
        for number, name in enumerate(names):
            value, low, high = left(content, name)
            place = row + 0.1 * (number - (len(names) - 1) / 2)
            axis.plot([low, high], [place, place], color=f"C{number}", linewidth=1.5)
            axis.plot(value, place, "o", color=f"C{number}", markersize=5, label=name if row == 0 else None)
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
