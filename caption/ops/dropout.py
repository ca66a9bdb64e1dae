"""Dropout whose random numbers cost little on a CPU, where they take most of its time: four elements share 64 bits."""

import torch
from torch import Tensor

LEVELS = 2**16  # a probability is rounded to a multiple of 1 / LEVELS


def supports_dropout(x: Tensor, p: float, training: bool) -> bool:
    return training and x.device.type == "cpu" and 0 < _kept_levels(p) < LEVELS


def _kept_levels(p: float) -> int:
    return round((1 - p) * LEVELS)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Return x with each element zero with probability p and the others divided by 1 - p."""
    kept = _kept_levels(p)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) < kept - LEVELS // 2  # int16 begins at -LEVELS / 2
    return x * (keep.to(x.dtype) * (LEVELS / kept))
