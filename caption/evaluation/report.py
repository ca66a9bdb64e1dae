"""A report page for a split: scores, curves, and each image with its caption, references and attention."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caption.data.dataset import CaptionDataset
from caption.data.images import encode_jpeg
from caption.data.sampler import sequential_batches
from caption.data.words import WORDS
from caption.errors import UserError
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import SORTS
from caption.evaluation.results import Results
from caption.evaluation.table import blocks
from caption.files import LOCK, atomic_write, write_text
from caption.progress import ProgressBar
from caption.search import Hypothesis
from caption.visualise.figures import draw_curves
from caption.visualise.html import HELP, as_script, attention_entry, caption_entry, grid_entry, html_document

CHUNK = 50  # images whose attention is in one file
BATCH = 32  # images read at a time
LIST = "report.json"  # names the files of a report: only these are deleted by the next one
NAMES = r"index\.html|curves\.svg|images/\d+\.jpg|data/(index|attention-\d+)\.js"  # that such a list may hold

CONTROLS = """<div id="controls">
<label>the <select id="order"><option>worst</option><option>best</option></select> first</label>
<label>by <select id="sort"></select></label>
<label>only <select id="note"><option value="">all</option></select></label>
<label>with <input id="search" type="search" dir="auto" placeholder="words or a name"></label>
</div>"""


def write_report(
    folder: Path,
    title: str,
    subtitle: str,
    split: CaptionDataset,
    captions: CaptionSet,
    hypotheses: Sequence[Hypothesis],
    results: Results,
    records: Sequence[dict[str, Any]],
) -> None:
    """Write the report of a split, with the curves of the run whose records of log.jsonl are given.

    The folder gets index.html, images/ and data/, and loses the files of an earlier report. Images are written as they
    are read, and the attention to files that the page loads when it needs them; index.html is written last. Raises
    UserError rather than delete or replace anything that is not of an earlier report.
    """
    assert captions.grid is not None
    names = [f"images/{number:06d}.jpg" for number in range(len(split))]
    names += [f"data/attention-{number:04d}.js" for number in range(-(-len(split) // CHUNK))]
    start_report(folder, [*names, "data/index.js", "index.html", *(["curves.svg"] if records else [])])
    for numbers in ProgressBar(sequential_batches(len(split), BATCH), "images", "batches"):
        for number, image in zip(numbers, split.read_images(numbers).numpy(), strict=True):
            with atomic_write(folder / "images" / f"{number:06d}.jpg", durable=False) as part:
                part.write_bytes(encode_jpeg(image, 80))
    attention = [attention_entry(*pair) for pair in zip(captions.words, hypotheses, strict=True)]
    for number, start in enumerate(range(0, len(attention), CHUNK)):
        script = f"attentionLoaded({number}, {as_script(attention[start : start + CHUNK])});\n"
        write_text(folder / "data" / f"attention-{number:04d}.js", script)
    sorts = [name for name in SORTS if name in results.scores]
    rows = zip(captions.words, hypotheses, captions.references, results.images, captions.notes, strict=True)
    separator = WORDS[captions.word_kind].separator
    entries = [
        {
            "name": image["file_name"],
            **caption_entry(words, hypothesis, separator),
            "references": list(references),
            "scores": [None if (value := image["scores"][name]) is None else round(value, 2) for name in sorts],
            "notes": notes,  # by which the page can be filtered
        }
        for words, hypothesis, references, image, notes in rows
    ]
    content = {"chunk": CHUNK, "sorts": sorts, "grid": grid_entry(captions.grid), "entries": entries}
    write_text(folder / "data" / "index.js", f"const report = {as_script(content)};\n")
    if records:
        draw_curves(records, folder / "curves.svg")
    body = _page_body(title, subtitle, results, records)
    write_text(folder / "index.html", html_document(title, body, ["viewer", "report"]))


def check_folder(folder: Path) -> list[str]:
    """Return the names of the files of the report in a folder; none if it is empty, or not there. Raises UserError if
    it holds something else."""
    if not folder.exists() or not {path.name for path in folder.iterdir()} - {LOCK}:
        return []
    try:
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))["files"]
        if all(re.fullmatch(NAMES, name) for name in names):
            return list(names)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--report {folder}: holds files, but no report of this version; give an empty folder")


def start_report(folder: Path, names: list[str]) -> None:
    """Delete the files of an earlier report and list those of the new one; both are named from the folder. Raises
    UserError, before anything is deleted, if the folder holds something else, or a file of a new name is not ours."""
    old = check_folder(folder)
    for name in sorted(set(names) - set(old)):
        if (folder / name).exists():
            raise UserError(f"--report {folder}: {name} is not of the earlier report; give an empty folder")
    for name in old:
        (folder / name).unlink(missing_ok=True)
    for name in ("images", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(folder / LIST, json.dumps({"files": names}))


def _page_body(title: str, subtitle: str, results: Results, records: Sequence[dict[str, Any]]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(subtitle)}</p>", '<div class="columns">']
    body += [_score_tables(results)]
    if records:
        body += ['<img class="curves" src="curves.svg" alt="losses and scores over the epochs">']
    body += ["</div>"]
    if records:
        body += [_examples(records, [image["file_name"] for image in results.images])]
    body += [f'<h2>Captions</h2><p class="hint">{HELP}</p>', CONTROLS, '<div id="list"></div><p id="end"></p>']
    return "\n".join([*body, '<script src="data/index.js"></script>'])


def _score_tables(results: Results) -> str:
    tables = []
    for block in blocks(results.scores, results.intervals):
        head = "".join(f"<th>{html.escape(column)}<th>95 %" for column in block.columns)
        rows = []
        for row, scores in block.rows.items():
            numbers = "".join(f'<td class="number">{value}<td>{interval}' for value, interval in scores)
            rows.append(f"<tr><td>{html.escape(row)}{numbers}")
        tables.append(f"<table><thead><tr><th>{head}<tbody>{''.join(rows)}</table>")
    return "\n".join(tables)


def _examples(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the captions of the same images after each epoch, with bars in proportion to their CIDEr-D."""
    numbers = {name: number for number, name in enumerate(names)}
    examples = []
    for name in records[-1]["examples"]:
        if name not in numbers:  # the report is of another split than the run's examples
            continue
        rows = []
        for record in records:
            score = record.get("CIDEr-D of examples", {}).get(name)
            bar = (
                "" if score is None else f'<i class="bar" style="width:{min(4.0, score / 75):.2f}rem"></i> {score:.0f}'
            )
            text = html.escape(record["examples"].get(name, ""))
            rows.append(f'<tr><td class="number">{record["epoch"]}<td>{bar}<td dir="auto" lang="">{text}')
        image = f'<img loading="lazy" src="images/{numbers[name]:06d}.jpg" alt="{html.escape(name)}">'
        table = f"<table><thead><tr><th>epoch<th>CIDEr-D<th>caption<tbody>{''.join(rows)}</table>"
        examples.append(f"<div>{image}{table}</div>")
    if not examples:
        return ""
    summary = "<summary>The same images, epoch by epoch</summary>"
    return f'<details>{summary}<div class="examples">{"".join(examples)}</div></details>'
