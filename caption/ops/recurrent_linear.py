"""Linear layers whose weights do not change from one step of a caption to the next.

Inside `unrolled`, a `StepLinear` does for all steps together what need not be done at each: on a CPU its weights are
brought into the order in which oneDNN multiplies (PyTorch would do so at every step, which for few rows takes longer
than the product itself), and its weights' gradient is one product over all steps, not one a step and their sum. Outside
it, it does so for a call with many rows, and otherwise, and where it is small, is `nn.Linear`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caption.device import to_autocast_dtype
from caption.ops import cpu

LARGE = 2**17  # weights of a layer from which on this pays
MANY = 256  # rows from which on it pays for a single call


class StepLinear(nn.Linear):
    """x [..., n] -> x W^T + b [..., m]."""

    steps: "Steps | None" = None  # inside `unrolled`

    def forward(self, x: Tensor) -> Tensor:
        if self.steps is not None:
            return self.steps(x)
        x = to_autocast_dtype(x)
        if self.weight.numel() < LARGE or not many(x) or not packs(x):
            return super().forward(x)
        with unrolled(self, several=False):
            return self.forward(x)


@contextlib.contextmanager
def unrolled(module: Any, several: bool = True) -> Iterator[None]:
    """Several steps of a decoder are to follow, of one batch or of many, by the weights that it has now; or one."""
    modules = module.modules() if isinstance(module, nn.Module) else []
    layers = [each for each in modules if isinstance(each, StepLinear) and each.weight.numel() >= LARGE]
    begun = {layer: Steps(layer, several) for layer in layers if layer.steps is None}
    for layer, steps in begun.items():
        layer.steps = steps
    try:
        yield
    finally:
        for layer, steps in begun.items():
            steps.end()
            layer.steps = None


class Steps:
    """A layer's steps from one `unrolled` on, and in the end their backward pass."""

    def __init__(self, layer: StepLinear, several: bool) -> None:
        self.layer, self.several = layer, several
        self.forth: Weights | None = None
        self.back: Weights | None = None
        self.token: Tensor | None = None
        self.taken = 0
        # Of each step, by its number: rows x [N, n] and the gradient of their results [N, m].
        self.passed: dict[int, tuple[Tensor, Tensor]] = {}
        self.passing: int | None = None  # the backward pass that they are of

    def __call__(self, x: Tensor) -> Tensor:
        weight, x = self.layer.weight, to_autocast_dtype(x)
        bias = None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        if self.forth is None or self.forth.matrix.dtype != x.dtype:
            self.forth = Weights(weight.detach().to(x.dtype), packs(x), self.several)
        if not torch.is_grad_enabled():
            return self.forth(x, bias)
        if self.token is None:
            self.token = _Gather.apply(weight, self)
        self.taken += 1
        result: Tensor = _Step.apply(x, self.token, bias, self)
        return result

    def turned(self, gradients: Tensor) -> "Weights":
        """W^T, for gradients [..., m] of the results. W must not have changed since they were computed."""
        if self.forth is not None and not self.forth.reordered:
            return Weights(self.forth.matrix.t(), packs(gradients), several=False)
        # Copied in single precision, for which there is a quick way.
        return Weights(transposed(self.layer.weight.detach()).to(gradients.dtype), packs(gradients))

    def end(self) -> None:
        """No step follows. The token holds what holds these steps: in a circle, nothing would be freed in time."""
        self.token = None
        if self.forth is not None and self.forth.reordered:  # of no use to the backward pass
            self.forth = None


class Weights:
    """A matrix [m, n], for several products or one, if wished in the order in which oneDNN multiplies by it."""

    def __init__(self, weight: Tensor, packed: bool, several: bool = True) -> None:
        self.packed, self.reordered = packed, packed and several  # for a single product oneDNN does so itself
        self.matrix = torch.ops.mkldnn._reorder_linear_weight(weight) if self.reordered else weight

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., n] -> [..., m]."""
        return (onednn_linear if self.packed else F.linear)(x, self.matrix, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., n], weight [m, n] in its own order or any other -> x W^T + b [..., m]."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


def of_weight(rows: Tensor, gradients: Tensor) -> Tensor:
    """The gradient of a weight [m, n], from its rows x [N, n] and the gradients of x W^T [N, m]."""
    if rows.dtype != torch.float32 or not packs(rows):
        return gradients.t() @ rows
    if gradients.shape[1] <= rows.shape[1]:  # one of the two has to be transposed: the smaller
        return onednn_linear(transposed(gradients), rows.t())
    found: Tensor = transposed(onednn_linear(transposed(rows), gradients.t()))
    return found


def transposed(matrix: Tensor) -> Tensor:
    """[m, n] -> [n, m], copied."""
    return cpu.transposed(matrix) if cpu.computes(matrix) else matrix.t().contiguous()


def packs(x: Tensor) -> bool:
    """Whether oneDNN is there for rows like x [..., n], and multiplies them fastest."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    half = x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return half or x.dtype == torch.float32


def many(x: Tensor) -> bool:
    """Whether x [..., n] has many rows."""
    return x.numel() > MANY * x.shape[-1]


class _Gather(torch.autograd.Function):
    """Stands for the weights in the steps: its backward pass comes after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: Steps) -> Tensor:
        ctx.steps, ctx.dtype = steps, weight.dtype
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, nothing: Tensor) -> tuple[Tensor, None]:
        passed = [*ctx.steps.passed.values()]
        ctx.steps.passed.clear()
        ctx.steps.back = None
        rows, gradients = passed[0] if len(passed) == 1 else map(torch.cat, zip(*passed, strict=True))
        return of_weight(rows, gradients).to(ctx.dtype), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, bias: Tensor | None, steps: Steps) -> Tensor:
        ctx.save_for_backward(x)
        ctx.steps, ctx.number = steps, steps.taken
        assert steps.forth is not None
        return steps.forth(x, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (x,), steps = ctx.saved_tensors, ctx.steps
        gradients = gradient.reshape(-1, gradient.shape[-1])
        if steps.passing != torch._C._current_graph_task_id():  # an earlier one did not come to _Gather
            steps.passed, steps.passing = {}, torch._C._current_graph_task_id()
        if ctx.needs_input_grad[1]:  # or nothing would take them away
            steps.passed[ctx.number] = x.reshape(-1, x.shape[-1]), gradients
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            steps.back = steps.back or steps.turned(gradient)
            of_x = steps.back(gradient)
        if ctx.needs_input_grad[2]:
            of_bias = gradients.sum(0)
        return of_x, None, of_bias, None  # nothing is told to _Gather but that it can begin
