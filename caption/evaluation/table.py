"""Tables of scores for people: in a terminal, and the blocks of which the report page makes its own."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from caption.evaluation.bootstrap import Difference, Interval


class Block(NamedTuple):
    """Adjacent rows of a table that have the same columns, one for each set of captions that was scored."""

    columns: list[str]
    rows: dict[str, list[tuple[str, str]]]  # row label -> its scores and their intervals, as text


def blocks(values: Mapping[str, float], ranges: Mapping[str, Interval]) -> list[Block]:
    """Arrange scores by name: "truthful, unseen" goes to the column "unseen" of the row "truthful"."""
    rows: dict[str, dict[str, str]] = {}
    for name in values:
        row, _, column = name.partition(", ")
        rows.setdefault(row, {})[column or "score"] = name
    return [
        Block(columns, {row: [_format(name, values, ranges) for name in names.values()] for row, names in adjacent})
        for columns, adjacent in groupby(rows.items(), key=lambda item: list(item[1]))
    ]


def decimals(name: str, value: float) -> int:
    """Return the number of decimals with which a score is printed."""
    return 0 if isinstance(value, int) or name.startswith("words") else 3 if name == "length ratio" else 2


def _format(name: str, values: Mapping[str, float], ranges: Mapping[str, Interval]) -> tuple[str, str]:
    """Return a score and its interval as text, the latter empty if it has none."""
    value = values[name]
    if not math.isfinite(value):
        return "–", ""
    d = decimals(name, value)
    interval = "{:.{d}f} to {:.{d}f}".format(*ranges[name], d=d) if name in ranges else ""
    return f"{value:.{d}f}", interval


def score_table(values: Mapping[str, float], ranges: Mapping[str, Interval]) -> str:
    """Return a table for a terminal, with one line per row and the intervals where there are any."""
    arranged = blocks(values, ranges)
    width = max(len(row) for block in arranged for row in block.rows) + 2
    lines = []
    for block in arranged:
        lines += ["", " " * width + "   ".join(f"{column:>10}  {'95 % interval':16}" for column in block.columns)]
        for row, entries in block.rows.items():
            lines.append(f"{row:{width}}" + "   ".join(f"{value:>10}  {interval:16}" for value, interval in entries))
    return "\n".join(line.rstrip() for line in lines[1:])


def comparison_table(differences: Sequence[Difference]) -> str:
    """Return a table with both models' scores, their difference, and "real" where p < 0.05."""
    width = max(len(difference.name) for difference in differences) + 2
    lines = [f"{'':{width}}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':20}{'p':>7}"]
    for diff in differences:
        if math.isnan(diff.p):
            lines.append(f"{diff.name:{width}}       –")
            continue
        d = decimals(diff.name, diff.first)
        interval, verdict = f"{diff.low:+.{d}f} to {diff.high:+.{d}f}", "  real" if diff.p < 0.05 else ""
        scores = f"{diff.first:8.{d}f}{diff.second:8.{d}f}{diff.value:+9.{d}f}"
        lines.append(f"{diff.name:{width}}{scores}   {interval:20}{diff.p:7.4f}{verdict}")
    return "\n".join(lines)


def falls_table(panels: Mapping[str, Mapping[str, Any]], regions: int) -> str:
    """Return a table of the curves of `visualise.figures.draw_falls`: a block for each kind of word, a line for each
    order of the regions, a column for each number of regions erased."""
    width = max(map(len, panels)) + 2
    lines = []
    for kind, curves in panels.items():
        counts = next(iter(curves.values())).x
        heads = [f"all {count}" if count == regions else str(count) for count in counts]
        lines += ["", f"{kind:{width}}" + "".join(f"{head:>8}" for head in heads)]
        lines += [f"{name:{width}}" + "".join(f"{value:8.3f}" for value in curve.y) for name, curve in curves.items()]
    return "\n".join(lines[1:])
