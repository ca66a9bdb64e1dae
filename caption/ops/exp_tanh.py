"""sum_a v_a tanh(k_a + q_a) for every region and row (eq. 4), without a tanh for each and without keeping them.

With K = e^(2k) once an image and U = e^(2q) once a row,

    tanh(k + q) = 1 - 2 r,    r = 1 / (1 + K U),

so that what is done Q L A times a step is a product, a sum and a reciprocal. The gradient needs r alone,
d tanh(x) / dx = 4 r (1 - r), and computes it again: [B, Q, L, A] is never held for more than a few images, where plain
automatic differentiation holds it for every step.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.device import upcast_float32
from caption.ops import cpu

LIMIT = 20  # of |k| and |q|: e^(4 * 20) is a single; tanh is 1 to the last digit beyond, unless the two cancel
# Numbers r that are worked on at a time, four megabytes: more leave the caches, fewer let the threads wait.
CACHED = 2**20


def exponentials(values: Tensor) -> Tensor:
    """e^(2x), at least single, of values x [..., A]; beyond +-20, of 20."""
    if values.requires_grad and cpu.computes(values, torch.bfloat16):
        found: Tensor = _Exponentials.apply(values)  # type: ignore[no-untyped-call]
        return found
    inside = F.hardtanh(upcast_float32(values), -LIMIT, LIMIT)  # clamp, with less to do in its backward pass
    return inside.mul_(2).exp_()


class _Exponentials(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        found = cpu.exponentials(values, LIMIT)
        ctx.save_for_backward(found)
        ctx.dtype = values.dtype
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        return cpu.of_exponentials(found, gradient, LIMIT, ctx.dtype)


def tanh_scores(asked: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """asked e^(2q) [B, Q, A], keys e^(2k) [B, L, A], both of `exponentials`, and v [A] -> scores e_t [B, Q, L]."""
    scores: Tensor = _TanhScores.apply(asked, keys, vector, cpu.takes(asked, keys, vector))  # type: ignore[no-untyped-call]
    return scores


class _TanhScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, asked: Tensor, keys: Tensor, vector: Tensor, in_c: bool) -> Tensor:
        ctx.save_for_backward(asked, keys, vector)
        ctx.in_c = in_c
        ctx.many = keys.grad_fn if hasattr(keys.grad_fn, "summed") else None
        with torch.autocast(asked.device.type, enabled=False):
            return (cpu.scores if in_c else block_scores)(asked, keys, vector)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        asked, keys, vector = ctx.saved_tensors
        with torch.autocast(gradient.device.type, enabled=False):
            if not ctx.in_c:
                return *block_gradients(asked, keys, vector, gradient), None
            of_keys = keys.new_zeros(keys.shape) if ctx.many is None else _Many.place(ctx.many, keys)
            of_asked, of_vector = cpu.gradients(asked, keys, vector, gradient, of_keys)
            return of_asked, of_keys if ctx.many is None else None, of_vector, None


def for_many(keys: Tensor) -> Tensor:
    """Keys [B, L, A] that many steps read: by cpu.py they add to one gradient in place, where autograd would have
    one of each step, and add them up. It goes to what the keys were made of; the keys themselves are told none."""
    shared: Tensor = _Many.apply(keys)  # type: ignore[no-untyped-call]
    return shared


class _Many(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.summing = ctx.summed = None
        return keys.view_as(keys)

    @staticmethod
    def place(ctx: Any, keys: Tensor) -> Tensor:
        """Where the backward pass under way sums the keys' gradient."""
        if ctx.summing != torch._C._current_graph_task_id():  # or an earlier one left it, which did not come to the end
            ctx.summing, ctx.summed = torch._C._current_graph_task_id(), keys.new_zeros(keys.shape)
        found: Tensor = ctx.summed
        return found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        summed = ctx.summed if ctx.summing == torch._C._current_graph_task_id() else None
        ctx.summed = None
        return summed if gradient is None else gradient if summed is None else summed.add_(gradient)


def block_scores(asked: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """As much at a time as there is room for."""
    scores = asked.new_empty(*asked.shape[:2], keys.shape[1])
    for images, regions, shares in _shares(asked, keys):
        scores[images, :, regions] = shares @ vector
    return vector.sum() - 2 * scores


def block_gradients(asked: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of asked, keys and v. d e / dU = 4 v r (1 - r) dq / dU, and dq / dU = 1 / (2 U); likewise K."""
    of_asked, of_keys, seen = torch.zeros_like(asked), torch.empty_like(keys), torch.zeros_like(vector)
    for images, regions, shares in _shares(asked, keys):
        weights = gradient[images, :, regions]  # [b, Q, l]
        seen += weights.flatten() @ shares.flatten(0, 2)
        slopes = shares.addcmul_(shares, shares, value=-1)  # r (1 - r), [b, Q, l, A]
        of_asked[images] += (weights.unsqueeze(2) @ slopes).squeeze(2)
        torch.sum(slopes.mul_(weights.unsqueeze(-1)), 1, out=of_keys[images, regions])
    return of_asked.mul_(2 * vector).div_(asked), of_keys.mul_(2 * vector).div_(keys), gradient.sum() - 2 * seen


def _shares(asked: Tensor, keys: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Some images, some of their regions, and their r [b, Q, l, A], in memory that the next use again: on a CPU as much
    as its cache holds."""
    (images, rows, width), regions = asked.shape, keys.shape[1]
    b, part = images, regions
    if asked.device.type == "cpu":
        b, part = max(1, CACHED // (rows * regions * width)), max(1, CACHED // (rows * width))
        part = regions if part >= regions else -(-regions // -(-regions // part))  # parts of like size
    one, buffer = asked.new_ones(()), asked.new_empty(min(b, images) * rows * min(part, regions) * width)
    for first in range(0, images, b):
        some = slice(first, min(first + b, images))
        for begin in range(0, regions, part):
            there = slice(begin, min(begin + part, regions))
            shape = (some.stop - first, rows, there.stop - begin, width)
            shares = buffer[: math.prod(shape)].view(shape)
            torch.addcmul(one, keys[some, there].unsqueeze(1), asked[some].unsqueeze(2), out=shares)
            yield some, there, shares.reciprocal_()
