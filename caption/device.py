"""The device, its numerical precision, and tensors on it."""

import contextlib
import ctypes
import functools
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from caption.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# The instructions that multiply matrices in half precision, as Linux names them, for x86 and for ARM.
HALF_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}


def choose_device(name: str) -> torch.device:
    """Return the device with this name; auto: the GPU, if there is one. Raises UserError if it is not available.

    A GPU with an index becomes the current one, on which Triton starts kernels and CUDA graphs are recorded.
    An Apple GPU is used only if it is named (mps): nothing here has ever run on one.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        device = torch.device(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} is not available ({reason}); use auto or cpu") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def choose_precision(name: Precision, device: torch.device) -> Precision:
    """Resolve auto: bf16 if the device has instructions for it, else fp32; fp16 on a GPU that has units for half
    precision (compute capability 7.0: V100, T4) but none for bfloat16. A processor that would only emulate the
    precision that is named is said in one line."""
    if name != "auto":
        if is_emulated(name, device):
            print(
                f"precision {name}: this processor has no instructions for it, and takes many times as long as in fp32 "
                "to emulate them; give fp32 or auto",
                file=sys.stderr,
            )
        return name
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    return "bf16" if device.type == "cpu" and not is_emulated("bf16", device) else "fp32"


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return the processor's instruction sets by Linux's names; none where the system does not tell them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split()[2:])


def is_emulated(precision: str, device: torch.device) -> bool:
    """Return whether a CPU has no instructions for matrix products in this precision."""
    if device.type != "cpu" or precision not in HALF_INSTRUCTIONS:
        return False
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return not known or not HALF_INSTRUCTIONS[precision] & cpu_features()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context that runs matrix products and convolutions in bfloat16 or float16 if the precision is bf16 or
    fp16."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def set_tf32(device: torch.device, allowed: bool) -> None:
    """Say what fp32 means on a GPU, for matrix products and convolutions alike: TF32 (10-bit mantissa, several times as
    fast), if allowed, or single precision. Training and its validation allow it; evaluation, captions of single images
    and stored features do not."""
    if device.type == "cuda":  # on other devices the setting means something else
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed  # by default on, whatever matrix products do


def to_autocast_dtype(values: Tensor) -> Tensor:
    """Cast to the autocast dtype, if autocast is enabled, so that a loop need not cast at every step."""
    kind = values.device.type
    return values.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else values


def upcast_float32(values: Tensor) -> Tensor:
    """Cast half precision to float32, for sums that would lose too much; leave float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; to a GPU from pinned memory, and therefore without waiting for its work."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)  # a copy in the background could be read, or its source changed, before its end
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """Return the name by which a checkpoint tells one kind of device from another."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def to_cpu(*values: Tensor) -> list[Tensor]:
    """Copy tensors of one device to the CPU; a GPU is waited for once, not for each of them."""
    copies = [value.to("cpu", non_blocking=value.is_cuda) for value in values]  # into pinned memory
    if values[0].is_cuda:
        torch.cuda.current_stream(values[0].device).synchronize()
    return copies


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for a CPU, whose system caches files itself."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def tune(device: torch.device) -> None:
    """Prepare for many batches of one shape.

    On a GPU, cuDNN tries its algorithms for each shape once. On a CPU with glibc, malloc keeps freed memory for later
    tensors: by default it returns large blocks to the system, which then clears every page of the next one.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    if device.type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: allocate no block with mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, in bytes
