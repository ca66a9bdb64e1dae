"""Additive attention on a GPU in one pass over keys and values: scores, softmax and contexts of all rows of an image.

Written in Triton, which PyTorch brings for Linux. A program takes a block of one image's regions, reads their keys and
values once for all Q rows, and gives the block's part of the softmax and of the context; `_combine` puts the parts
together. The backward pass computes r of exp_tanh.py again, one program for each block of A, without atomics, so that
the same gradients come out every time.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops.exp_tanh import exp_2x

REGIONS, WIDTH, DEPTH = 64, 64, 64  # how many of L, A and D a program holds at a time; powers of two


class _AdditiveAttention(torch.autograd.Function):
    """The contexts [B, Q, D] in the dtype of the values and the weights [B, Q, L] in float32.

    `query` q is [B, Q, A], `keys` [B, L, A] are those of `exp_tanh.prepare_keys`, `vector` v is [A], `values` [B, L,
    D].
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        exp_query = exp_2x(query).contiguous()
        keys, vector, values = (tensor.contiguous() for tensor in (keys, vector, values))
        (images, rows, width), (regions, depth) = exp_query.shape, values.shape[1:]
        blocks = triton.cdiv(regions, REGIONS)
        scores, weights = keys.new_empty(images, rows, regions), keys.new_empty(images, rows, regions)
        largest, sums = keys.new_empty(images, blocks, rows), keys.new_empty(images, blocks, rows)
        parts, contexts = keys.new_empty(images, blocks, rows, depth), values.new_empty(images, rows, depth)
        # AMD's compiler does not know "tf32".
        exact = torch.get_float32_matmul_precision() == "highest" or torch.version.hip is not None
        _block[(images, blocks)](
            exp_query, keys, vector, values, scores, largest, sums, parts, regions, width, depth, -2 / temperature,
            rows, max(16, triton.next_power_of_2(rows)), REGIONS, WIDTH, DEPTH, "ieee" if exact else "tf32",
        )  # fmt: skip
        _combine[(images, rows)](
            scores, largest, sums, parts, weights, contexts, blocks, regions, depth, triton.next_power_of_2(blocks),
            triton.next_power_of_2(regions), DEPTH,
        )  # fmt: skip
        ctx.save_for_backward(exp_query, keys, vector, values, weights)
        ctx.temperature, ctx.dtype = temperature, query.dtype
        return contexts, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_contexts: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        exp_query, keys, vector, values, weights = ctx.saved_tensors
        grad_values = weights.to(values.dtype).transpose(1, 2) @ grad_contexts if ctx.needs_input_grad[3] else None
        slopes = (grad_contexts @ values.transpose(1, 2)).float() + grad_weights  # of alpha
        slopes = weights * (slopes - (weights * slopes).sum(-1, keepdim=True)) / ctx.temperature  # through the softmax
        (images, rows, width), regions = exp_query.shape, keys.shape[1]
        grad_query, grad_keys = torch.empty_like(exp_query), torch.empty_like(keys)
        grad_vector = keys.new_empty(images, width)
        _gradients[(images, triton.cdiv(width, WIDTH))](
            slopes, exp_query, keys, vector, grad_query, grad_keys, grad_vector, regions, width, rows,
            triton.next_power_of_2(rows), REGIONS, WIDTH,
        )  # fmt: skip
        return grad_query.to(ctx.dtype), grad_keys, grad_vector.sum(0), grad_values, None


additive_attention: Callable[..., tuple[Tensor, Tensor]] = _AdditiveAttention.apply


@triton.jit
def _block(
    exp_query, keys, vector, values, scores, largest, sums, parts, regions, width, depth, scale,
    ROWS: tl.constexpr, PADDED: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write, of a block of an image's regions, the scores [B, Q, L] up to a constant, their maximum and the sum of
    their exponentials relative to it [B, blocks, Q], and the exponentials' product with the values [B, blocks, Q,
    D]."""
    image, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    region, row = block * REGIONS + tl.arange(0, REGIONS), tl.arange(0, PADDED)
    there, real = region < regions, row < ROWS
    score = tl.zeros([PADDED, REGIONS], tl.float32)
    for first in range(0, width, WIDTH):
        a = first + tl.arange(0, WIDTH)
        inside = a < width
        k = tl.load(
            keys + (image * regions + region[:, None]) * width + a[None, :], there[:, None] & inside[None, :], 0.0
        )
        v = tl.load(vector + a, inside, 0.0)
        for q in range(ROWS):
            u = tl.load(exp_query + (image * ROWS + q) * width + a, inside, 0.0)
            share = tl.sum(v[None, :] / (1 + k * u[None, :]), 1)  # [REGIONS]
            score += tl.where(row[:, None] == q, share[None, :], 0.0)
    score = tl.where(there[None, :], scale * score, float("-inf"))
    tl.store(scores + (image * ROWS + row[:, None]) * regions + region[None, :], score, real[:, None] & there[None, :])
    maximum = tl.max(score, 1)
    exponential = tl.exp(score - maximum[:, None])
    place = (image * blocks + block) * ROWS + row
    tl.store(largest + place, maximum, real)
    tl.store(sums + place, tl.sum(exponential, 1), real)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        inside = d < depth
        value = tl.load(
            values + (image * regions + region[:, None]) * depth + d[None, :], there[:, None] & inside[None, :], 0.0
        )
        part = tl.dot(exponential.to(value.dtype), value, input_precision=PRECISION)  # [PADDED, DEPTH]
        tl.store(parts + place[:, None] * depth + d[None, :], part, real[:, None] & inside[None, :])


@triton.jit
def _combine(
    scores, largest, sums, parts, weights, contexts, blocks, regions, depth,
    BLOCKS: tl.constexpr, REGIONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Write the weights [L] and the context [D] of one row from its blocks."""
    image, row, rows = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    block, region = tl.arange(0, BLOCKS), tl.arange(0, REGIONS)
    place = (image * blocks + block) * rows + row
    maximum = tl.load(largest + place, block < blocks, float("-inf"))
    top = tl.max(maximum, 0)
    share = tl.exp(maximum - top)
    total = tl.sum(share * tl.load(sums + place, block < blocks, 0.0), 0)
    line = (image * rows + row) * regions + region
    score = tl.load(scores + line, region < regions, float("-inf"))
    tl.store(weights + line, tl.exp(score - top) / total, region < regions)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        known = (block < blocks)[:, None] & (d < depth)[None, :]
        part = tl.load(parts + place[:, None] * depth + d[None, :], known, 0.0)
        tl.store(
            contexts + (image * rows + row) * depth + d,
            tl.sum(part * (share / total)[:, None], 0).to(contexts.dtype.element_ty),
            d < depth,
        )


@triton.jit
def _gradients(
    slopes, exp_query, keys, vector, grad_query, grad_keys, grad_vector, regions, width,
    ROWS: tl.constexpr, PADDED: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write, of a block of A of one image, the gradients of q, k and, for each image, v [B, A], from the gradient of
    the scores [B, Q, L]: d e / dq = d e / dk = 4 v r (1 - r), d e / dv = 1 - 2 r."""
    image = tl.program_id(0)
    a, row = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), tl.arange(0, PADDED)
    inside, real = a < width, row < ROWS
    v = tl.load(vector + a, inside, 0.0)
    rows_sum = tl.zeros([PADDED, WIDTH], tl.float32)
    vector_sum = tl.zeros([WIDTH], tl.float32)
    for first in range(0, regions, REGIONS):
        region = first + tl.arange(0, REGIONS)
        known = (region < regions)[:, None] & inside[None, :]
        place = (image * regions + region[:, None]) * width + a[None, :]
        k = tl.load(keys + place, known, 1.0)
        regions_sum = tl.zeros([REGIONS, WIDTH], tl.float32)
        for q in range(ROWS):
            u = tl.load(exp_query + (image * ROWS + q) * width + a, inside, 1.0)
            slope = tl.load(slopes + (image * ROWS + q) * regions + region, region < regions, 0.0)
            r = 1 / (1 + k * u[None, :])
            vector_sum += tl.sum(slope[:, None] * r, 0)
            change = slope[:, None] * r * (1 - r)
            regions_sum += change
            rows_sum += tl.where(row[:, None] == q, tl.sum(change, 0)[None, :], 0.0)
        tl.store(grad_keys + place, 4 * v[None, :] * regions_sum, known)
    known = real[:, None] & inside[None, :]
    place = (image * ROWS + row[:, None]) * width + a[None, :]
    tl.store(grad_query + place, 4 * v[None, :] * rows_sum, known)
    tl.store(grad_vector + image * width + a, -2 * vector_sum, inside)
