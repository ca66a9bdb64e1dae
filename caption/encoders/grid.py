"""Where the regions of an encoder lie on the image."""

from typing import NamedTuple


class FeatureGrid(NamedTuple):
    """Where the L = rows * columns regions of an encoder lie on its square picture, in pixels of side S.

    The middle of the first pixel is 0. A region's middle is the middle of what it sees: `first` + `step` times its row
    (or column). In most networks that is not the middle of the cell that a plain division of the picture gives: every
    convolution of stride 2 with an odd kernel moves it up and left, in ResNet and MobileNet by half a cell in all.
    """

    rows: int
    columns: int
    size: int  # S
    first: float
    step: float

    @classmethod
    def even(cls, rows: int, columns: int, size: int) -> "FeatureGrid":
        """The picture divided evenly."""
        step = size / max(rows, columns)
        return cls(rows, columns, size, (step - 1) / 2, step)

    def corner(self, location: int) -> tuple[float, float]:
        """Left and upper edge of the cell of a location, in pixels."""
        row, column = divmod(location, self.columns)
        return self.first + (column - 0.5) * self.step, self.first + (row - 0.5) * self.step
