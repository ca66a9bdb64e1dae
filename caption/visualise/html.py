"""Pages for a browser, no network needed: pictures with captions, and the attention of the word under the pointer."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from caption.data.images import Window, encode_jpeg, to_array
from caption.encoders.grid import FeatureGrid
from caption.files import atomic_write
from caption.search import Hypothesis
from caption.visualise.upsample import resampling_matrix

PAGES = Path(__file__).with_name("assets")  # scripts and styles
PIXELS = 64  # rows and columns of the maps that a page makes

HELP = (
    "Point at a word, tap it, or use the arrow keys: the picture is bright where the model looked, as in the figures. "
    "The bar under a word is β, how much of what was seen went into it."
)


def write_page(path: Path, title: str, cells: FeatureGrid, entries: Sequence[dict[str, Any]]) -> None:
    """One file with everything in it, for the entries of `image_entry`."""
    body = f'<h1>{html.escape(title)}</h1><p class="hint">{HELP}</p><div id="controls"></div><div id="list"></div>'
    script = (
        f"const cells = {as_script(cells_entry(cells))}, entries = {as_script(entries)};\n"
        "const viewers = entries.map((e) => new Viewer(e, cells, () => Promise.resolve(e.looks)));\n"
        'document.getElementById("list").append(...viewers.map((viewer) => viewer.element));\n'
        'colourButton(document.getElementById("controls"));\n'
        "viewers.reverse().forEach((viewer) => viewer.activate());\n"
    )
    with atomic_write(path) as part:
        part.write_text(html_document(title, body, ["viewer.css"], ["viewer.js"], script), encoding="utf-8")


def html_document(
    title: str, body: str, styles: Sequence[str], scripts: Sequence[str], last: str, before: str = ""
) -> str:
    """A whole page; `before` stands in front of the scripts, `last` is a script behind them."""
    style = "\n".join((PAGES / name).read_text(encoding="utf-8") for name in styles)
    script = "\n".join((PAGES / name).read_text(encoding="utf-8") for name in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n<body>\n{body}\n{before}"
        f"<script>\n{script}\n{last}</script>\n</body>\n</html>\n"
    )


def as_script(values: Any) -> str:
    """Plain values as JavaScript that no text in them can end."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def cells_entry(cells: FeatureGrid) -> dict[str, Any]:
    """Where the regions lie, and the page's share of the upsampling: each cell's share at each of its pixels."""
    down, across = (resampling_matrix(count, cells, PIXELS).round(5).tolist() for count in (cells.rows, cells.columns))
    return {**cells._asdict(), "down": down, "across": across}


def image_entry(
    picture: Image.Image,
    window: Window,
    name: str,
    captions: Sequence[tuple[Sequence[str], Hypothesis]],
    heads: Sequence[str] = (),
) -> dict[str, Any]:
    """One picture of `write_page`, with the captions that the search found, the best first; `heads` are the names of
    those of attention, if it has several."""
    content = base64.b64encode(encode_jpeg(to_array(picture), 85)).decode()
    return {
        "picture": f"data:image/jpeg;base64,{content}",
        "size": [picture.height, picture.width],
        "window": list(window),
        "name": name.encode("utf-8", "replace").decode(),  # a disk may hold names in other encodings
        "captions": [caption_entry(words, hypothesis) for words, hypothesis in captions],
        "looks": [look_entry(words, hypothesis, heads) for words, hypothesis in captions],
        "references": [],
        "notes": "" if len(captions) > 1 else f"log-probability {captions[0][1].log_probability:.2f}",
    }


def caption_entry(words: Sequence[str], hypothesis: Hypothesis) -> dict[str, Any]:
    return {
        "words": list(words),
        "log_probability": round(hypothesis.log_probability, 4),
        "finished": hypothesis.finished,
    }


def look_entry(words: Sequence[str], hypothesis: Hypothesis, heads: Sequence[str] = ()) -> dict[str, Any]:
    """Where the model looked at each word, all heads together, and each of those that are named."""
    gates, locations = hypothesis.gates, hypothesis.locations
    each = [] if hypothesis.heads is None else hypothesis.heads[: len(words)].unbind(1)  # M times [T, L]
    return {
        **_weights_entry(hypothesis.weights[: len(words)]),
        "gates": gates and [round(gate, 3) for gate in gates[: len(words)]],
        "locations": locations and locations[: len(words)],
        "heads": [{"name": name, **_weights_entry(weights)} for name, weights in zip(heads, each, strict=False)],
    }


def _weights_entry(weights: Tensor) -> dict[str, Any]:
    """Attention [T, L] as bytes, each word's largest weight 255; a page draws it relative to that."""
    values = weights.numpy()
    largest = values.max(1)
    scaled = np.rint(255 * values / np.maximum(largest, 1e-12)[:, None]).astype(np.uint8)
    return {"weights": base64.b64encode(scaled.tobytes()).decode(), "largest": largest.round(4).tolist()}
