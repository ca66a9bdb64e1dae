"""Attention over the picture, and curves of training; drawn into files, so that no display is needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

DIM = 0.2  # brightness where the model did not look at all


def upsample(weights: Tensor, grid: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Attention [T, L] on a grid of L cells -> smooth maps [T, S, S] over the picture.

    Every cell becomes a square of the picture and the whole is blurred by a Gaussian of half a cell, like the paper's
    figures: the maximum stays in the middle of the strongest cell or leans towards its strong neighbours.
    """
    cells = weights.float().view(-1, 1, *grid)  # [T, 1, rows, columns]
    maps = torch.nn.functional.interpolate(cells, size=(size, size), mode="nearest")
    sigma = size / max(grid) / 2
    kernel = 2 * min(math.ceil(2 * sigma), size - 1) + 1
    blurred: NDArray[np.float32] = gaussian_blur(maps, [kernel, kernel], [sigma, sigma])[:, 0].numpy()
    return blurred


class Look(NamedTuple):
    """Where a model looked at each of the T words of a caption."""

    maps: NDArray[np.float32]  # [T, S, S]
    grid: tuple[int, int]  # rows and columns of the L locations
    locations: Sequence[int] | None = None  # that hard attention chose, one a word
    name: str = ""  # of the model


def draw_attention(
    image: NDArray[np.uint8], words: Sequence[str], looks: Sequence[Look], title: str, path: str | Path
) -> None:
    """The picture uint8 [3, S, S], then once a word, bright where the model looked; the cell that hard attention chose
    is outlined. Several models' looks stand one below the other. PNG, PDF or SVG by the path's ending.
    """
    picture = image.transpose(1, 2, 0) / 255  # [S, S, 3]
    lines = math.ceil((len(words) + 1) / (6 if len(looks) == 1 else 9))  # the same words of all models stand together
    columns = math.ceil((len(words) + 1) / lines)
    figure = Figure(figsize=(2.2 * columns, 2.45 * lines * len(looks) + 0.5), layout="constrained")
    axes = figure.subplots(lines * len(looks), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for model, look in enumerate(looks):
        first, *rest = axes[model :: len(looks)].flat
        first.imshow(picture)
        first.set_title(look.name, fontsize=13)
        for t, (axis, word) in enumerate(zip(rest, words, strict=False)):
            strength = (look.maps[t] / max(float(look.maps[t].max()), 1e-12))[..., None]
            axis.imshow((picture * (DIM + (1 - DIM) * strength)).clip(0, 1))
            axis.set_title(word, fontsize=13)
            if look.locations is not None:
                _outline(axis, look.locations[t], look.grid, len(picture))
    figure.suptitle(title, fontsize=14, wrap=True)
    _save(figure, path)


def _outline(axis: Axes, location: int, grid: tuple[int, int], size: int) -> None:
    """A square around a cell of the grid, white on black, to be seen on any picture."""
    height, width = size / grid[0], size / grid[1]
    row, column = divmod(location, grid[1])
    corner = (column * width - 0.5, row * height - 0.5)  # the middle of the first pixel is 0
    for colour, line in (("black", 3.5), ("white", 1.5)):
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))


def draw_curves(records: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Losses and scores over the epochs, from the records of log.jsonl."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in records]
    for name, label in (("train", "training"), ("val", "validation")):
        loss.plot(epochs, [record[name]["cross_entropy"] for record in records], marker=".", label=label)
    loss.set(title="cross-entropy, teacher forcing (nats a word)", xlabel="epoch")
    for n in (1, 2, 3, 4):
        score.plot(epochs, [record["scores"][f"BLEU-{n}"] for record in records], marker=".", label=f"BLEU-{n}")
    score.set(title="generated captions of the validation split", xlabel="epoch", ylim=(0, None))
    for axis in (loss, score):
        axis.legend()
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    """Whole or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format=path.suffix[1:].lower())
    part.replace(path)
