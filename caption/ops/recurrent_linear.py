"""Linear layers whose weights do not change from one step of a caption to the next.

Inside `reuse_weights`, a `RecurrentLinear` does once what need not be done at every step: on a CPU its weights are
packed into the order in which oneDNN multiplies (PyTorch would pack them at every step, which for few rows takes longer
than the product itself), and the weights' gradient is one product over all steps, not one for each step and their sum.
Outside, a call with many rows is treated likewise; otherwise, and where the layer is small, it is `nn.Linear`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caption.device import to_autocast_dtype
from caption.ops import switch

MIN_WEIGHTS = 2**17  # weights of a layer from which on this pays
MIN_ROWS = 256  # rows from which on it pays for a single call


class RecurrentLinear(nn.Linear):
    """x W^T + b, shape [..., m], of x [..., n]; the function of `nn.Linear`."""

    cache: "WeightCache | None" = None  # inside `reuse_weights`

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shape [..., m]."""
        if self.cache is not None:
            return self.cache(x)
        x = to_autocast_dtype(x)
        many_rows = x.numel() > MIN_ROWS * x.shape[-1]
        if self.weight.numel() < MIN_WEIGHTS or not many_rows or not supports_onednn(x):
            return super().forward(x)
        with reuse_weights(self, steps=1):
            return self.forward(x)


@contextlib.contextmanager
def reuse_weights(module: Any, steps: int | None = None) -> Iterator[None]:
    """Reuse packed weights of the module's recurrent layers until exit; they must not change meanwhile.

    `steps=1` says that each layer is called once. What is no module, and what `CAPTION_OPS=reference` runs, is left as
    it is. It may be nested: the outermost counts.
    """
    modules = module.modules() if isinstance(module, nn.Module) and switch.fast() else []
    layers = [layer for layer in modules if isinstance(layer, RecurrentLinear) and layer.weight.numel() >= MIN_WEIGHTS]
    caches = {layer: WeightCache(layer, steps != 1) for layer in layers if layer.cache is None}
    for layer, cache in caches.items():
        layer.cache = cache
    try:
        yield
    finally:
        for layer, cache in caches.items():
            cache.close()
            layer.cache = None


class WeightCache:
    """A layer's packed weights inside one `reuse_weights`, and what its steps leave for the backward pass."""

    def __init__(self, layer: RecurrentLinear, several_steps: bool) -> None:
        self.layer, self.several_steps = layer, several_steps
        self.forward_weight: PackedWeight | None = None
        self.backward_weight: PackedWeight | None = None
        self.token: Tensor | None = None
        self.steps = 0
        # Of each step, by its number: rows x [N, n] and the gradient of their results [N, m].
        self.rows_and_gradients: dict[int, tuple[Tensor, Tensor]] = {}
        self.task: int | None = None  # the backward pass that these are of

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + b, shape [..., m]; x is [..., n]."""
        weight, x = self.layer.weight, to_autocast_dtype(x)
        bias = None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        if self.forward_weight is None or self.forward_weight.matrix.dtype != x.dtype:
            packed = supports_onednn(x)
            switch.note("linear", "oneDNN, packed weights" if packed else "PyTorch, one weight gradient")
            self.forward_weight = PackedWeight(weight.detach().to(x.dtype), packed, self.several_steps)
        if not torch.is_grad_enabled():
            return self.forward_weight(x, bias)
        if self.token is None:
            self.token = _GatherWeightGradient.apply(weight, self)
        self.steps += 1
        return _Step.apply(x, self.token, bias, self)

    def transposed(self, gradients: Tensor) -> "PackedWeight":
        """Return W^T, packed for gradients [..., m] of the results. W must be as it was in the forward pass."""
        if self.forward_weight is not None and not self.forward_weight.reordered:
            return PackedWeight(self.forward_weight.matrix.t(), supports_onednn(gradients), several_steps=False)
        return PackedWeight(self.layer.weight.detach().t().to(gradients.dtype), supports_onednn(gradients))

    def close(self) -> None:
        """End the forward pass. Without the token, no reference goes in a circle: memory is freed at once."""
        self.token = None
        if self.forward_weight is not None and self.forward_weight.reordered:  # the backward pass has no use for it
            self.forward_weight = None


class PackedWeight:
    """A matrix [m, n], if oneDNN multiplies by it several times in the order in which it does so."""

    def __init__(self, weight: Tensor, onednn: bool, several_steps: bool = True) -> None:
        self.onednn, self.reordered = onednn, onednn and several_steps  # for a single product oneDNN packs it itself
        self.matrix = torch.ops.mkldnn._reorder_linear_weight(weight) if self.reordered else weight

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, shape [..., m]; x is [..., n]."""
        return (onednn_linear if self.onednn else F.linear)(x, self.matrix, bias)


def supports_onednn(x: Tensor) -> bool:
    """Return whether oneDNN multiplies rows like x [..., n] and does so fastest."""
    here = x.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not here or not switch.fast():
        return False
    half = x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return half or x.dtype == torch.float32


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, shape [..., m]; the weight W [m, n] is packed or not."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def weight_gradient(rows: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradient of a weight [m, n] from rows x [N, n] and the gradients of x W^T [N, m]."""
    if rows.dtype != torch.float32 or not supports_onednn(rows):
        return gradients.t() @ rows
    if gradients.shape[1] <= rows.shape[1]:  # one of the two has to be transposed: the smaller
        return onednn_linear(gradients.t(), rows.t())
    return onednn_linear(rows.t(), gradients.t()).t().contiguous()


class _GatherWeightGradient(torch.autograd.Function):
    """Stands for the weight in all steps: its backward pass comes after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, cache: WeightCache) -> Tensor:
        ctx.cache, ctx.dtype = cache, weight.dtype
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        steps = [*ctx.cache.rows_and_gradients.values()]
        ctx.cache.rows_and_gradients.clear()
        ctx.cache.backward_weight = None
        rows, gradients = steps[0] if len(steps) == 1 else map(torch.cat, zip(*steps, strict=True))
        return weight_gradient(rows, gradients).to(ctx.dtype), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, bias: Tensor | None, cache: WeightCache) -> Tensor:
        ctx.save_for_backward(x)
        ctx.cache, ctx.step = cache, cache.steps
        assert cache.forward_weight is not None
        return cache.forward_weight(x, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        (x,), cache = ctx.saved_tensors, ctx.cache
        gradients = gradient.reshape(-1, gradient.shape[-1])
        task = torch._C._current_graph_task_id()
        if cache.task != task:  # an earlier backward pass did not reach the weight
            cache.rows_and_gradients, cache.task = {}, task
        if ctx.needs_input_grad[1]:  # otherwise nothing would take them away
            cache.rows_and_gradients[ctx.step] = x.reshape(-1, x.shape[-1]), gradients
        grad_x = None
        if ctx.needs_input_grad[0]:
            cache.backward_weight = cache.backward_weight or cache.transposed(gradient)
            grad_x = cache.backward_weight(gradient)
        grad_bias = gradients.sum(0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, None  # _GatherWeightGradient is told nothing but that it can begin
