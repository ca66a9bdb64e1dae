"""What the machine at hand can do: its device, and the precision that it multiplies fastest."""

import contextlib
import ctypes
import time
from typing import Any

import torch
from torch import Tensor

from caption.errors import UserError


def choose_device(name: str) -> torch.device:
    """Raises UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} is not to be had here ({reason}); use auto or cpu") from None


def choose_precision(name: str, device: torch.device) -> str:
    """auto: bf16 where a product of matrices takes less time in it, fp32 elsewhere."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(768, 768, dtype=dtype, device=device)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            (matrix @ matrix).sum().item()
            times.append(time.perf_counter() - start)
        return min(times)

    return "bf16" if seconds(torch.bfloat16) < 0.7 * seconds(torch.float32) else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def allow_tf32(device: torch.device) -> None:
    """On a GPU, let all products in fp32 round their factors to TF32 (10 bits), several times as fast: for training and
    its validation."""
    if device.type == "cuda":  # elsewhere it would mean other things
        torch.set_float32_matmul_precision("high")


def to_autocast_dtype(values: Tensor) -> Tensor:
    """As autocast would have the factors of a product, if it is on: cast once, not at every step."""
    kind = values.device.type
    return values.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else values


def upcast_float32(values: Tensor) -> Tensor:
    """Half precision widened to single, for sums that would lose too much; single and double as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device, without waiting for what it does: from pinned memory they are copied beside it."""
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 on a CPU, whose system keeps files in memory by itself."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def tune_malloc(device: torch.device) -> None:
    """On a CPU, let the C library keep what is freed for what comes next, where it is glibc. By default it gives large
    tensors back to the system, which clears every page of the next one."""
    if device.type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped apart
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, in bytes
