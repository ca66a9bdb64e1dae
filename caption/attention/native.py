"""The additive score and its gradient on a CPU as kernels in C (kernels.c), compiled when they are first needed.

Nothing depends on them: where there is no C compiler that knows OpenMP, and for what is too little to pay for one,
additive.py does the same in PyTorch.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

LANES = 16  # A must be a multiple
WORTH = 2**20  # numbers r of a look from which on it pays
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels; None: they cannot be had here. Takes half a second, once a process."""
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, str(Path(__file__).with_name("kernels.c")), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return ctypes.CDLL(str(made))
        except (OSError, subprocess.SubprocessError):
            return None


def takes(asked: Tensor, keys: Tensor) -> bool:
    """Whether the kernels are for asked [B, Q, A] and keys [B, L, A]."""
    if asked.device.type != "cpu" or not asked.dtype == keys.dtype == torch.float32 or asked.shape[-1] % LANES:
        return False
    return asked.numel() * keys.shape[1] >= WORTH and library() is not None


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


def _run(name: str, asked: Tensor, keys: Tensor, *more: Tensor) -> None:
    """A kernel with these tensors and B, Q, L, A."""
    there = [each.contiguous() for each in (asked, keys, *more)]  # held until it returns; results are so already
    sizes = (*asked.shape[:2], *keys.shape[1:])
    pointers = [ctypes.c_void_p(each.data_ptr()) for each in there]
    getattr(library(), name)(*pointers, *map(ctypes.c_int64, sizes))
