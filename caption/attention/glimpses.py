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
from caption.attention.filterbank import Filterbank, FilterbankLayer
from caption.attention.windows import Grid
from caption.device import upcast_float32
from caption.errors import UserError

SIGMA = 0.15  # of the retina's samples; the image reaches from -1 to 1
SQUARES = 3  # g: width of a patch of a captioner's retina in squares; those of the smallest are as wide as a region


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
        self.numbers = FilterbankLayer(query_width, grid, size)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L] and the filters [B, Q, N N, L] for queries [B, Q, H]."""
        bank = self.numbers.filterbank(query)
        filters = self.filters(bank.rows, bank.columns)  # [B, Q, N N, L]
        return AttentionOutput(self.context(filters, bank, memory), filters.mean(2), heads=filters)

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for given filters [B, Q, N N, L], with the strength that the query predicts."""
        return self.context(weights, self.numbers.filterbank(query), memory)

    def context(self, filters: Tensor, bank: Filterbank, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for filters [B, Q, N N, L], with the strength of `bank`."""
        return self.output(bank.strength.squeeze(-1) * self.filtered(filters, memory))  # eq. 27


class Retina(_Glimpse):
    """RAM's glimpse: S patches around a place l, each twice as wide as the one before, and l itself. A patch is g x g
    squares, each read as its mean; the smallest patch reads the grid bilinearly interpolated.

    l is a row and a column in [-1, 1], from edge to edge of the image. `Memory.sample_rows` says which rows sample it,
    from a Gaussian of SIGMA around the predicted centre; the others take the centre, and train it by backpropagation. A
    sample outside the image reads its border; its log-probability remains that of the sample.
    """

    stochastic = True
    sides: Tensor
    offsets: Tensor

    def __init__(
        self, query_width: int, region_width: int, width: int, grid: Grid, size: int, squares: int = SQUARES
    ) -> None:
        """`size` is S, `squares` is g. At first the centre is near the middle of the image."""
        super().__init__(region_width, width, grid, size * squares**2, extra=2)
        self.squares = squares
        sides = 2.0 ** torch.arange(size).unsqueeze(1)  # of squares, in regions, [S, 1]
        self.register_buffer("sides", sides, persistent=False)
        self.register_buffer("offsets", sides * (torch.arange(squares) - (squares - 1) / 2), persistent=False)  # [S, g]
        self.centre = nn.Linear(query_width, 2)
        nn.init.zeros_(self.centre.bias)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L], filters [B, Q, K, L] and, unless `sample_rows` is None, the
        samples [B, Q]."""
        place, sample = self.choose(query, memory)
        return self.read_at(place, memory)._replace(sample=sample)

    def choose(self, query: Tensor, memory: Memory) -> tuple[Tensor, Sample | None]:
        """Return the places l [B, Q, 2] to read at for queries [B, Q, H], and, unless `sample_rows` is None, the
        samples [B, Q].

        No gradient passes from what is read at a sampled place to the centre: that is REINFORCE's part.
        """
        centre = torch.tanh(upcast_float32(self.centre(query)))  # [B, Q, 2]
        if memory.sample_rows is None:
            return centre, None
        chosen = centre.detach() if memory.argmax else sample_place(centre.detach())
        place = torch.where(memory.sample_rows.unsqueeze(-1), chosen, centre).clamp(-1, 1)
        log_probability = -((chosen - centre) ** 2).sum(-1) / (2 * SIGMA**2) - math.log(2 * math.pi * SIGMA**2)
        return place, Sample(
            self.region(place).masked_fill(~memory.sample_rows, -1),
            log_probability.masked_fill(~memory.sample_rows, 0),
            torch.full_like(log_probability, 1 + math.log(2 * math.pi * SIGMA**2)),  # of the Gaussian, in nats
        )

    def read_at(self, place: Tensor, memory: Memory) -> AttentionOutput:
        """Return contexts [B, Q, A], weights [B, Q, L] and filters [B, Q, K, L] of places l [B, Q, 2] in the image."""
        filters = self.filters(*self.lines(place))  # [B, Q, S g g, L]
        return AttentionOutput(self.context(filters, place, memory), filters.mean(2), heads=filters)

    def glimpse(self, place: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] of places l [B, Q, 2], as `read_at` does, without its weights and filters.

        One product after the other, over the rows and then over the columns, takes (rows + g) / (rows g) of the
        arithmetic of the filters: less than a tenth on a grid of pixels.
        """
        rows, columns = self.lines(place)  # [B, Q, S, g, rows] and [B, Q, S, g, columns]
        plane = memory.values.view(len(memory.values), *self.grid, -1)  # [B, rows, columns, D]
        strips = rows.flatten(1, 3).to(plane.dtype) @ plane.flatten(2)  # [B, Q S g, columns D]
        strips = strips.view(*rows.shape[:4], *plane.shape[2:])  # [B, Q, S, g, columns, D]
        patches = torch.einsum("bqsic, bqsrcd -> bqsrid", columns.to(plane.dtype), strips)  # [B, Q, S, g, g, D]
        return self.project(patches.flatten(2), place)

    def lines(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fraction of each row [B, Q, S, g, rows] and column [B, Q, S, g, columns] of the grid in every
        square of the patches around l [B, Q, 2]."""
        rows, columns = (
            overlap((place[..., i, None, None] + 1) / 2 * cells + self.offsets, self.sides, cells)
            for i, cells in enumerate(self.grid)
        )
        return rows, columns

    def context(self, filters: Tensor, place: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for filters [B, Q, K, L] around places l [B, Q, 2]."""
        return self.project(self.filtered(filters, memory), place)

    def project(self, read: Tensor, place: Tensor) -> Tensor:
        """Return contexts [B, Q, A] of what the squares read [B, Q, K D] and of where they are, l [B, Q, 2]."""
        return self.output(torch.cat([read, place.to(read.dtype)], -1))

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, A] for given filters [B, Q, K, L]; l is the centre of mass of the smallest patch's
        middle square, or four squares: where the filters are the retina's own, l itself, but near the edge."""
        shape = (*weights.shape[:2], self.squares, self.squares, *self.grid)
        patch = weights[:, :, : self.squares**2].reshape(shape)  # [B, Q, g, g, rows, columns]
        inner = slice((self.squares - 1) // 2, self.squares // 2 + 1)
        middle = patch[:, :, inner, inner].mean((2, 3))  # [B, Q, rows, columns]
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
