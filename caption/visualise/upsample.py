"""Upsample attention on a grid to smooth maps over the image; figures, pages and grounding scores all use it."""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from caption.data.images import CropBox
from caption.encoders.grid import FeatureGrid

Map = NDArray[np.float32]

FULL_IMAGE = CropBox()


@cache
def resampling_matrix(
    count: int, grid: FeatureGrid, pixels: int, start: float = 0.0, extent: float = 1.0
) -> NDArray[np.float64]:
    """Return the weight of each of `count` cells of a row (or column) at each pixel [pixels, count]; rows sum to 1.

    A cell reaches half a step to either side of its centre and is blurred by a Gaussian of half a step, as in the
    paper's figures. Beyond the outermost centres the map is constant: otherwise an outermost cell would be brightest at
    the very edge. If the model's square covers only a part of the image, `extent` long from the fraction `start` on,
    weights are 0 elsewhere.
    """
    position = ((np.arange(pixels) + 0.5) / pixels - start) / extent  # 0 to 1 inside the square
    centre = np.clip(position * grid.size - 0.5, grid.first, grid.first + grid.step * (count - 1))
    edges = grid.first + grid.step * (np.arange(count + 1) - 0.5)
    edges[0], edges[-1] = -np.inf, np.inf
    distance = (edges - centre[:, None]) / (grid.step / 2)  # [pixels, count + 1], in standard deviations
    cumulative = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(distance / math.sqrt(2)))
    return np.asarray(np.diff(cumulative, axis=1) * ((position > 0) & (position < 1))[:, None])


def upsample(
    weights: NDArray[np.floating], grid: FeatureGrid, size: tuple[int, int] | None = None, window: CropBox = FULL_IMAGE
) -> Map:
    """Upsample attention [T, L] to maps [T, S, S] in the range of the weights; uniform attention gives a uniform map.

    With `size`, the (height, width) of an image of which the model saw the `window`, return maps of that size.
    """
    height, width = size or (grid.size, grid.size)
    cells = np.asarray(weights, np.float64).reshape(-1, grid.rows, grid.columns)
    down = resampling_matrix(grid.rows, grid, height, window.top, window.height)
    across = resampling_matrix(grid.columns, grid, width, window.left, window.width)
    return np.asarray(down @ cells @ across.T, np.float32)


def peak(attention: Map, grid: FeatureGrid) -> tuple[int, int]:
    """Return row and column of the maximum of a map [S, S], between the outermost centres: it is constant beyond."""
    low = max(0, math.floor(grid.first))
    bottom, right = (min(grid.size - 1, math.ceil(grid.first + grid.step * (n - 1))) for n in (grid.rows, grid.columns))
    inner = attention[low : bottom + 1, low : right + 1]
    row, column = divmod(int(inner.argmax()), inner.shape[1])
    return low + row, low + column


def center_prior(grid: FeatureGrid) -> NDArray[np.float64]:
    """Return attention [L] on the centre of the image, interpolated between the cells around it.

    It is the baseline that ignores the image: photographers put things in the centre.
    """

    def line(count: int) -> NDArray[np.float64]:
        position = np.clip(((grid.size - 1) / 2 - grid.first) / grid.step, 0, count - 1)
        return np.asarray(np.maximum(0, 1 - np.abs(np.arange(count) - position)))

    weights = np.outer(line(grid.rows), line(grid.columns)).ravel()
    return np.asarray(weights / weights.sum())
