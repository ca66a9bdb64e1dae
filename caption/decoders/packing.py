"""Indices that leave padding out of the time loop and of the output layer.

Captions [B, Q, T] have N words in all. Step t runs over the first b images and their first q rows, its active shape:
the smallest that contains every unfinished caption. R counts the active rows of all steps, N <= R <= B Q T.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from caption.data.vocabulary import PAD

MULTIPLE = 4  # steps of replayed time loops are padded to a multiple of this


def active_shapes(lengths: Tensor, steps: int) -> list[tuple[int, int]]:
    """Return, for each step, the (images, rows) that contain every unfinished caption; lengths [B, Q] on the CPU."""
    active = torch.arange(steps).view(-1, 1, 1) < lengths  # [T, B, Q]

    def count(flags: Tensor) -> list[int]:  # [T, n] -> one more than the index of the last that is set
        return (flags * torch.arange(1, flags.shape[1] + 1)).amax(1).clamp(min=1).tolist()

    return list(zip(count(active.any(2)), count(active.any(1)), strict=True))


def token_positions(lengths: Tensor, steps: int) -> Tensor:
    """Return the positions of the N words in captions.flatten() [N], on the CPU, where `lengths` [B, Q] are."""
    is_word = torch.arange(steps) < lengths.unsqueeze(-1)  # [B, Q, T]
    return is_word.flatten().nonzero().squeeze(1)


def packed_indices(lengths: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return three index vectors, all on the CPU, for steps of these active shapes.

    The positions in captions.flatten() of the R active rows, step after step [R]; those of the N words [N]; and the
    places of the N words among the active rows [N].
    """
    images, rows = lengths.shape
    sizes = torch.tensor(shapes)[..., None]  # [T, 2, 1]
    active = (torch.arange(images) < sizes[:, 0]).unsqueeze(2) & (torch.arange(rows) < sizes[:, 1]).unsqueeze(1)
    step, image, row = active.nonzero().unbind(1)
    active_positions = (image * rows + row) * len(shapes) + step
    positions = token_positions(lengths, len(shapes))
    place = torch.empty(lengths.numel() * len(shapes), dtype=torch.long)
    place[active_positions] = torch.arange(len(active_positions))
    return active_positions, positions, place[positions]


def unpack(values: Tensor, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the values [N, ...] of words at their positions [N] in a tensor of this shape [B, Q, T, ...], else
    zero."""
    result = values.new_zeros(torch.Size(shape).numel(), *values.shape[1:])
    return result.index_copy(0, positions, values).view(*shape, *values.shape[1:])


def pad_to_multiple(captions: Tensor) -> Tensor:
    """Return captions [B, Q, T] padded to the next multiple of MULTIPLE words."""
    return F.pad(captions, (0, -captions.shape[-1] % MULTIPLE), value=PAD)
