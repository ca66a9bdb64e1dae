"""What passes between an attention and a decoder."""

from typing import NamedTuple

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision widened to single, for sums that would lose too much; single and double as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Memory(NamedTuple):
    """What attention needs of a batch of images; computed once an image, whatever the number of captions or beams."""

    keys: Tensor  # [B, L, A]
    values: Tensor  # [B, L, D], the annotation vectors

    def first(self, images: int) -> "Memory":
        """The memory of the first so many images, without a copy."""
        return self if images == len(self.keys) else Memory(self.keys[:images], self.values[:images])


class Attended(NamedTuple):
    """The result of one step of attention for Q rows of each image."""

    context: Tensor  # [B, Q, D], z_t
    weights: Tensor  # [B, Q, L], alpha_t: not negative, summing to one
