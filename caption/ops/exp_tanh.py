"""Additive scores (eq. 4) without one tanh for every region and row, and without keeping the hidden layer.

With K = e^(2k) once for each image and U = e^(2q) once for each row,

    tanh(k + q) = 1 - 2 r,    r = 1 / (1 + K U),

so that a product, a sum and a reciprocal are all that is done Q L A times a step. The gradient needs r alone,
d tanh(x) / dx = 4 r (1 - r), and computes it again: [B, Q, L, A] is never held for more than a few images, where
automatic differentiation would hold it for every step.

Two conventions hold inside `caption.ops`. Prepared keys are K, but the gradient that flows into them is that of k: it
needs no division by K. And all steps of a caption add to one gradient in place, where autograd would allocate one for
each step and sum them.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.device import upcast_float32

# e^(2 * 43) and e^(-2 * 43) are normal float32 numbers; K U may overflow or vanish, which gives tanh = 1 or -1 rightly.
MAX_ABS = 43
BLOCK_SIZE = 2**20  # numbers r computed at a time, four megabytes: more leave the caches, fewer let the threads wait


def exp_2x(x: Tensor) -> Tensor:
    """Return e^(2x) in float32 or wider, with x clamped to [-MAX_ABS, MAX_ABS]."""
    return upcast_float32(x).clamp(-MAX_ABS, MAX_ABS).mul_(2).exp_()


class _ShareGradient(torch.autograd.Function):
    """The same tensor; as keys [B, L, A], it has one gradient, to which all steps add."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.task, ctx.total = tensor.dtype, None, None
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        total = ctx.total if ctx.task == torch._C._current_graph_task_id() else None
        ctx.total = None
        if total is not None:
            gradient = total if gradient is None else total.add_(gradient)
        return None if gradient is None else gradient.to(ctx.dtype)


share_gradient: Callable[[Tensor], Tensor] = _ShareGradient.apply


class _PrepareKeys(_ShareGradient):
    """e^(2k) of keys k [B, L, A], to be read by `additive_scores` or `additive_attention` only."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor) -> Tensor:
        _ShareGradient.forward(ctx, keys)
        return exp_2x(keys)


prepare_keys: Callable[[Tensor], Tensor] = _PrepareKeys.apply


def find_keys_node(keys: Tensor) -> Any:
    """Return the node of `prepare_keys` or `share_gradient` that made these keys; None if another did, such as that of
    a slice."""
    return keys.grad_fn if hasattr(keys.grad_fn, "total") else None


def shared_gradient(keys_node: Any, keys: Tensor) -> Tensor:
    """Return the tensor to which all steps of this backward pass add the gradient of keys [B, L, A]; zeros for one step
    alone, if `keys_node` is None."""
    if keys_node is None:
        return torch.zeros_like(keys, memory_format=torch.contiguous_format)
    task = torch._C._current_graph_task_id()
    if keys_node.task != task:  # the first step, or an earlier backward pass that never reached the keys
        keys_node.task, keys_node.total = task, torch.zeros_like(keys, memory_format=torch.contiguous_format)
    return keys_node.total


class Kernels(NamedTuple):
    """The two passes of additive scores over U [B, Q, A], K [B, L, A] and v [A]."""

    forward: Callable[[Tensor, Tensor, Tensor], Tensor]  # -> scores [B, Q, L]
    # (U, K, v, gradient of the scores [B, Q, L], gradient of k to add to) -> gradients of q and v
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class _AdditiveScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, vector: Tensor, kernels: Kernels) -> Tensor:
        exp_query = exp_2x(query)
        ctx.save_for_backward(exp_query, keys, vector)
        ctx.kernels, ctx.dtype = kernels, query.dtype
        ctx.keys_node = find_keys_node(keys)
        with torch.autocast(query.device.type, enabled=False):
            return kernels.forward(exp_query, keys, vector)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        exp_query, keys, vector = ctx.saved_tensors
        grad_keys = shared_gradient(ctx.keys_node, keys)
        with torch.autocast(gradient.device.type, enabled=False):
            grad_query, grad_vector = ctx.kernels.backward(exp_query, keys, vector, gradient, grad_keys)
        return grad_query.to(ctx.dtype), grad_keys if ctx.keys_node is None else None, grad_vector, None


def block_forward(exp_query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return the scores [B, Q, L], some images or regions at a time."""
    sums = exp_query.new_empty(*exp_query.shape[:2], keys.shape[1])
    for images, regions, r in _blocks(exp_query, keys):
        sums[images, :, regions] = r @ vector
    return vector.sum() - 2 * sums


def block_backward(
    exp_query: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor, grad_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of q and v; add that of k to `grad_keys`. d e / dk = d e / dq = 4 v r (1 - r)."""
    grad_query, sums = torch.zeros_like(exp_query), torch.zeros_like(vector)
    for images, regions, r in _blocks(exp_query, keys):
        grad_scores = gradient[images, :, regions]  # [b, Q, l]
        sums += grad_scores.flatten() @ r.flatten(0, 2)
        slopes = r.addcmul_(r, r, value=-1)  # r (1 - r), [b, Q, l, A]
        grad_query[images] += (grad_scores.unsqueeze(2) @ slopes).squeeze(2)
        grad_keys[images, regions] += slopes.mul_(grad_scores.unsqueeze(-1)).sum(1).mul_(4 * vector)
    return grad_query.mul_(4 * vector), gradient.sum() - 2 * sums


def _blocks(exp_query: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield some images, some of their regions and their r [b, Q, l, A], in a buffer that the next block reuses.

    On a CPU a block is as large as its cache holds; on a GPU there is one.
    """
    (images, rows, width), regions = exp_query.shape, keys.shape[1]
    image_count, region_count = images, regions
    if exp_query.device.type == "cpu":
        image_count = max(1, BLOCK_SIZE // (rows * regions * width))
        region_count = max(1, BLOCK_SIZE // (rows * width))
        region_count = -(-regions // -(-regions // region_count))  # in parts of nearly equal size
    size = min(image_count, images) * rows * min(region_count, regions) * width
    one, buffer = exp_query.new_ones(()), exp_query.new_empty(size)
    for first_image in range(0, images, image_count):
        image_slice = slice(first_image, min(first_image + image_count, images))
        for first_region in range(0, regions, region_count):
            region_slice = slice(first_region, min(first_region + region_count, regions))
            shape = (image_slice.stop - first_image, rows, region_slice.stop - first_region, width)
            r = buffer[: math.prod(shape)].view(shape)
            torch.addcmul(one, keys[image_slice, region_slice].unsqueeze(1), exp_query[image_slice].unsqueeze(2), out=r)
            yield image_slice, region_slice, r.reciprocal_()


BLOCKS = Kernels(block_forward, block_backward)


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor, kernels: Kernels = BLOCKS) -> Tensor:
    """Return additive scores [B, Q, L] of query q [B, Q, A] and prepared keys [B, L, A], computed by these kernels.

    By default, blocks of PyTorch operations compute them, on any device and in any float dtype.
    """
    return _AdditiveScores.apply(query, keys, vector, kernels)  # type: ignore[no-untyped-call]
