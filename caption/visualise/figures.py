"""Figures of attention over an image and of training curves, drawn into files without a display."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from caption.data.images import CropBox
from caption.encoders.grid import FeatureGrid
from caption.files import MARK, atomic_write
from caption.visualise.fonts import font_families, runs_from_right
from caption.visualise.upsample import FULL_IMAGE, upsample

MIN_BRIGHTNESS = 0.2  # where there is no attention
FRAME_MS = 900  # for which an animation shows a word


class AttentionMaps(NamedTuple):
    """The attention of a model to each of the T words of a caption."""

    weights: NDArray[np.floating]  # [T, L]
    grid: FeatureGrid
    locations: Sequence[int] | None = None  # those that hard attention chose, one per word
    name: str = ""  # of the model or the head
    window: CropBox = FULL_IMAGE  # the part of the image that the model saw


def brightness(maps: AttentionMaps, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the brightness of an image of (height, width) for each word [T, H, W], 1 at the maximum of attention."""
    light = upsample(maps.weights, maps.grid, size, maps.window)
    light /= np.maximum(light.max((1, 2), keepdims=True), 1e-12)
    return np.float32(MIN_BRIGHTNESS) + np.float32(1 - MIN_BRIGHTNESS) * light


def draw_attention(
    image: NDArray[np.uint8], words: list[str], maps: list[AttentionMaps], path: Path, separator: str = " "
) -> None:
    """Draw the image uint8 [H, W, 3], then again for each word, bright where attention is.

    `separator` stands between two words of the caption. The cell that hard attention chose is outlined. The rows of
    several models (or heads) stand one below the other. The ending of the path chooses PNG, PDF, SVG or JPEG, or a GIF
    that shows one word after the other.
    """
    if path.suffix.lower() == ".gif":
        _animate(image, words, maps, path, separator)
    else:
        save_figure(attention_figure(image, words, maps, separator), path)


def attention_figure(
    image: NDArray[np.uint8], words: Sequence[str], maps: Sequence[AttentionMaps], separator: str = " "
) -> Figure:
    """Return the figure that `draw_attention` saves. Its panels are in the direction in which the caption is read."""
    text = separator.join(words)
    families = font_families(text)
    lines = math.ceil((len(words) + 1) / (6 if len(maps) == 1 else 9))  # rows of panels for each model
    columns = math.ceil((len(words) + 1) / lines)
    height = 2.2 * min(1.5, image.shape[0] / image.shape[1])
    size = (2.2 * columns, (height + 0.25) * lines * len(maps) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines * len(maps), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    if runs_from_right(text):
        axes = axes[:, ::-1]
    for number, model in enumerate(maps):
        light = brightness(model, image.shape[:2])
        for t, (axis, title) in enumerate(zip(axes[number :: len(maps)].flat, [model.name, *words], strict=False), -1):
            _draw_panel(axis, image, light, model, t)
            axis.set_title(title, fontsize=13, fontfamily=families, parse_math=False)
    text = _wrap(words, separator, size[0], 14)
    figure.suptitle(text, fontsize=14, fontfamily=families, wrap=True, parse_math=False)
    return figure


def _wrap(words: Sequence[str], separator: str, width: float, fontsize: float) -> str:
    """Return the text of words, of characters in lines for a figure of so many inches: matplotlib wraps at spaces."""
    if separator:
        return separator.join(words)
    length = int(0.9 * width * 72 / fontsize)  # a character of Chinese is as wide as high
    return "\n".join("".join(words[start : start + length]) for start in range(0, len(words), length))


def _draw_panel(axis: Axes, image: NDArray[np.uint8], light: NDArray[np.float32], maps: AttentionMaps, t: int) -> None:
    """Draw the image, for t = -1 as it is, otherwise lit for word t [T, H, W]. The cell that hard attention chose has
    an outline, white on black to be visible on any image."""
    if t < 0:
        axis.imshow(image)
        return
    axis.imshow((image * light[t, ..., None]).astype(np.uint8))
    if maps.locations is None:
        return
    grid, window, (height, width) = maps.grid, maps.window, image.shape[:2]
    wide, high = window.width * width / grid.size, window.height * height / grid.size  # a pixel of the square
    x, y = grid.corner(maps.locations[t])
    # The centre of the first pixel is 0 and its edge -0.5, in the square and in the image.
    corner = (x + 0.5) * wide + window.left * width - 0.5, (y + 0.5) * high + window.top * height - 0.5
    for colour, line in (("black", 3.5), ("white", 1.5)):
        axis.add_patch(
            Rectangle(corner, grid.step * wide, grid.step * high, fill=False, edgecolor=colour, linewidth=line)
        )


def _animate(image: NDArray[np.uint8], words: list[str], maps: list[AttentionMaps], path: Path, separator: str) -> None:
    """Save a GIF of the image with its caption, then of one word after the other."""
    height = 4.0 * min(1.5, image.shape[0] / image.shape[1])
    width, families = 4.0 * len(maps), font_families(separator.join(words))
    lights = [brightness(model, image.shape[:2]) for model in maps]
    frames = []
    for t, title in enumerate([_wrap(words, separator, width, 11), *words], -1):
        figure = Figure(figsize=(width, height + 0.6), layout="constrained")
        for axis, model, light in zip(figure.subplots(1, len(maps), squeeze=False).flat, maps, lights, strict=True):
            axis.axis("off")
            axis.set_title(model.name, fontsize=11, parse_math=False)
            _draw_panel(axis, image, light, model, t)
        figure.suptitle(title, fontsize=11 if t < 0 else 17, fontfamily=families, wrap=True, parse_math=False)
        canvas = FigureCanvasAgg(figure)
        with _no_glyph_warnings():
            canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        frames.append(Image.fromarray(pixels[..., :3]))
    times = [2 * FRAME_MS, *[FRAME_MS] * len(words)]
    with atomic_write(path) as temporary:
        options: dict[str, Any] = {"append_images": frames[1:], "duration": times, "loop": 0, "comment": MARK}
        frames[0].save(temporary, format="GIF", save_all=True, **options)


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw losses and scores over the epochs, from the records of log.jsonl."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    loss, bleu, cider = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in records]
    for name, label in (("train", "training"), ("val", "validation")):
        values = [record[name].get("cross_entropy", math.nan) for record in records]  # missing in self-critical epochs
        loss.plot(epochs, values, marker=".", label=label)
    loss.set(title="cross-entropy, teacher forcing (nats per word)")
    for axis, names in ((bleu, [f"BLEU-{n}" for n in (1, 2, 3, 4)]), (cider, ["ROUGE-L", "CIDEr-D"])):
        for name in names:
            if all(name in record["scores"] for record in records):
                axis.plot(epochs, [record["scores"][name] for record in records], marker=".", label=name)
        axis.set(title="captions generated for the validation split", ylim=(0, None))
    for axis in (loss, bleu, cider):
        if not axis.lines:
            axis.set_visible(False)
            continue
        axis.set(xlabel="epoch")
        axis.legend()
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


class Curve(NamedTuple):
    """A line with its 95 % interval."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw_falls(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Draw how far the log-probability of words falls with the regions erased: a panel for each kind of word, a curve
    for each order of the regions, by their names."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for axis, (kind, curves) in zip(axes, panels.items(), strict=False):
        for name, curve in curves.items():
            axis.plot(curve.x, curve.y, marker=".", color=f"C{names.index(name)}", label=name)
            axis.fill_between(curve.x, curve.low, curve.high, color=f"C{names.index(name)}", alpha=0.2, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set(title=kind, xlabel="regions erased", ylabel="fall of log p (nats)")
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = {line.get_label(): line for axis in axes for line in axis.lines}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure atomically, in the format of the path's ending, with the mark that it may be replaced."""
    kind = path.suffix[1:].lower()
    mark: dict[str, Any] = {"metadata": {"Creator": MARK}}
    if kind in ("jpg", "jpeg"):
        mark = {"pil_kwargs": {"comment": MARK}}
    with atomic_write(path) as temporary, _no_glyph_warnings():
        figure.savefig(temporary, dpi=110, format=kind, **mark)


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Silence matplotlib's warning about each glyph that the fonts lack: `font_families` says it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
