"""Additive score, context and their gradients on a CPU as kernels in C (kernels.c), compiled when first needed.

Nothing depends on them: where there is no C compiler that knows OpenMP, and for what is too little to pay for one,
additive.py and contexts.py do the same in PyTorch.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

LANES = 16  # numbers of a vector; widths must be a multiple
WORTH = 2**20  # least B Q L A, or B Q L D, for which it pays
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", f"-DLANES={LANES}")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels; None: they cannot be had here. Takes half a second, once a process."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, str(Path(__file__).with_name("kernels.c")), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return ctypes.CDLL(str(made))
        except (OSError, subprocess.SubprocessError) as error:
            told = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace").split("\n")[0]
            print(f"kernels.c is not for {compiler} here ({told}); attention does without, slower", file=sys.stderr)
            return None


def takes(rows: Tensor, regions: Tensor) -> bool:
    """Whether the kernels are for rows [B, Q, ...] that look at keys [B, L, A] or values [B, L, D]."""
    if rows.device.type != "cpu" or not rows.dtype == regions.dtype == torch.float32 or regions.shape[-1] % LANES:
        return False
    return rows.shape[1] * regions.numel() >= WORTH and library() is not None


def scores(asked: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """asked e^(2q) [B, Q, A], keys e^(2k) [B, L, A], v [A] -> scores [B, Q, L]."""
    found = asked.new_empty(*asked.shape[:2], keys.shape[1])
    _run("scores", asked, keys, vector, found)
    return found


def gradients(asked: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the scores' gradient [B, Q, L] those of asked, keys and v."""
    of_asked, of_keys = asked.new_empty(asked.shape), keys.new_empty(keys.shape)
    seen = asked.new_empty(len(asked), asked.shape[-1])
    gradient = gradient.contiguous()
    _run("gradients", asked, keys, vector, gradient, of_asked, of_keys, seen)
    return of_asked, of_keys, gradient.sum() - 2 * seen.sum(0)


def contexts(weights: Tensor, values: Tensor) -> Tensor:
    """weights [B, Q, L], values [B, L, D] -> contexts [B, Q, D]."""
    found = weights.new_empty(*weights.shape[:2], values.shape[-1])
    _run("contexts", weights, values, found)
    return found


def of_weights(gradient: Tensor, values: Tensor) -> Tensor:
    """From the contexts' gradient [B, Q, D] that of the weights [B, Q, L]."""
    found = gradient.new_empty(*gradient.shape[:2], values.shape[1])
    _run("of_weights", gradient, values, found)
    return found


def _run(name: str, rows: Tensor, regions: Tensor, *more: Tensor) -> None:
    """A kernel with these tensors and B, Q, L and A or D."""
    there = [each.contiguous() for each in (rows, regions, *more)]  # held until it returns; results are so already
    sizes = (*rows.shape[:2], *regions.shape[1:])
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in there]
    getattr(library(), name)(*pointers, *map(ctypes.c_int64, sizes))
