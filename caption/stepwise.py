"""Linear layers that are applied at every step of a caption, by weights that do not change between steps.

Inside `unrolled`, a `StepLinear` does for all steps together what need not be done at each: on a CPU its weights are
brought into the order in which oneDNN multiplies (PyTorch would do so at every step, which for few rows takes longer
than the product itself), and its weights' gradient is one product over all steps, not one a step and their sum. Outside
it is `nn.Linear`, and a small layer is always.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caption.machine import in_working_precision

LARGE = 2**17  # weights of a layer from which on this pays


class StepLinear(nn.Linear):
    """x [..., n] -> x W^T + b [..., m]."""

    steps: "Steps | None" = None  # inside `unrolled`

    def forward(self, x: Tensor) -> Tensor:
        if self.steps is None:
            return super().forward(x)
        return self.steps(x)


@contextlib.contextmanager
def unrolled(module: Any) -> Iterator[None]:
    """Many steps of a decoder are to follow, by the weights that it has now."""
    layers = (
        [layer for layer in module.modules() if isinstance(layer, StepLinear) and layer.weight.numel() >= LARGE]
        if isinstance(module, nn.Module)
        else []
    )
    for layer in layers:
        layer.steps = Steps(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.steps = None


class Steps:
    """A layer's steps from one `unrolled` on, and in the end their backward pass."""

    def __init__(self, layer: StepLinear) -> None:
        self.layer = layer
        self.forth: Weights | None = None
        self.back: Weights | None = None
        self.token: Tensor | None = None
        self.passed: list[tuple[Tensor, Tensor]] = []  # rows x [N, n] and the gradient of their results [N, m]

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias, x = self.layer.weight, self.layer.bias, in_working_precision(x)
        dtype = x.dtype
        with torch.autocast(x.device.type, enabled=False):
            if self.forth is None:
                self.forth = Weights(weight.detach().to(dtype))
            if not torch.is_grad_enabled():
                return self.forth(x, None if bias is None else bias.to(dtype))
            if self.token is None:
                self.token = _Gather.apply(weight, self)
            result: Tensor = _Step.apply(x, self.token, self)
            return result if bias is None else result + bias.to(dtype)


class Weights:
    """A matrix [m, n] in the order in which this machine multiplies by it."""

    def __init__(self, weight: Tensor) -> None:
        self.plain = weight
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight) if packs(weight) else None

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., n] -> [..., m]."""
        if self.packed is None:
            return F.linear(x, self.plain, bias)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.packed, bias, "none", [], "")
        return result


def packs(weight: Tensor) -> bool:
    """Whether oneDNN is there for such a matrix, and multiplies in its precision."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or half


class _Gather(torch.autograd.Function):
    """Stands for the weights in the steps: its backward pass comes after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: Steps) -> Tensor:
        ctx.steps, ctx.dtype = steps, weight.dtype
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, nothing: Tensor) -> tuple[Tensor, None]:
        rows, gradients = (torch.cat(parts) for parts in zip(*ctx.steps.passed, strict=True))
        ctx.steps.passed.clear()
        return (gradients.t() @ rows).to(ctx.dtype), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, steps: Steps) -> Tensor:
        ctx.save_for_backward(x)
        ctx.steps = steps
        assert steps.forth is not None
        return steps.forth(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (x,), steps = ctx.saved_tensors, ctx.steps
        steps.passed.append((x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])))
        of_x = None
        if ctx.needs_input_grad[0]:
            if steps.back is None:
                steps.back = Weights(steps.forth.plain.t().contiguous())
            of_x = steps.back(gradient)
        return of_x, gradient.new_zeros(()), None
