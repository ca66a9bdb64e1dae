"""z_t = sum_i alpha_ti a_i for all rows of an image (eq. 13)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops import cpu


def contexts(weights: Tensor, values: Tensor) -> Tensor:
    """weights alpha_t [B, Q, L], values [B, L, D] -> contexts z_t [B, Q, D] in the values' precision; nothing is
    repeated along Q."""
    weights = weights.to(values.dtype)
    if not cpu.takes(weights, values):  # among others in bfloat16, where oneDNN's product is as fast
        return weights @ values
    found: Tensor = _Contexts.apply(weights, values)  # type: ignore[no-untyped-call]
    return found


class _Contexts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values)
        return cpu.contexts(weights, values)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, values = ctx.saved_tensors
        of_weights = cpu.of_weights(gradient, values) if ctx.needs_input_grad[0] else None
        return of_weights, weights.transpose(1, 2) @ gradient if ctx.needs_input_grad[1] else None
