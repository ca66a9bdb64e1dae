"""Find out whether the kernels of `triton_kernels.py` can run here, without importing Triton where there is no GPU."""

import functools
import sys
from typing import Any

import torch
from torch import Tensor

HALF_OR_SINGLE = (torch.float32, torch.bfloat16, torch.float16)
REMEDY = "install a C compiler and Python's headers (gcc and python3-dev, or export CC), or leave it: it only is slower"


@functools.cache
def works(device: torch.device, values: torch.dtype | None = None, precision: str = "") -> bool:
    """Return whether the kernel of the scores runs on the device or, with the dtype of values, that of attention, in
    PyTorch's precision of float32 products; warn once, with the remedy, if it does not.

    Triton builds its launcher with a C compiler at the first launch. It fails in slim images and where Python's headers
    are missing, and older versions cannot multiply every dtype on every GPU, in ways that only a launch shows.
    """
    if device.type != "cuda":
        return False
    try:
        ones = torch.ones(1, 1, 16, device=device)
        if values is None:
            additive_scores(ones, ones, ones[0, 0])
        else:
            additive_attention(ones, ones, ones[0, 0], ones.to(values), 1.0)
        torch.cuda.synchronize(device)
    except Exception as error:  # Triton raises almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        print(f"Triton cannot run a kernel on {device} ({reason}); PyTorch does the same: {REMEDY}", file=sys.stderr)
        return False
    return True


def supports_additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> bool:
    known = query.dtype in HALF_OR_SINGLE and keys.dtype == vector.dtype == torch.float32
    return query.is_cuda and known and works(query.device)


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return additive scores [B, Q, L] of query [B, Q, A], prepared keys [B, L, A] and vector [A]."""
    from caption.ops import triton_kernels

    return triton_kernels.additive_scores(query, keys, vector)


def supports_additive_attention(
    query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float
) -> bool:
    known = values.dtype in HALF_OR_SINGLE and supports_additive_scores(query, keys, vector)
    return known and works(query.device, values.dtype, torch.get_float32_matmul_precision())


def additive_attention(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Return the contexts [B, Q, D] and weights [B, Q, L] of additive attention, by one pass over keys and values."""
    from caption.ops import triton_kernels

    return triton_kernels.additive_attention(*arguments)
