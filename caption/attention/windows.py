"""Windows: the regions that attention may weigh at a step (Luong et al., 2015, section 3.2).

global: everywhere, which is no window.
local_m: within D of p_t = t; the softmax is over these places alone.
local_p: within D of p_t = S sigmoid(v . tanh(W_p h)); after the softmax, the weights are multiplied by a Gaussian
around p_t of sigma = D / 2, and no longer sum to one.

Luong's positions are words of a sentence, on a line. An image's regions are read as such a line, row by row, with
S = L; or, on the plane, p_t is a row and a column, S the number of each, and a region is within D when its row and its
column are. local_m walks the regions in reading order in both: at step t its centre is region t.

A memory with padding, such as a batch of sentences, is such a line: S is the number of regions of each, padding comes
after them, and the grid is one row of the most that there may be.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from caption.errors import UserError

Grid = tuple[int, int]


class Window(NamedTuple):
    """The window of one step."""

    inside: Tensor  # bool, broadcasts to [B, Q, L]
    log_bias: Tensor | None = None  # logarithm of a factor in (0, 1] of each weight [B, Q, L], or none


class _Local(nn.Module):
    """The positions of L regions on a line or on the plane."""

    positions: Tensor  # [L, 1] on the line, [L, 2] on the plane
    lengths: Tensor  # S: [1] or [2]

    def __init__(self, grid: Grid, radius: int, plane: bool, query_width: int, width: int) -> None:
        super().__init__()
        rows, columns = grid
        self.radius, self.plane = radius, plane
        index = torch.arange(rows * columns)
        positions = torch.stack([index // columns, index % columns], 1) if plane else index.unsqueeze(1)
        self.register_buffer("positions", positions.float(), persistent=False)
        self.register_buffer("lengths", torch.tensor(grid if plane else [rows * columns]).float(), persistent=False)

    def check_mask(self, mask: Tensor) -> None:
        """Raise UserError for a mask [B, L] on the plane, of more regions than the grid has, or with padding before a
        region."""
        if self.plane:
            raise UserError("decoder.window_dims is 2d, but padded regions lie on no plane; give 1d, a line of them")
        if mask.shape[1] > len(self.positions):
            raise UserError(
                f"there are {mask.shape[1]} regions with padding, but the window's grid has {len(self.positions)}; "
                "give it as many columns as the longest line of regions"
            )
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise UserError(
                "a window needs padding after all regions, but the mask has some before; move it to the end"
            )

    def lengths_of(self, mask: Tensor | None) -> Tensor:
        """Return S: [1] or [2], or [B, 1, 1] of regions that `mask` bool [B, L] tells from padding."""
        if mask is None:
            return self.lengths
        return mask.sum(1).to(self.lengths.dtype).view(-1, 1, 1)

    def offset(self, centre: Tensor, mask: Tensor | None) -> Tensor:
        """Return the offset of each region from a centre [..., 1 or 2], along the line or along rows and columns, shape
        [..., L, 1 or 2]."""
        positions = self.positions if mask is None else self.positions[: mask.shape[1]]
        return positions - centre.unsqueeze(-2)


class LocalMonotonic(_Local):
    """local-m: the window moves on by one region at every step."""

    def forward(self, query: Tensor, step: int, mask: Tensor | None = None) -> Window:
        """Return the window of step t, counted from 0, whatever the query; beyond the last region it stays there."""
        centre = self.positions[min(step, len(self.positions) - 1)]  # p_t, [1] or [2]
        if mask is not None:
            centre = torch.minimum(centre, self.lengths_of(mask) - 1)  # [B, 1, 1]
        return Window((self.offset(centre, mask).abs() <= self.radius).all(-1))  # [L] or [B, 1, L]


class LocalPredictive(_Local):
    """local-p: the query predicts the centre; differentiable through the Gaussian."""

    def __init__(self, grid: Grid, radius: int, plane: bool, query_width: int, width: int) -> None:
        super().__init__(grid, radius, plane, query_width, width)
        self.hidden = nn.Linear(query_width, width, bias=False)  # W_p
        self.centre = nn.Linear(width, self.positions.shape[1], bias=False)  # v_p

    def forward(self, query: Tensor, step: int, mask: Tensor | None = None) -> Window:
        """Return the window [B, Q, L] of queries [B, Q, H] and the logarithm of the Gaussian in it."""
        fraction = torch.sigmoid(self.centre(torch.tanh(self.hidden(query))))  # [B, Q, 1 or 2]
        centre = self.lengths_of(mask) * fraction.to(self.lengths.dtype)  # p_t, [B, Q, 1 or 2]
        offset = self.offset(centre, mask)  # [B, Q, L, 1 or 2]
        sigma = self.radius / 2
        return Window((offset.abs() <= self.radius).all(-1), -(offset**2).sum(-1) / (2 * sigma**2))


WINDOWS = {"local_m": LocalMonotonic, "local_p": LocalPredictive}
