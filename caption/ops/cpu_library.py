"""Compile `kernels.c` at first use, keep the library in the user's cache, load it, and call its functions.

Nothing depends on it: without a C compiler that knows OpenMP, PyTorch does the same, slower.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from caption.device import cpu_features

# Numbers in a vector of kernels.c: a register. Longer vectors can be seven times slower (docs/performance.md).
LANES = 16 if "avx512f" in cpu_features() else 8 if "avx2" in cpu_features() else 4
# Without -fno-trapping-math, loops with a condition become vectors with AVX-512 alone.
FLAGS = (
    "-O2", "-ftree-vectorize", "-fno-trapping-math", "-march=native", "-fopenmp", "-shared", "-fPIC", f"-DLANES={LANES}"
)  # fmt: skip
SOURCE = Path(__file__).with_name("kernels.c")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, compiled if the cache has none for this source, compiler and processor; None without them.

    Compiling takes about a second. A library in the cache is loaded only if nobody but this user can have written it.
    Where the cache cannot be used, the library is compiled into a temporary folder, once a process.
    """
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    try:
        with contextlib.suppress(OSError):  # a cache that cannot be written, or is mounted without the right to execute
            cached = _private_folder() / f"kernels-{_fingerprint(compiler)}.so"
            if not cached.exists():
                _compile(compiler, cached)
            if _is_private(cached):
                return ctypes.CDLL(str(cached))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            temporary = Path(folder) / "kernels.so"
            _compile(compiler, temporary)
            return ctypes.CDLL(str(temporary))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace").split("\n")[0]
        print(f"{compiler} cannot compile {SOURCE.name} ({reason}); PyTorch computes the same, slower", file=sys.stderr)
        return None


def _compile(compiler: str, target: Path) -> None:
    """Compile in a folder beside the target and rename the library, so that the target is complete or absent.

    Raises OSError or subprocess.SubprocessError.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as folder:
        part = Path(folder) / target.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(part)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        part.chmod(0o700)
        part.replace(target)


def _private_folder() -> Path:
    """Make the cache folder, following XDG_CACHE_HOME.

    Raises OSError if it cannot be written or others can write into it.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "show-attend-and-tell"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder) or not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: not a folder that only this user can write")
    return folder


def _is_private(path: Path) -> bool:
    """Return whether the path is this user's and nobody else may write it."""
    status = path.lstat()
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(status.st_mode)
    return not shared and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _fingerprint(compiler: str) -> str:
    """Return a digest of what decides the library: source, flags, compiler and processor."""
    real = Path(compiler).resolve()
    digest = hashlib.sha256(SOURCE.read_bytes())
    for value in (*FLAGS, str(real), str(real.stat().st_size), str(real.stat().st_mtime_ns), _processor()):
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()[:24]


def _processor() -> str:
    """Return the processor's model and instruction sets, since the kernels are compiled for it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines()
        kept = ("model name", "flags", "Features", "CPU part", "vendor_id")
        return "\n".join(line for line in first if line.startswith(kept))
    return f"{platform.machine()} {platform.processor()}"


def run(name: str, tensors: Iterable[Tensor], sizes: Iterable[int]) -> None:
    """Call a kernel with pointers to these tensors and these sizes; results are written into the tensors.

    Arguments may be strided (they are copied); results must be contiguous.
    """
    held = [tensor.contiguous() for tensor in tensors]  # alive until the kernel returns
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in held]
    kernels = library()
    assert kernels is not None
    kernels.omp_set_num_threads(torch.get_num_threads())  # the kernels' OpenMP need not be PyTorch's
    getattr(kernels, name)(*pointers, *map(ctypes.c_int64, sizes))
