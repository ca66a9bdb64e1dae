"""Dropout whose random numbers take little time on a CPU."""

import torch
from torch import Tensor, nn

LEVELS = 2**16  # a chance is a multiple of 1 / LEVELS


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU, where drawing one number for each element takes most of its time, four share 64 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same, in training each element zero with chance p, else over 1 - p."""
        kept = round((1 - self.p) * LEVELS)
        if not self.training or not 0 < kept < LEVELS or x.device.type != "cpu":
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.int16)[: x.numel()].view(x.shape) < kept - LEVELS // 2  # int16 begins at -LEVELS / 2
        return x * (keep.to(x.dtype) * (LEVELS / kept))
