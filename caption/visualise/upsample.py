"""Attention on a grid -> smooth maps over the picture: the only upsampling, for figures, pages and measures alike."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from caption.data.images import Window
from caption.encoders.grid import FeatureGrid

Map = NDArray[np.float32]


@cache
def resampling_matrix(
    count: int, cells: FeatureGrid, pixels: int, start: float = 0.0, extent: float = 1.0
) -> NDArray[np.float64]:
    """Share of each of `count` cells in a row (or column) at each pixel [pixels, count]; those of a pixel sum to one.

    A cell reaches half a step to both sides of its middle and is blurred by a Gaussian of half a step, like the
    paper's figures. Beyond the outermost middles the picture's edge has what they have: otherwise an outermost cell
    would be brightest at the very edge. If the square is only a part of the picture, from the share `start` on and
    `extent` long, there is nothing elsewhere.
    """
    share = ((np.arange(pixels) + 0.5) / pixels - start) / extent  # of the square; 0 to 1 inside it
    places = np.clip(share * cells.size - 0.5, cells.first, cells.first + cells.step * (count - 1))
    edges = cells.first + cells.step * (np.arange(count + 1) - 0.5)
    edges[0], edges[-1] = -np.inf, np.inf
    distance = (edges - places[:, None]) / (cells.step / 2)  # [pixels, count + 1], in standard deviations
    below = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(distance / math.sqrt(2)))
    shares: NDArray[np.float64] = np.diff(below, axis=1) * ((share > 0) & (share < 1))[:, None]
    return shares


WHOLE = Window()


def upsample(
    weights: NDArray[np.floating], cells: FeatureGrid, size: tuple[int, int] | None = None, window: Window = WHOLE
) -> Map:
    """Attention [T, L] -> maps [T, S, S] in the range of the weights; even attention gives an even map.

    With `size`, the (height, width) of a picture whose `window` was the model's square: maps of that size, for drawing.
    """
    height, width = size or (cells.size, cells.size)
    grids = np.asarray(weights, np.float64).reshape(-1, cells.rows, cells.columns)
    down = resampling_matrix(cells.rows, cells, height, window.top, window.height)
    across = resampling_matrix(cells.columns, cells, width, window.left, window.width)
    maps: Map = (down @ grids @ across.T).astype(np.float32)
    return maps


def peak(attention: Map, cells: FeatureGrid) -> tuple[int, int]:
    """Row and column of the pixel where a map [S, S] is strongest: between the outermost middles, since what lies
    beyond repeats them."""
    low = max(0, math.floor(cells.first))
    bottom, right = (
        min(cells.size - 1, math.ceil(cells.first + cells.step * (n - 1))) for n in (cells.rows, cells.columns)
    )
    inner = attention[low : bottom + 1, low : right + 1]
    row, column = divmod(int(inner.argmax()), inner.shape[1])
    return low + row, low + column


def center_prior(cells: FeatureGrid) -> NDArray[np.float64]:
    """Attention [L] on the middle of the picture, shared by the cells around it: what knows nothing but that
    photographers put things there."""

    def line(count: int) -> NDArray[np.float64]:
        place = np.clip(((cells.size - 1) / 2 - cells.first) / cells.step, 0, count - 1)
        near: NDArray[np.float64] = np.maximum(0, 1 - np.abs(np.arange(count) - place))
        return near

    weights: NDArray[np.float64] = np.outer(line(cells.rows), line(cells.columns)).ravel()
    weights /= weights.sum()
    return weights
