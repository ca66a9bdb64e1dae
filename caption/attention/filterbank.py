"""DRAW's N x N Gaussian filters over a plane, by which it reads and writes (Gregor et al., 2015, section 3.2)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from caption.attention.windows import Grid
from caption.device import upcast_float32

BOUND = 10.0  # of each parameter of the filters: e^10 regions, or five images away


class Filterbank(NamedTuple):
    """N x N filters, each the product of one over the rows and one over the columns of a plane."""

    rows: Tensor  # F_Y [..., N, rows], each filter sums to one
    columns: Tensor  # F_X [..., N, columns], likewise
    strength: Tensor  # gamma [..., 1, 1]

    def read(self, plane: Tensor) -> Tensor:
        """Return gamma F_Y x F_X^T [..., N, N], eq. 27, of planes x [..., rows, columns]."""
        return self.strength * (self.rows @ plane @ self.columns.mT)

    def write(self, patch: Tensor) -> Tensor:
        """Return F_Y^T w F_X / gamma [..., rows, columns], eq. 29, of patches w [..., N, N]."""
        return self.rows.mT @ patch @ self.columns / self.strength


class FilterbankLayer(nn.Linear):
    """W of eq. 21, and the filters that its five numbers describe: centre, variance, stride and strength."""

    def __init__(self, query_width: int, grid: Grid, size: int) -> None:
        """`size` is N; the plane is `grid`. At first the filters cover the plane, whatever the query."""
        super().__init__(query_width, 5)
        self.grid, self.size = grid, size
        self.stride = (max(grid) - 1) / max(size - 1, 1)  # delta for delta~ = 1; a single filter has no use for it
        with torch.no_grad():  # centre, stride and strength as for 0; filters that just overlap
            sigma = max(self.stride, 1.0) / 2
            self.bias.copy_(torch.tensor([0.0, 0.0, 2 * math.log(sigma), 0.0, 0.0]))

    def filterbank(self, query: Tensor) -> Filterbank:
        """Return the filters for queries [..., H].

        Each of g~_x, g~_y, log sigma^2, log delta~ and log gamma, eq. 21, is kept within BOUND, so that all values and
        gradients are finite; in the paper they have no bound.
        """
        numbers = upcast_float32(self(query)).clamp(-BOUND, BOUND)
        x, y, log_variance, log_stride, log_strength = numbers.unsqueeze(-1).unbind(-2)  # [..., 1] each
        stride, variance = self.stride * log_stride.exp(), log_variance.exp()  # eq. 24
        return Filterbank(
            gaussians(y, stride, variance, self.size, self.grid[0]),
            gaussians(x, stride, variance, self.size, self.grid[1]),
            log_strength.exp().unsqueeze(-1),
        )


def gaussians(position: Tensor, stride: Tensor, variance: Tensor, size: int, cells: int) -> Tensor:
    """Return F [..., N, cells], eq. 25-26, N = `size` filters over `cells` rows or columns; g~, delta and sigma^2 are
    [..., 1].

    The softmax over the cells is the division by Z; it is finite where a Gaussian lies so far outside that every cell's
    exponential would be zero. Such a filter reads the border.
    """
    number = torch.arange(1, size + 1, device=position.device, dtype=position.dtype)
    cell = torch.arange(1, cells + 1, device=position.device, dtype=position.dtype)
    centre = (cells + 1) / 2 * (position + 1)  # eq. 22-23
    mean = centre + (number - size / 2 - 0.5) * stride  # eq. 19-20, [..., N]
    distance = cell - mean.unsqueeze(-1)  # [..., N, cells]
    return (-(distance**2) / (2 * variance.unsqueeze(-1))).softmax(-1)
