"""Attention over the picture, and curves of training; drawn into files, so that no display is needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from caption.data.images import Window
from caption.encoders.grid import FeatureGrid
from caption.files import atomic_write
from caption.visualise.upsample import WHOLE, upsample

DIM = 0.2  # brightness where the model did not look at all
KINDS = (".png", ".pdf", ".svg", ".jpg", ".gif")  # of figures
FRAME = 900  # milliseconds that a word of an animation is shown


class AttentionMaps(NamedTuple):
    """Where a model looked at each of the T words of a caption."""

    weights: NDArray[np.floating]  # [T, L]
    cells: FeatureGrid
    locations: Sequence[int] | None = None  # that hard attention chose, one a word
    name: str = ""  # of the model


def brightness(look: AttentionMaps, size: tuple[int, int], window: Window = WHOLE) -> NDArray[np.float32]:
    """How brightly a picture of (height, width) is drawn for each word [T, H, W]: 1 where the model looked most."""
    maps = upsample(look.weights, look.cells, size, window)
    maps /= np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    return np.float32(DIM) + np.float32(1 - DIM) * maps


def draw_attention(
    picture: NDArray[np.uint8],
    words: Sequence[str],
    looks: Sequence[AttentionMaps],
    title: str,
    path: str | Path,
    window: Window = WHOLE,
) -> None:
    """The picture uint8 [H, W, 3], then once a word, bright where the model looked; the cell that hard attention chose
    is outlined. Several models' looks stand one below the other. PNG, PDF, SVG or JPEG by the path's ending; GIF shows
    one word after the other.
    """
    if Path(path).suffix.lower() == ".gif":
        _animate(picture, words, looks, title, path, window)
        return
    lines = math.ceil((len(words) + 1) / (6 if len(looks) == 1 else 9))  # the same words of all models stand together
    columns = math.ceil((len(words) + 1) / lines)
    tall = 2.2 * min(1.5, picture.shape[0] / picture.shape[1])
    size = (2.2 * columns, (tall + 0.25) * lines * len(looks) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines * len(looks), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for model, look in enumerate(looks):
        first, *rest = axes[model :: len(looks)].flat
        first.imshow(picture)
        first.set_title(look.name, fontsize=13, parse_math=False)
        light = brightness(look, picture.shape[:2], window)
        for t, (axis, word) in enumerate(zip(rest, words, strict=False)):
            _panel(axis, picture, light[t], look, t, window)
            axis.set_title(word, fontsize=13, parse_math=False)
    figure.suptitle(title, fontsize=14, wrap=True, parse_math=False)
    _save(figure, path)


def _panel(
    axis: Axes, picture: NDArray[np.uint8], light: NDArray[np.float32], look: AttentionMaps, t: int, window: Window
) -> None:
    """The picture as lit for word t."""
    axis.imshow((picture * light[..., None]).astype(np.uint8))
    if look.locations is not None:
        _outline(axis, look.cells, look.locations[t], picture.shape[:2], window)


def _outline(axis: Axes, cells: FeatureGrid, location: int, size: tuple[int, int], window: Window) -> None:
    """A square around a cell of the grid, white on black, to be seen on any picture."""
    wide, high = (window.width * size[1] / cells.size, window.height * size[0] / cells.size)  # of a pixel of the square
    x, y = cells.corner(location)
    # The middle of a first pixel is 0, its edge -0.5, in the square and in the picture alike.
    left = (x + 0.5) * wide + window.left * size[1] - 0.5
    top = (y + 0.5) * high + window.top * size[0] - 0.5
    for colour, line in (("black", 3.5), ("white", 1.5)):
        axis.add_patch(
            Rectangle((left, top), cells.step * wide, cells.step * high, fill=False, edgecolor=colour, linewidth=line)
        )


def _animate(
    picture: NDArray[np.uint8],
    words: Sequence[str],
    looks: Sequence[AttentionMaps],
    title: str,
    path: str | Path,
    window: Window,
) -> None:
    """A GIF: the picture with the whole caption, then a word at a time."""
    tall = 4.0 * min(1.5, picture.shape[0] / picture.shape[1])
    lights = [brightness(look, picture.shape[:2], window) for look in looks]
    frames = []
    for t in range(-1, len(words)):
        figure = Figure(figsize=(4.0 * len(looks), tall + 0.6), layout="constrained")
        for axis, look, light in zip(figure.subplots(1, len(looks), squeeze=False).flat, looks, lights, strict=True):
            axis.axis("off")
            axis.set_title(look.name, fontsize=11, parse_math=False)
            if t < 0:
                axis.imshow(picture)
            else:
                _panel(axis, picture, light[t], look, t, window)
        figure.suptitle(title if t < 0 else words[t], fontsize=11 if t < 0 else 17, wrap=True, parse_math=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        frames.append(Image.fromarray(pixels[..., :3]))
    times = [2 * FRAME, *[FRAME] * len(words)]
    with atomic_write(Path(path)) as part:
        frames[0].save(part, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)


def draw_curves(records: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Losses and scores over the epochs, from the records of log.jsonl."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    loss, bleu, cider = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in records]
    for name, label in (("train", "training"), ("val", "validation")):
        values = [record[name].get("cross_entropy", math.nan) for record in records]  # none in self-critical epochs
        loss.plot(epochs, values, marker=".", label=label)
    loss.set(title="cross-entropy, teacher forcing (nats a word)")
    for axis, names in ((bleu, [f"BLEU-{n}" for n in (1, 2, 3, 4)]), (cider, ["ROUGE-L", "CIDEr-D"])):
        for name in names:
            if all(name in record["scores"] for record in records):
                axis.plot(epochs, [record["scores"][name] for record in records], marker=".", label=name)
        axis.set(title="captions generated for the validation split", ylim=(0, None))
    for axis in (loss, bleu, cider):
        if not axis.lines:  # a run from before this score was kept
            axis.set_visible(False)
            continue
        axis.set(xlabel="epoch")
        axis.legend()
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    path = Path(path)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110, format=path.suffix[1:].lower())
