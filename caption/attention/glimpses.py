"""Glimpses: attention that chooses a place on the image's plane instead of weighing its regions one by one.

draw: an N x N grid of Gaussian filters, its centre, stride, width and strength predicted; DRAW's reading (Gregor et
al., 2015, section 3.2). Soft: all of it is differentiable. retina: patches of growing size around a place, which in
training is sampled around a predicted one; RAM's glimpse sensor and location network (Mnih et al., 2014, section 2.1).
`training.reinforce` trains the samples, as hard attention's.

Both read the grid of regions through K filters over it, each not negative and summing to one, and project the K vectors
of D numbers together to A. The weights are the mean of the K filters. No region is compared with the state: there is
neither a score nor a window.
"""

import math

import torch
from torch import Tensor, nn

from caption.attention.base import Attention, AttentionOutput, Memory, Sample
from caption.attention.windows import Grid
from caption.device import upcast_float32
from caption.errors import UserError

BOUND = 10.0  # of each parameter of the Gaussian grid: e^10 regions, or five images away
SIGMA = 0.15  # of the retina's samples; the image reaches from -1 to 1
SQUARES = 3  # g: width of a patch of the retina in squares; those of the smallest are as wide as a region


class _Glimpse(Attention):
    """K filters over the grid of regions, read and projected together."""

    def __init__(self, region_width: int, width: int, grid: Grid, filters: int, extra: int = 0) -> None:
        """`extra` numbers are projected along with what the filters read."""
        super().__init__()
        self.context_width, self.grid = width, grid
        self.output = nn.Linear(filters * region_width + extra, width)

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads: the regions [B, L, D], row by row; nothing is projected to keys.

        Raises UserError for a mask: a glimpse reads a whole grid.
        """
        if mask is not None:
            raise UserError(
                "decoder.attention draw and retina read a whole grid and can mask none of it; give soft or hard"
            )
        return Memory(regions, regions, regions.mean(1))

    def filters(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return K filters over the grid [B, Q, K, L].

        Each is the product of one over the rows [B, Q, ..., N, rows] and one over the columns of the grid
        [B, Q, ..., N, columns]: K = N N, for each value of "..." if there are any.
        """
        # Every pair of them over the whole grid: for the few filters of a captioner it holds less for the backward pass
        # than one product after the other, which has Q N columns D numbers in between.
        filters = rows[..., :, None, :, None] * columns[..., None, :, None, :]  # [B, Q, ..., N, N, rows, columns]
        return filters.flatten(-2).flatten(2, -2)

    def filtered(self, filters: Tensor, memory: Memory) -> Tensor:
        """Return what filters [B, Q, K, L] read, shape [B, Q, K D]; nothing is repeated along Q."""
        read = filters.to(memory.values.dtype).flatten(1, 2) @ memory.values  # [B, Q K, D]
        return read.view(*filters.shape[:2], -1)


class DrawGlimpse(_Glimpse):
    """DRAW's selective attention, eq. 21-27: gamma F_Y map F_X^T, an N x N reading of the grid of regions, projected.

    A row of F_X is a Gaussian over the grid's columns, normalised to one, a row of F_Y one over its rows.
    """

    def __init__(self, query_width: int, region_width: int, width: int, grid: Grid, size: int) -> None:
        """`size` is N. At first the filters cover the image, whatever the state."""
        super().__init__(region_width, width, grid, size * size)
        self.size = size
        self.stride = (max(grid) - 1) / max(size - 1, 1)  # delta for delta~ = 1; a single filter has no use for it
        self.numbers = nn.Linear(query_width, 5)  # W of eq. 21
        with torch.no_grad():  # centre, stride and strength as for 0; filters that just overlap
            sigma = max(self.stride, 1.0) / 2
            self.numbers.bias.copy_(torch.tensor([0.0, 0.0, 2 * math.log(sigma), 0.0, 0.0]))

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L] and the filters [B, Q, N N, L] for queries [B, Q, H]."""
        x, y, log_variance, log_stride, log_strength = self.predict(query)
        stride, variance = self.stride * log_stride.exp(), log_variance.exp()  # eq. 24
        rows = self.filterbank(y, stride, variance, self.grid[0])  # F_Y, [B, Q, N, rows]
        columns = self.filterbank(x, stride, variance, self.grid[1])  # F_X, [B, Q, N, columns]
        filters = self.filters(rows, columns)  # [B, Q, N N, L]
        context = self.output(log_strength.exp() * self.filtered(filters, memory))  # eq. 27
        return AttentionOutput(context, filters.mean(2), heads=filters)

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for given filters [B, Q, N N, L], with the strength that the query predicts."""
        *_, log_strength = self.predict(query)
        return self.output(log_strength.exp() * self.filtered(weights, memory))

    def predict(self, query: Tensor) -> tuple[Tensor, ...]:
        """Return g~_x, g~_y, log sigma^2, log delta~ and log gamma, eq. 21, each [B, Q, 1], for queries [B, Q, H].

        Each is kept within BOUND, so that all values and gradients are finite; in the paper they have no bound.
        """
        return upcast_float32(self.numbers(query)).clamp(-BOUND, BOUND).unsqueeze(-1).unbind(-2)

    def filterbank(self, position: Tensor, stride: Tensor, variance: Tensor, cells: int) -> Tensor:
        """Return F [B, Q, N, cells], eq. 25-26, over `cells` rows or columns of the grid; g~, delta and sigma^2 are
        [B, Q, 1].

        The softmax over the cells is the division by Z; it is finite where a Gaussian lies so far outside that every
        cell's exponential would be zero. Such a filter reads the border.
        """
        number = torch.arange(1, self.size + 1, device=position.device, dtype=position.dtype)
        cell = torch.arange(1, cells + 1, device=position.device, dtype=position.dtype)
        centre = (cells + 1) / 2 * (position + 1)  # eq. 22-23
        mean = centre + (number - self.size / 2 - 0.5) * stride  # eq. 19-20, [B, Q, N]
        distance = cell - mean.unsqueeze(-1)  # [B, Q, N, cells]
        return (-(distance**2) / (2 * variance.unsqueeze(-1))).softmax(-1)


class Retina(_Glimpse):
    """RAM's glimpse: S patches around a place l, each twice as wide as the one before, and l itself. A patch is 3 x 3
    squares, each read as its mean; the smallest patch reads the grid bilinearly interpolated.

    l is a row and a column in [-1, 1], from edge to edge of the image. `Memory.sample_rows` says which rows sample it,
    from a Gaussian of SIGMA around the predicted centre; the others take the centre, and train it by backpropagation. A
    sample outside the image reads its border; its log-probability remains that of the sample.
    """

    stochastic = True
    sides: Tensor
    offsets: Tensor

    def __init__(self, query_width: int, region_width: int, width: int, grid: Grid, size: int) -> None:
        """`size` is S. At first the centre is near the middle of the image."""
        super().__init__(region_width, width, grid, size * SQUARES**2, extra=2)
        sides = 2.0 ** torch.arange(size).unsqueeze(1)  # of squares, in regions, [S, 1]
        self.register_buffer("sides", sides, persistent=False)
        self.register_buffer("offsets", sides * (torch.arange(SQUARES) - (SQUARES - 1) / 2), persistent=False)  # [S, g]
        self.centre = nn.Linear(query_width, 2)
        nn.init.zeros_(self.centre.bias)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L], filters [B, Q, K, L] and, unless `sample_rows` is None, the
        samples [B, Q].

        No gradient passes from what is read at a sampled place to the centre: that is REINFORCE's part.
        """
        centre = torch.tanh(upcast_float32(self.centre(query)))  # [B, Q, 2]
        if memory.sample_rows is None:
            return self.read_at(centre, memory)
        chosen = centre.detach() if memory.argmax else sample_place(centre.detach())
        place = torch.where(memory.sample_rows.unsqueeze(-1), chosen, centre).clamp(-1, 1)
        log_probability = -((chosen - centre) ** 2).sum(-1) / (2 * SIGMA**2) - math.log(2 * math.pi * SIGMA**2)
        sample = Sample(
            self.region(place).masked_fill(~memory.sample_rows, -1),
            log_probability.masked_fill(~memory.sample_rows, 0),
            torch.full_like(log_probability, 1 + math.log(2 * math.pi * SIGMA**2)),  # of the Gaussian, in nats
        )
        return self.read_at(place, memory)._replace(sample=sample)

    def read_at(self, place: Tensor, memory: Memory) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L] and filters [B, Q, K, L] of places l [B, Q, 2] in the image."""
        rows, columns = (
            overlap((place[..., i, None, None] + 1) / 2 * cells + self.offsets, self.sides, cells)
            for i, cells in enumerate(self.grid)
        )  # [B, Q, S, g, rows] and [B, Q, S, g, columns]
        filters = self.filters(rows, columns)  # [B, Q, S g g, L]
        return AttentionOutput(self.context(filters, place, memory), filters.mean(2), heads=filters)

    def context(self, filters: Tensor, place: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for filters [B, Q, K, L] around places l [B, Q, 2]."""
        read = self.filtered(filters, memory)  # [B, Q, S g g D]
        return self.output(torch.cat([read, place.to(read.dtype)], -1))

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for given filters [B, Q, K, L]; l is the centre of mass of the smallest patch's
        middle square: where the filters are the retina's own, l itself, but within half a region of the edge."""
        middle = weights[:, :, SQUARES**2 // 2].view(*weights.shape[:2], *self.grid)  # [B, Q, rows, columns]
        lines = middle.sum(3), middle.sum(2)  # [B, Q, rows], [B, Q, columns]
        place = [
            line @ ((torch.arange(cells, device=line.device, dtype=line.dtype) + 0.5) * 2 / cells - 1)
            for line, cells in zip(lines, self.grid, strict=True)
        ]
        return self.context(weights, torch.stack(place, -1), memory)

    def region(self, place: Tensor) -> Tensor:
        """Return the region [B, Q] in which l [B, Q, 2] lies."""
        row, column = (
            ((place[..., i] + 1) / 2 * cells).floor().long().clamp(max=cells - 1) for i, cells in enumerate(self.grid)
        )
        return row * self.grid[1] + column


def sample_place(centre: Tensor) -> Tensor:
    """Return l sampled from a Gaussian of SIGMA around the centre; both are [B, Q, 2]."""
    return centre + SIGMA * torch.randn_like(centre)


def overlap(centre: Tensor, side: Tensor, cells: int) -> Tensor:
    """Return how much of each cell in a row of them lies within side / 2 of the centre [...], as fractions that sum to
    one [..., cells]; the first cell reaches from 0 to 1. A centre outside the row counts as one on its edge, so that
    something always lies in a cell."""
    start = torch.arange(cells, device=centre.device, dtype=centre.dtype)
    centre = centre.clamp(0, cells)
    low, high = (centre - side / 2).unsqueeze(-1), (centre + side / 2).unsqueeze(-1)
    shared = (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(min=0)
    return shared / shared.sum(-1, keepdim=True)


GLIMPSES: dict[str, type[DrawGlimpse | Retina]] = {"draw": DrawGlimpse, "retina": Retina}
