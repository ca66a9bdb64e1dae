"""The gate over the context, section 4.2.1."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops import cpu


def gated(context: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """context z [B, Q, C], hidden state h [B, Q, H], weight [1, H] and bias [1] of f_beta -> beta z [B, Q, C] and
    beta = sigmoid(f_beta(h)) [B, Q]."""
    alike = context.dtype == hidden.dtype and weight.dtype == torch.float32
    if not alike or not cpu.computes(hidden, torch.bfloat16):
        gate = torch.sigmoid(F.linear(hidden, weight, bias))
        return gate * context, gate.squeeze(-1)
    found, gate = _Gated.apply(context.flatten(0, 1), hidden.flatten(0, 1), weight, bias)
    return found.view(context.shape), gate.view(context.shape[:2])


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, context: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        found, gate = cpu.gated(context, hidden, weight, bias)
        ctx.save_for_backward(context, hidden, weight, gate)
        return found, gate

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_found: Tensor, of_gate: Tensor) -> tuple[Tensor, ...]:
        context, hidden, weight, gate = ctx.saved_tensors
        return cpu.gated_gradients(context, hidden, weight, gate, of_found, of_gate)
