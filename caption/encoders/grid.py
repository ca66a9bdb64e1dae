"""Positions of an encoder's regions on the image."""

from typing import NamedTuple


class FeatureGrid(NamedTuple):
    """Positions of the L = rows * columns regions of an encoder on its square image, in pixels, S to a side.

    A region lies at the centre of its receptive field: at `first` + `step` times its row (or column), where 0 is the
    centre of the first pixel. In most networks this is not the centre of the cell that an even division of the image
    gives: each convolution of stride 2 with an odd kernel shifts it up and left, in ResNet and MobileNet by half a
    cell in all.
    """

    rows: int
    columns: int
    size: int  # S
    first: float
    step: float

    @classmethod
    def even(cls, rows: int, columns: int, size: int) -> "FeatureGrid":
        """Return the grid that divides the image evenly."""
        step = size / max(rows, columns)
        return cls(rows, columns, size, (step - 1) / 2, step)

    def corner(self, location: int) -> tuple[float, float]:
        """Return the left and the upper edge of a location's cell, in pixels."""
        row, column = divmod(location, self.columns)
        return self.first + (column - 0.5) * self.step, self.first + (row - 0.5) * self.step
