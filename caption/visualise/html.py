"""Self-contained HTML pages: images with captions, and the attention of the word under the pointer."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from caption.data.images import CropBox, encode_jpeg, to_array
from caption.encoders.grid import FeatureGrid
from caption.files import MARK, write_text
from caption.search import Hypothesis
from caption.visualise.upsample import resampling_matrix

Caption = tuple[Sequence[str], Hypothesis]  # its words, and what the search found

ASSETS = Path(__file__).with_name("assets")  # scripts and styles
PIXELS = 64  # rows and columns of the maps that a page computes

HELP = (
    "Point at a word, tap it, or use the arrow keys: the image is bright where the model attends, as in the figures. "
    "The bar under a word is its gate (β of the paper, 1 − β of adaptive attention): how much of the image went into "
    "it. A pale word is one that the model was not sure of."
)


def write_page(path: Path, title: str, grid: FeatureGrid, entries: Sequence[dict[str, Any]], **more: Any) -> None:
    """Write a page for the entries of `image_entry`, everything in one file; see `page`."""
    write_text(path, page(title, grid, entries, **more))


def page(
    title: str,
    grid: FeatureGrid,
    entries: Sequence[dict[str, Any]],
    assets: Sequence[str] = ("viewer",),
    more: str = "",
) -> str:
    """Return a page for the entries of `image_entry`; without a title, the images alone, as in a notebook. `more` is a
    script that runs after the page's own, with other `assets`."""
    heading = f'<h1>{html.escape(title)}</h1><p class="hint">{HELP}</p>' if title else ""
    body = f'{heading}<div id="controls"></div><div id="list"></div>'
    script = (
        f"const grid = {as_script(grid_entry(grid))}, entries = {as_script(entries)};\n"
        "const viewers = entries.map((e) => new Viewer(e, grid, () => Promise.resolve(e.attention)));\n"
        'document.getElementById("list").append(...viewers.map((viewer) => viewer.element));\n'
        'addColourButton(document.getElementById("controls"));\n'
        "[...viewers].reverse().forEach((viewer) => viewer.activate());\n"
    )
    return html_document(title, body, assets, script + more)


def html_document(title: str, body: str, assets: Sequence[str], script: str = "") -> str:
    """Return a page with the assets of these names (.js, .css or both) inlined, and with `script` after them."""
    paths = [[ASSETS / f"{name}.{kind}" for name in assets] for kind in ("css", "js")]
    styles, scripts = ("\n".join(path.read_text(encoding="utf-8") for path in kind if path.exists()) for kind in paths)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{MARK}">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{styles}</style>\n<body>\n{body}\n"
        f"<script>\n{scripts}\n{script}</script>\n</body>\n</html>\n"
    )


def as_script(values: Any) -> str:
    """Return plain values as JavaScript that is safe inside a <script> element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def grid_entry(grid: FeatureGrid) -> dict[str, Any]:
    """Return the grid with its resampling matrices, from which the page computes its maps."""
    down, across = (resampling_matrix(count, grid, PIXELS).round(5).tolist() for count in (grid.rows, grid.columns))
    return {**grid._asdict(), "down": down, "across": across}


def image_entry(
    image: Image.Image,
    window: CropBox,
    name: str,
    captions: Sequence[Caption],
    heads: Sequence[str] = (),
    separator: str = " ",
) -> dict[str, Any]:
    """Return an image of `write_page` with its captions, best first; `heads` are the names of the attention heads, if
    there are several, and `separator` stands between two words."""
    return {
        **shown_entry(image, window, name),
        "captions": [caption_entry(words, hypothesis, separator) for words, hypothesis in captions],
        "attention": [attention_entry(words, hypothesis, heads) for words, hypothesis in captions],
        "references": [],
        "notes": "" if len(captions) > 1 else f"log-probability {captions[0][1].log_probability:.2f}",
    }


def shown_entry(image: Image.Image, window: CropBox, name: str) -> dict[str, Any]:
    """Return an image as pages show it, with the part of it that the model saw."""
    content = base64.b64encode(encode_jpeg(to_array(image), 85)).decode()
    return {
        "image": f"data:image/jpeg;base64,{content}",
        "size": [image.height, image.width],
        "window": list(window),
        "name": name.encode("utf-8", "replace").decode(),  # file names may be in other encodings
    }


def caption_entry(words: Sequence[str], hypothesis: Hypothesis, separator: str = " ") -> dict[str, Any]:
    """Return a caption in plain values, with the probability of each word after those before it."""
    words_alone = hypothesis.word_log_probabilities
    probabilities = None if words_alone is None else [round(p, 3) for p in words_alone[: len(words)].exp().tolist()]
    return {
        "words": list(words),
        "separator": separator,
        "log_probability": round(hypothesis.log_probability, 4),
        "finished": hypothesis.finished,
        "probabilities": probabilities,
    }


def attention_entry(words: Sequence[str], hypothesis: Hypothesis, heads: Sequence[str] = ()) -> dict[str, Any]:
    """Return the attention for each word of a caption: mean of all heads, and each of the named heads."""
    steps = len(words)
    gates = None if hypothesis.gates is None else [round(gate, 3) for gate in hypothesis.gates[:steps].tolist()]
    locations = None if hypothesis.locations is None else hypothesis.locations[:steps].tolist()
    per_head = [] if hypothesis.heads is None else hypothesis.heads[:steps].unbind(1)  # M times [T, L]
    return {
        **_weights_entry(hypothesis.weights[:steps]),
        "gates": gates,
        "locations": locations,
        "heads": [{"name": name, **_weights_entry(weights)} for name, weights in zip(heads, per_head, strict=False)],
    }


def _weights_entry(weights: Tensor) -> dict[str, Any]:
    """Return attention [T, L] as bytes, the maximum of each word 255; a page draws it relative to the maximum."""
    values = weights.numpy()
    largest = values.max(1)
    scaled = np.rint(255 * values / np.maximum(largest, 1e-12)[:, None]).astype(np.uint8)
    return {"weights": base64.b64encode(scaled.tobytes()).decode(), "largest": largest.round(4).tolist()}
