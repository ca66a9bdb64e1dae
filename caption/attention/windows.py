"""Windows: where attention may look at all at a step (Luong et al., 2015, section 3.2).

global: everywhere, which is no window.
local_m: within D of p_t = t; the softmax is over these places alone.
local_p: within D of p_t = S sigmoid(v . tanh(W_p h)); after the softmax, the weights are multiplied by a Gaussian
around p_t of sigma = D / 2, and no longer sum to one.

Luong's positions are words of a sentence, on a line. A picture's regions are read as such a line, row by row, with
S = L; or, on the plane, p_t is a row and a column, S the number of each, and a place is within D when its row and its
column are. local_m walks the regions in reading order in both: at step t its middle is region t.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


class Allowed(NamedTuple):
    """A window of one step."""

    inside: Tensor  # bool, broadcasts to [B, Q, L]
    damping: Tensor | None = None  # if any: logarithm of a factor in (0, 1] for each weight [B, Q, L]


class _Places(nn.Module):
    """The places of L regions on a line or on the plane."""

    places: Tensor  # [L, 1] on the line, [L, 2] on the plane
    lengths: Tensor  # S: [1] or [2]

    def __init__(self, grid: Grid, radius: int, plane: bool, query_width: int, width: int) -> None:
        super().__init__()
        rows, columns = grid
        self.radius = radius
        number = torch.arange(rows * columns)
        places = torch.stack([number // columns, number % columns], 1) if plane else number.unsqueeze(1)
        self.register_buffer("places", places.float(), persistent=False)
        self.register_buffer("lengths", torch.tensor(grid if plane else [rows * columns]).float(), persistent=False)

    def distance(self, middle: Tensor) -> Tensor:
        """middle [..., 1] or [..., 2] -> each region's distance from it along the line, or along rows and columns
        [..., L, 1 or 2]."""
        return self.places - middle.unsqueeze(-2)


class LocalMonotonic(_Places):
    """local-m: the window moves on by one region a step."""

    def forward(self, query: Tensor, step: int) -> Allowed:
        """query [B, Q, H], t from 0. Beyond the last region, the window stays there."""
        middle = self.places[min(step, len(self.places) - 1)]  # p_t
        return Allowed((self.distance(middle).abs() <= self.radius).all(-1))  # [L]


class LocalPredictive(_Places):
    """local-p: the query says where the window is; differentiable through the Gaussian."""

    def __init__(self, grid: Grid, radius: int, plane: bool, query_width: int, width: int) -> None:
        super().__init__(grid, radius, plane, query_width, width)
        self.hidden = nn.Linear(query_width, width, bias=False)  # W_p
        self.middle = nn.Linear(width, self.places.shape[1], bias=False)  # v_p

    def forward(self, query: Tensor, step: int) -> Allowed:
        """query [B, Q, H] -> the window [B, Q, L] and the logarithm of the Gaussian in it."""
        share = torch.sigmoid(self.middle(torch.tanh(self.hidden(query))))  # [B, Q, 1 or 2]
        distance = self.distance(self.lengths * share.to(self.lengths.dtype))  # from p_t, [B, Q, L, 1 or 2]
        sigma = self.radius / 2
        return Allowed((distance.abs() <= self.radius).all(-1), -(distance**2).sum(-1) / (2 * sigma**2))


WINDOWS = {"local_m": LocalMonotonic, "local_p": LocalPredictive}
