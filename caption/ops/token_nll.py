"""How surprising each word is: the cross-entropy, without a second matrix of all words' probabilities."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.device import upcast_float32
from caption.ops import cpu
from caption.ops.torch_compile import compilable


def surprises(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each word, in nats: logits [N, V], targets [N] -> [N]."""
    found: Tensor
    if cpu.computes(logits, torch.bfloat16):
        found = _Surprises.apply(logits, targets)  # type: ignore[no-untyped-call]
    else:
        found = plain(logits, targets)
    return found


@compilable
def plain(logits: Tensor, targets: Tensor) -> Tensor:
    """As PyTorch has it."""
    return F.cross_entropy(upcast_float32(logits), targets, reduction="none")


class _Surprises(torch.autograd.Function):
    """log sum_v e^(x_v) - x_y, each less the greatest logit; the gradient is p_v - [v = y]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        assert targets.shape == logits.shape[:1]
        most, beyond = cpu.partition(logits)
        ctx.save_for_backward(logits, targets, most, beyond)
        return beyond - (logits.gather(1, targets.unsqueeze(1)).squeeze(1) - most)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, most, beyond = ctx.saved_tensors
        return cpu.of_logits(logits, targets, most, beyond, gradient), None
