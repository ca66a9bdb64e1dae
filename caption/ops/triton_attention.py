"""Additive attention on a GPU in one pass over keys and values: score, softmax and context of all rows of an image.

Written in Triton, which comes with PyTorch for Linux. `SoftAttention` takes it where it can be had; what it does
elsewhere is the same in plain PyTorch, and what this is tested against. A program takes a block of one image's regions:
it reads their keys and values once for all Q rows, and gives the block's share of the softmax and of the context, which
`_join` puts together. The backward pass computes r (additive.py) again, a program a block of A, without atomics, so
that the same gradients come out every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

REGIONS, WIDTH, DEPTH = 64, 64, 64  # of L, A and D, what a program holds at a time; powers of two


def attend(asked: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """asked [B, Q, A] and keys [B, L, A] of `exponentials`, v [A], values [B, L, D] -> context [B, Q, D] in the values'
    precision, weights [B, Q, L] in single."""
    context, weights = _Attend.apply(asked, keys, vector, values, temperature)  # type: ignore[no-untyped-call]
    return context, weights


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, asked: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        asked, keys, vector, values = (each.contiguous() for each in (asked, keys, vector, values))
        (images, rows, width), (regions, depth) = asked.shape, values.shape[1:]
        blocks = triton.cdiv(regions, REGIONS)
        scores, weights = asked.new_empty(images, rows, regions), asked.new_empty(images, rows, regions)
        most, sums = asked.new_empty(images, blocks, rows), asked.new_empty(images, blocks, rows)
        parts, context = asked.new_empty(images, blocks, rows, depth), values.new_empty(images, rows, depth)
        precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
        _part[(images, blocks)](
            asked, keys, vector, values, scores, most, sums, parts, regions, width, depth, -2 / temperature, rows,
            max(16, triton.next_power_of_2(rows)), REGIONS, WIDTH, DEPTH, precision,
        )  # fmt: skip
        _join[(images, rows)](
            scores, most, sums, parts, weights, context, blocks, regions, depth, triton.next_power_of_2(blocks),
            triton.next_power_of_2(regions), DEPTH,
        )  # fmt: skip
        ctx.save_for_backward(asked, keys, vector, values, weights)
        ctx.temperature = temperature
        return context, weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_context: Tensor, of_weights: Tensor) -> tuple[Tensor | None, ...]:
        asked, keys, vector, values, weights = ctx.saved_tensors
        of_values = weights.to(values.dtype).transpose(1, 2) @ of_context if ctx.needs_input_grad[3] else None
        slopes = (of_context @ values.transpose(1, 2)).float() + of_weights  # dE / d alpha
        slopes = weights * (slopes - (weights * slopes).sum(-1, keepdim=True)) / ctx.temperature  # through the softmax
        (images, rows, width), regions = asked.shape, keys.shape[1]
        of_asked, of_keys = torch.empty_like(asked), torch.empty_like(keys)
        of_vector = asked.new_empty(images, width)
        _gradients[(images, triton.cdiv(width, WIDTH))](
            slopes, asked, keys, vector, of_asked, of_keys, of_vector, regions, width, rows,
            triton.next_power_of_2(rows), REGIONS, WIDTH,
        )  # fmt: skip
        return of_asked, of_keys, of_vector.sum(0), of_values, None


@triton.jit
def _part(
    asked, keys, vector, values, scores, most, sums, parts, regions, width, depth, scale,
    ROWS: tl.constexpr, PADDED: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of an image's regions: scores [B, Q, L] but for a constant, their maximum and the sum of exponentials
    beyond it [B, blocks, Q], and the exponentials' product with the values [B, blocks, Q, D]."""
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
            u = tl.load(asked + (image * ROWS + q) * width + a, inside, 0.0)
            share = tl.sum(v[None, :] / (1 + k * u[None, :]), 1)  # [REGIONS]
            score += tl.where(row[:, None] == q, share[None, :], 0.0)
    score = tl.where(there[None, :], scale * score, float("-inf"))
    tl.store(scores + (image * ROWS + row[:, None]) * regions + region[None, :], score, real[:, None] & there[None, :])
    largest = tl.max(score, 1)
    beyond = tl.exp(score - largest[:, None])
    place = (image * blocks + block) * ROWS + row
    tl.store(most + place, largest, real)
    tl.store(sums + place, tl.sum(beyond, 1), real)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        inside = d < depth
        value = tl.load(
            values + (image * regions + region[:, None]) * depth + d[None, :], there[:, None] & inside[None, :], 0.0
        )
        part = tl.dot(beyond.to(value.dtype), value, input_precision=PRECISION)  # [PADDED, DEPTH]
        tl.store(parts + place[:, None] * depth + d[None, :], part, real[:, None] & inside[None, :])


@triton.jit
def _join(
    scores, most, sums, parts, weights, context, blocks, regions, depth,
    BLOCKS: tl.constexpr, REGIONS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The blocks of one row: its weights [L] and context [D]."""
    image, row, rows = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    block, region = tl.arange(0, BLOCKS), tl.arange(0, REGIONS)
    place = (image * blocks + block) * rows + row
    largest = tl.load(most + place, block < blocks, float("-inf"))
    top = tl.max(largest, 0)
    share = tl.exp(largest - top)
    total = tl.sum(share * tl.load(sums + place, block < blocks, 0.0), 0)
    line = (image * rows + row) * regions + region
    score = tl.load(scores + line, region < regions, float("-inf"))
    tl.store(weights + line, tl.exp(score - top) / total, region < regions)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        known = (block < blocks)[:, None] & (d < depth)[None, :]
        part = tl.load(parts + place[:, None] * depth + d[None, :], known, 0.0)
        tl.store(
            context + (image * rows + row) * depth + d,
            tl.sum(part * (share / total)[:, None], 0).to(context.dtype.element_ty),
            d < depth,
        )


@triton.jit
def _gradients(
    slopes, asked, keys, vector, of_asked, of_keys, of_vector, regions, width,
    ROWS: tl.constexpr, PADDED: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A block of A of one image, from the gradient of its scores [B, Q, L]: gradients of `asked`, `keys` and, an image
    each, `vector` [B, A]. dr / dk = -2 r (1 - r), and dk / dK = 1 / (2 K)."""
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
            u = tl.load(asked + (image * ROWS + q) * width + a, inside, 1.0)
            slope = tl.load(slopes + (image * ROWS + q) * regions + region, region < regions, 0.0)
            r = 1 / (1 + k * u[None, :])
            vector_sum += tl.sum(slope[:, None] * r, 0)
            change = slope[:, None] * r * (1 - r)
            regions_sum += change
            rows_sum += tl.where(row[:, None] == q, tl.sum(change, 0)[None, :], 0.0)
        tl.store(of_keys + place, 2 * v[None, :] * regions_sum / k, known)
    known = real[:, None] & inside[None, :]
    place = (image * ROWS + row[:, None]) * width + a[None, :]
    u = tl.load(asked + place, known, 1.0)
    tl.store(of_asked + place, 2 * v[None, :] * rows_sum / u, known)
    tl.store(of_vector + image * width + a, -2 * vector_sum, inside)
