"""A page for a whole split: scores, curves, and every caption beside its references, with attention."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caption.data.images import encode_jpeg
from caption.encoders.grid import FeatureGrid
from caption.evaluation.table import Interval, blocks, cell
from caption.files import atomic_write
from caption.search import Hypothesis
from caption.visualise.figures import draw_curves
from caption.visualise.html import HELP, as_script, caption_entry, cells_entry, html_document, look_entry

CHUNK = 50  # pictures whose attention lies in one file
SORTS = ("CIDEr-D", "BLEU-4", "ROUGE-L", "METEOR", "SPICE")


class Report:
    """The page in a folder: index.html, pictures/, data/. Pictures are written as they come, index.html last."""

    def __init__(self, folder: Path, cells: FeatureGrid) -> None:
        """Nothing is left of an earlier report in the folder."""
        self.folder, self.cells = folder, cells
        for part in ("pictures", "data"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for mine in ("index.html", "curves.svg", "pictures/[0-9]*.jpg", "data/index.js", "data/looks-*.js"):
            for path in folder.glob(mine):
                path.unlink()

    def write_pictures(self, numbers: Sequence[int], pictures: NDArray[np.uint8]) -> None:
        """uint8 [B, 3, S, S], for the pictures of these numbers."""
        for number, picture in zip(numbers, pictures, strict=True):
            (self.folder / "pictures" / f"{number:06d}.jpg").write_bytes(encode_jpeg(picture, 80))

    def write_looks(self, words: Sequence[Sequence[str]], hypotheses: Sequence[Hypothesis]) -> None:
        """Attention, in files that the page reads when it needs them."""
        looks = [look_entry(*pair) for pair in zip(words, hypotheses, strict=True)]
        for number, start in enumerate(range(0, len(looks), CHUNK)):
            script = f"gotLooks({number}, {as_script(looks[start : start + CHUNK])});\n"
            (self.folder / "data" / f"looks-{number:04d}.js").write_text(script, encoding="utf-8")

    def write_index(
        self,
        title: str,
        told: str,
        values: Mapping[str, float],
        ranges: Mapping[str, Interval],
        records: Sequence[Mapping[str, Any]],
        items: Sequence[Mapping[str, Any]],
    ) -> None:
        """The page itself. `told` says how it was scored, `records` are of log.jsonl, `items` of `report_entry`."""
        sorts = [name for name in SORTS if name in values]
        content = {"chunk": CHUNK, "sorts": sorts, "cells": cells_entry(self.cells), "items": items}
        script = f"const report = {as_script(content)};\n"
        (self.folder / "data" / "index.js").write_text(script, encoding="utf-8")
        body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(told)}</p>", '<div class="columns">']
        body += [_table(values, ranges)]
        if records:
            draw_curves([dict(record) for record in records], self.folder / "curves.svg")
            body += ['<img class="curves" src="curves.svg" alt="losses and scores over the epochs">']
        body += ["</div>"]
        if records:
            body += [_examples(records, [item["name"] for item in items])]
        body += [f'<h2>Captions</h2><p class="hint">{HELP}</p>', CONTROLS, '<div id="list"></div><p id="end"></p>']
        page = html_document(
            title,
            "\n".join(body),
            ["viewer.css", "report.css"],
            ["viewer.js", "report.js"],
            "",
            '<script src="data/index.js"></script>\n',
        )
        with atomic_write(self.folder / "index.html") as part:
            part.write_text(page, encoding="utf-8")


CONTROLS = """<div id="controls">
<label>the <select id="order"><option>worst</option><option>best</option></select> first</label>
<label>by <select id="sort"></select></label>
<label>only <select id="note"><option value="">all</option></select></label>
<label>with <input id="search" type="search" placeholder="words or a name"></label>
</div>"""


def report_entry(
    name: str,
    words: Sequence[str],
    hypothesis: Hypothesis,
    references: Sequence[str],
    scores: Mapping[str, float | None],
    notes: Sequence[str],
) -> dict[str, Any]:
    """One picture; `notes` are what the page can choose by."""
    kept = [scores[sort] for sort in SORTS if sort in scores]
    return {
        "name": name,
        **caption_entry(words, hypothesis),
        "references": list(references),
        "scores": [None if value is None else round(value, 2) for value in kept],
        "notes": list(notes),
    }


def _table(values: Mapping[str, float], ranges: Mapping[str, Interval]) -> str:
    tables = []
    for block in blocks(values):
        head = "".join(f"<th>{html.escape(column)}<th>95 %" for column in block.columns)
        rows = []
        for row, names in block.rows.items():
            cells = [cell(name, values, ranges) for name in names]
            numbers = "".join(f'<td class="number">{value}<td>{span}' for value, span in cells)
            rows.append(f"<tr><td>{html.escape(row)}{numbers}")
        tables.append(f"<table><thead><tr><th>{head}<tbody>{''.join(rows)}</table>")
    return "\n".join(tables)


def _examples(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The same pictures' captions in every epoch, with a bar as long as their CIDEr-D."""
    numbers = {name: number for number, name in enumerate(names)}
    blocks = []
    for name in records[-1]["examples"]:
        if name not in numbers:  # the report is of another split than the run's examples
            continue
        rows = []
        for record in records:
            score = record.get("CIDEr-D of examples", {}).get(name)
            bar = (
                "" if score is None else f'<i class="bar" style="width:{min(4.0, score / 75):.2f}rem"></i> {score:.0f}'
            )
            text = html.escape(record["examples"][name])
            rows.append(f'<tr><td class="number">{record["epoch"]}<td>{bar}<td>{text}')
        picture = f'<img loading="lazy" src="pictures/{numbers[name]:06d}.jpg" alt="{html.escape(name)}">'
        table = f"<table><thead><tr><th>epoch<th>CIDEr-D<th>caption<tbody>{''.join(rows)}</table>"
        blocks.append(f"<div>{picture}{table}</div>")
    if not blocks:
        return ""
    summary = "<summary>The same pictures, epoch by epoch</summary>"
    return f'<details>{summary}<div class="examples">{"".join(blocks)}</div></details>'
