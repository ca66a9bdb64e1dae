"""Additive attention on a GPU in one pass over keys and values: scores, softmax and contexts of all rows of an image;
and the scores alone, for hard attention and for windows.

Written in Triton, which PyTorch brings for Linux. A program takes a block of one image's regions, reads their keys and
values once for up to ROWS rows, and gives the block's part of the softmax and of the context; `_combine` puts the parts
together. The backward pass computes r of exp_tanh.py again, one program for each block of A, without atomics, so that
the same gradients come out every time.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops import exp_tanh

# How many of Q, L, A and D a program holds at a time; powers of two, and no product of matrices takes fewer than 16.
# With more of A or D, registers spill to memory (tests/ops/test_triton_compilation.py).
ROWS, REGIONS, WIDTH, DEPTH = 16, 64, 32, 32


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many programs run at the same time at least; 1 where the kernels are only interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def block_size(largest: int, length: int, images: int, device: torch.device) -> int:
    """Return how many of `length` regions or of A a program takes: `largest`, or fewer, down to 16, where the programs
    of so many images would leave multiprocessors idle. Not by Q: another Q would compile other kernels."""
    size = largest
    while size > 16 and images * triton.cdiv(length, size) < multiprocessors(device):
        size //= 2
    return size


def input_precision(values: Tensor) -> str:
    """Return how float32 values are multiplied; AMD's compiler does not know "tf32", and half precision is exact."""
    exact = torch.get_float32_matmul_precision() == "highest" or torch.version.hip is not None
    return "ieee" if exact or values.dtype != torch.float32 else "tf32"


class _AdditiveAttention(torch.autograd.Function):
    """The contexts [B, Q, D] in the dtype of the values and the weights [B, Q, L] in float32.

    `query` q is [B, Q, A], `keys` [B, L, A] are those of `exp_tanh.prepare_keys`, `vector` v is [A], `values` [B, L,
    D].
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.keys_node = exp_tanh.find_keys_node(keys)
        exp_query = exp_tanh.exp_2x(query).contiguous()
        keys, vector, values = (tensor.contiguous() for tensor in (keys, vector, values))
        (images, rows, width), (regions, depth) = exp_query.shape, values.shape[1:]
        tiles = triton.cdiv(rows, ROWS)
        size = block_size(REGIONS, regions, images, keys.device)
        blocks = triton.cdiv(regions, size)
        scores, weights = keys.new_empty(images, rows, regions), keys.new_empty(images, rows, regions)
        largest, sums = keys.new_empty(images, blocks, rows), keys.new_empty(images, blocks, rows)
        parts, contexts = keys.new_empty(images, blocks, rows, depth), values.new_empty(images, rows, depth)
        _block[(images, blocks, tiles)](
            exp_query, keys, vector, values, scores, largest, sums, parts, rows, regions, width, depth,
            1 / temperature, ROWS, size, WIDTH, DEPTH, input_precision(values),
        )  # fmt: skip
        _combine[(images, rows)](
            scores, largest, sums, parts, weights, contexts, blocks, regions, depth, triton.next_power_of_2(blocks),
            triton.next_power_of_2(regions), 2 * DEPTH,
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
        grad_keys = exp_tanh.shared_gradient(ctx.keys_node, keys)
        grad_query, grad_vector = _scores_backward(exp_query, keys, vector, slopes, grad_keys)
        return (
            grad_query.to(ctx.dtype), grad_keys if ctx.keys_node is None else None, grad_vector, grad_values, None,
        )  # fmt: skip


additive_attention: Callable[..., tuple[Tensor, Tensor]] = _AdditiveAttention.apply


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return additive scores [B, Q, L] of query [B, Q, A], prepared keys [B, L, A] and vector [A]."""
    return exp_tanh.additive_scores(query, keys, vector, KERNELS)


def _scores_forward(exp_query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    exp_query, keys, vector = (tensor.contiguous() for tensor in (exp_query, keys, vector))
    (images, rows, width), regions = exp_query.shape, keys.shape[1]
    tiles = triton.cdiv(rows, ROWS)
    size = block_size(REGIONS, regions, images, keys.device)
    scores = keys.new_empty(images, rows, regions)
    _scores[(images, triton.cdiv(regions, size), tiles)](
        exp_query, keys, vector, scores, rows, regions, width, ROWS, size, WIDTH
    )
    return scores


def _scores_backward(
    exp_query: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor, grad_keys: Tensor
) -> tuple[Tensor, Tensor]:
    exp_query, keys, vector, gradient = (tensor.contiguous() for tensor in (exp_query, keys, vector, gradient))
    (images, rows, width), regions = exp_query.shape, keys.shape[1]
    size = block_size(WIDTH, width, images, keys.device)
    grad_query, grad_vector = torch.empty_like(exp_query), keys.new_empty(triton.cdiv(rows, ROWS), images, width)
    for tile in range(len(grad_vector)):  # one after the other, since each adds to the gradient of the keys
        _gradients[(images, triton.cdiv(width, size))](
            gradient, exp_query, keys, vector, grad_query, grad_keys, grad_vector[tile], tile * ROWS, rows, regions,
            width, ROWS, REGIONS, size,
        )  # fmt: skip
    return grad_query, grad_vector.sum((0, 1))


KERNELS = exp_tanh.Kernels(_scores_forward, _scores_backward)


@triton.jit
def _score(
    exp_query, keys, vector, image, first_row, region, rows, regions, width,
    ROWS: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Return the scores [ROWS, REGIONS] of some rows and some regions of an image, eq. 4."""
    row = first_row + tl.arange(0, ROWS)
    v_sum, v_r = 0.0, tl.zeros([ROWS, REGIONS], tl.float32)
    for first in range(0, width, WIDTH):
        a = first + tl.arange(0, WIDTH)
        inside = a < width
        place = (image * regions + region[:, None]) * width + a[None, :]
        k = tl.load(keys + place, (region < regions)[:, None] & inside[None, :], 0.0)
        v = tl.load(vector + a, inside, 0.0)
        v_sum += tl.sum(v, 0)
        for q in range(first_row, tl.minimum(first_row + ROWS, rows)):
            u = tl.load(exp_query + (image * rows + q) * width + a, inside, 0.0)
            sums = tl.sum(v[None, :] / (1 + k * u[None, :]), 1)  # [REGIONS]
            v_r += tl.where(row[:, None] == q, sums[None, :], 0.0)
    return v_sum - 2 * v_r


@triton.jit(do_not_specialize=["rows"])
def _scores(
    exp_query, keys, vector, scores, rows, regions, width,
    ROWS: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the scores [B, Q, L] of a block of an image's regions."""
    image, region = tl.program_id(0), tl.program_id(1) * REGIONS + tl.arange(0, REGIONS)
    first_row = tl.program_id(2) * ROWS
    row = first_row + tl.arange(0, ROWS)
    score = _score(
        exp_query, keys, vector, image, first_row, region, rows, regions, width, ROWS, REGIONS, WIDTH
    )  # fmt: skip
    known = (row < rows)[:, None] & (region < regions)[None, :]
    tl.store(scores + (image * rows + row[:, None]) * regions + region[None, :], score, known)


@triton.jit(do_not_specialize=["rows"])
def _block(
    exp_query, keys, vector, values, scores, largest, sums, parts, rows, regions, width, depth, scale,
    ROWS: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write, of a block of an image's regions, the scores [B, Q, L] times `scale`, their maximum and the sum of their
    exponentials relative to it [B, blocks, Q], and the exponentials' product with the values [B, blocks, Q, D]."""
    image, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    first_row = tl.program_id(2) * ROWS
    region, row = block * REGIONS + tl.arange(0, REGIONS), first_row + tl.arange(0, ROWS)
    there, real = region < regions, row < rows
    score = _score(
        exp_query, keys, vector, image, first_row, region, rows, regions, width, ROWS, REGIONS, WIDTH
    )  # fmt: skip
    score = tl.where(there[None, :], scale * score, float("-inf"))
    tl.store(scores + (image * rows + row[:, None]) * regions + region[None, :], score, real[:, None] & there[None, :])
    maximum = tl.max(score, 1)
    exponential = tl.exp(score - maximum[:, None])
    place = (image * blocks + block) * rows + row
    tl.store(largest + place, maximum, real)
    tl.store(sums + place, tl.sum(exponential, 1), real)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        inside = d < depth
        value = tl.load(
            values + (image * regions + region[:, None]) * depth + d[None, :], there[:, None] & inside[None, :], 0.0
        )
        part = tl.dot(exponential.to(value.dtype), value, input_precision=PRECISION)  # [ROWS, DEPTH]
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


@triton.jit(do_not_specialize=["first_row", "rows"])
def _gradients(
    slopes, exp_query, keys, vector, grad_query, grad_keys, grad_vector, first_row, rows, regions, width,
    ROWS: tl.constexpr, REGIONS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write, of a block of A of one image and up to ROWS of its rows, the gradients of q and, for each image, v [B, A],
    from the gradient of the scores [B, Q, L], and add that of k: d e / dq = d e / dk = 4 v r (1 - r), d e / dv = 1 -
    2 r."""
    image = tl.program_id(0)
    a, row = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), first_row + tl.arange(0, ROWS)
    inside = a < width
    v = tl.load(vector + a, inside, 0.0)
    rows_sum = tl.zeros([ROWS, WIDTH], tl.float32)
    vector_sum, slope_sum = tl.zeros([WIDTH], tl.float32), tl.zeros([REGIONS], tl.float32)
    for first in range(0, regions, REGIONS):
        region = first + tl.arange(0, REGIONS)
        known = (region < regions)[:, None] & inside[None, :]
        place = (image * regions + region[:, None]) * width + a[None, :]
        k = tl.load(keys + place, known, 1.0)
        regions_sum = tl.zeros([REGIONS, WIDTH], tl.float32)
        for q in range(first_row, tl.minimum(first_row + ROWS, rows)):
            u = tl.load(exp_query + (image * rows + q) * width + a, inside, 1.0)
            slope = tl.load(slopes + (image * rows + q) * regions + region, region < regions, 0.0)
            r = 1 / (1 + k * u[None, :])
            slope_sum += slope
            vector_sum += tl.sum(slope[:, None] * r, 0)
            change = slope[:, None] * r * (1 - r)
            regions_sum += change
            rows_sum += tl.where(row[:, None] == q, tl.sum(change, 0)[None, :], 0.0)
        tl.store(grad_keys + place, tl.load(grad_keys + place, known, 0.0) + 4 * v[None, :] * regions_sum, known)
    known = (row < rows)[:, None] & inside[None, :]
    place = (image * rows + row[:, None]) * width + a[None, :]
    tl.store(grad_query + place, 4 * v[None, :] * rows_sum, known)
    tl.store(grad_vector + image * width + a, tl.sum(slope_sum, 0) - 2 * vector_sum, inside)
