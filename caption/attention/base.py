"""What passes between an attention and a decoder."""

from typing import NamedTuple

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision widened to single, for sums that would lose too much; single and double as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Memory(NamedTuple):
    """What attention needs of a batch of images; computed once an image, whatever the number of captions or beams.

    The last two say how hard attention selects; soft attention does not read them.
    """

    keys: Tensor  # [B, L, A]
    values: Tensor  # [B, L, D], the annotation vectors
    drawn: Tensor | None = None  # [B, Q], whether a row attends to one location; None: all to the expectation
    most_probable: bool = False  # that location is the most probable one, not a draw

    def first(self, images: int, rows: int) -> "Memory":
        """The memory of the first so many images and of their first rows, without a copy."""
        drawn = None if self.drawn is None else self.drawn[:images, :rows]
        if images == len(self.keys):
            return self._replace(drawn=drawn)
        return self._replace(keys=self.keys[:images], values=self.values[:images], drawn=drawn)


class Draw(NamedTuple):
    """The location that hard attention chose for each of Q rows."""

    location: Tensor  # [B, Q], in 0..L-1; -1 for a row that took the expectation
    log_probability: Tensor  # [B, Q], log alpha at the location; 0 for a row that took the expectation
    entropy: Tensor  # [B, Q], H[alpha] in nats


class Attended(NamedTuple):
    """The result of one step of attention for Q rows of each image."""

    context: Tensor  # [B, Q, D], z_t
    weights: Tensor  # [B, Q, L], alpha_t: not negative, summing to one
    draw: Draw | None = None  # of hard attention, unless all rows took the expectation
    gate: Tensor | None = None  # [B, Q], beta_t, by which the decoder multiplied the context
