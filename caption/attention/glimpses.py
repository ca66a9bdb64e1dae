"""Glimpses: attention that chooses a place on the picture's plane instead of weighing its regions one by one.

draw: an N x N grid of Gaussian filters, its middle, stride, width and strength predicted; DRAW's reading (Gregor et
al., 2015, section 3.2). Soft: all of it is differentiable.
retina: patches of growing size around a place, which in training is drawn around a predicted one; RAM's glimpse sensor
and location network (Mnih et al., 2014, section 2.1). `losses.reinforce_loss` trains the
draws, as those of hard attention.

Both read the map of regions through K filters over its cells, each not negative and summing to one, and project the K
vectors of D numbers together to A. The weights are the mean of the K filters. No region is compared with the state, so
that there is neither a score nor a window.
"""

import math

import torch
from torch import Tensor, nn

from caption.attention.base import AttentionOutput, Draw, Memory
from caption.attention.windows import Grid
from caption.device import upcast_float32

BOUND = 10.0  # of each number that the Gaussian grid is made from: e^10 cells, or five pictures away
SPREAD = 0.15  # sigma of the retina's draws; the picture reaches from -1 to 1
SQUARES = 3  # g: a patch of the retina is so many squares wide, those of the smallest as wide as a cell


class _Glimpse(nn.Module):
    """What the two have in common: K filters over the map, read and projected."""

    def __init__(self, region_width: int, width: int, grid: Grid, filters: int, beside: int = 0) -> None:
        """`beside` numbers are projected along with what the filters read."""
        super().__init__()
        self.context_width, self.grid = width, grid
        self.output = nn.Linear(filters * region_width + beside, width)

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D], row by row -> what every later step reads: there is nothing to project, no keys."""
        return Memory(regions, regions, regions.mean(1))

    def read(self, filters: Tensor, memory: Memory) -> Tensor:
        """filters [B, Q, K, L] -> what they see [B, Q, K D]; one product, nothing repeated along Q."""
        seen = filters.to(memory.values.dtype).flatten(1, 2) @ memory.values  # [B, Q K, D]
        return seen.view(*filters.shape[:2], -1)


class GaussianGrid(_Glimpse):
    """DRAW's selective attention, eq. 21-27: gamma F_Y map F_X^T, an N x N picture of the map, projected.

    A row of F_X is a Gaussian over the map's columns, normalised to one, a row of F_Y one over its rows.
    """

    stochastic = False

    def __init__(self, query_width: int, region_width: int, width: int, grid: Grid, size: int) -> None:
        """`size` is N. At first the grid covers the picture, whatever the state."""
        super().__init__(region_width, width, grid, size * size)
        self.size = size
        self.stride = (max(grid) - 1) / max(size - 1, 1)  # delta for delta~ = 1; a single filter has no use for it
        self.numbers = nn.Linear(query_width, 5)  # W of eq. 21
        with torch.no_grad():  # middle, stride and strength as they are for 0; filters that just overlap
            sigma = max(self.stride, 1.0) / 2
            self.numbers.bias.copy_(torch.tensor([0.0, 0.0, 2 * math.log(sigma), 0.0, 0.0]))

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] -> context [B, Q, A] and weights [B, Q, L].

        Each of the five numbers is kept within BOUND, so that all values and gradients are finite; in the paper they
        have no bound.
        """
        numbers = upcast_float32(self.numbers(query)).clamp(-BOUND, BOUND)
        x, y, log_variance, log_stride, log_strength = numbers.unsqueeze(-1).unbind(-2)  # eq. 21, each [B, Q, 1]
        stride, variance = self.stride * log_stride.exp(), log_variance.exp()  # eq. 24
        rows = self.filterbank(y, stride, variance, self.grid[0])  # F_Y, [B, Q, N, rows]
        columns = self.filterbank(x, stride, variance, self.grid[1])  # F_X, [B, Q, N, columns]
        # Every pair of them over the whole map: for the few filters of a captioner less work to remember than one
        # product after the other, which has Q N columns D numbers between.
        filters = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # [B, Q, N, N, rows, columns]
        filters = filters.flatten(4, 5).flatten(2, 3)  # [B, Q, N N, L]
        seen = log_strength.exp() * self.read(filters, memory)  # eq. 27, [B, Q, N N D]
        return AttentionOutput(self.output(seen), filters.mean(2))

    def filterbank(self, middle: Tensor, stride: Tensor, variance: Tensor, cells: int) -> Tensor:
        """g~, delta and sigma^2 [B, Q, 1], the map's rows or columns -> F [B, Q, N, cells], eq. 25-26.

        The softmax over the cells is the division by Z; it is finite where a Gaussian lies so far outside that every
        cell's exponential would be zero. That filter reads the border.
        """
        number = torch.arange(1, self.size + 1, device=middle.device, dtype=middle.dtype)
        cell = torch.arange(1, cells + 1, device=middle.device, dtype=middle.dtype)
        centre = (cells + 1) / 2 * (middle + 1)  # eq. 22-23
        mean = centre + (number - self.size / 2 - 0.5) * stride  # eq. 19-20, [B, Q, N]
        distance = cell - mean.unsqueeze(-1)  # [B, Q, N, cells]
        return (-(distance**2) / (2 * variance.unsqueeze(-1))).softmax(-1)


class Retina(_Glimpse):
    """RAM's glimpse: S patches around a place l, each twice as wide as the one before, beside l itself. A patch is
    3 x 3 squares, and what is read of each is its mean; of the smallest it is the map, bilinearly interpolated.

    l is a row and a column in [-1, 1], from edge to edge of the picture. `Memory.drawn` says which rows draw it, from a
    Gaussian of sigma SPREAD around the predicted centre; the others look at the centre, and train it by
    backpropagation. A draw outside the picture looks at its border; its log-probability remains that of the draw.
    """

    stochastic = True
    sides: Tensor
    offsets: Tensor

    def __init__(self, query_width: int, region_width: int, width: int, grid: Grid, size: int) -> None:
        """`size` is S. At first the centre is near the picture's middle."""
        super().__init__(region_width, width, grid, size * SQUARES**2, beside=2)
        sides = 2.0 ** torch.arange(size).unsqueeze(1)  # of squares, in cells, [S, 1]
        self.register_buffer("sides", sides, persistent=False)
        self.register_buffer("offsets", sides * (torch.arange(SQUARES) - (SQUARES - 1) / 2), persistent=False)  # [S, g]
        self.centre = nn.Linear(query_width, 2)
        nn.init.zeros_(self.centre.bias)

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] -> context [B, Q, A], weights [B, Q, L] and, unless `drawn` is None, the draws [B, Q].

        No gradient passes from what is seen at a drawn place to the centre: that is REINFORCE's part.
        """
        centre = torch.tanh(upcast_float32(self.centre(query)))  # [B, Q, 2]
        if memory.drawn is None:
            return AttentionOutput(*self.look(centre, memory))
        chosen = centre.detach() if memory.most_probable else wander(centre.detach())
        place = torch.where(memory.drawn.unsqueeze(-1), chosen, centre).clamp(-1, 1)
        context, weights = self.look(place, memory)
        log_probability = -((chosen - centre) ** 2).sum(-1) / (2 * SPREAD**2) - math.log(2 * math.pi * SPREAD**2)
        draw = Draw(
            self.cell(place).masked_fill(~memory.drawn, -1),
            log_probability.masked_fill(~memory.drawn, 0),
            torch.full_like(log_probability, 1 + math.log(2 * math.pi * SPREAD**2)),  # of the Gaussian, in nats
        )
        return AttentionOutput(context, weights, draw)

    def look(self, place: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """l [B, Q, 2], inside the picture -> context [B, Q, A] and weights [B, Q, L]."""
        rows, columns = (
            overlap((place[..., i, None, None] + 1) / 2 * cells + self.offsets, self.sides, cells)
            for i, cells in enumerate(self.grid)
        )  # [B, Q, S, g, rows] and [B, Q, S, g, columns]
        filters = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # [B, Q, S, g, g, rows, columns]
        filters = filters.flatten(5, 6).flatten(2, 4)  # [B, Q, S g g, L]
        seen = self.read(filters, memory)
        context: Tensor = self.output(torch.cat([seen, place.to(seen.dtype)], -1))
        return context, filters.mean(2)

    def cell(self, place: Tensor) -> Tensor:
        """The region in which l [B, Q, 2] lies [B, Q]."""
        row, column = (
            ((place[..., i] + 1) / 2 * cells).floor().long().clamp(max=cells - 1) for i, cells in enumerate(self.grid)
        )
        return row * self.grid[1] + column


def wander(centre: Tensor) -> Tensor:
    """l drawn from a Gaussian of sigma SPREAD around the centre; both [B, Q, 2]."""
    return centre + SPREAD * torch.randn_like(centre)


def overlap(middle: Tensor, side: Tensor, cells: int) -> Tensor:
    """How much of each of so many cells in a row lies within side / 2 of the middle [...], as shares of what lies in
    any [..., cells]; the first cell reaches from 0 to 1. A middle outside the row counts as one on its edge, so that
    something always lies in a cell."""
    start = torch.arange(cells, device=middle.device, dtype=middle.dtype)
    middle = middle.clamp(0, cells)
    low, high = (middle - side / 2).unsqueeze(-1), (middle + side / 2).unsqueeze(-1)
    shared = (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(min=0)
    return shared / shared.sum(-1, keepdim=True)


GLIMPSES: dict[str, type[GaussianGrid | Retina]] = {"draw": GaussianGrid, "retina": Retina}
