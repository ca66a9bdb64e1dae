"""Compile the Triton kernels for a GPU that is not there, and print what each takes of it.

    TRITON_INTERPRET=0 PYTHONPATH=. python tests/ops/compile_kernels.py sm_90

Additive attention and its scores are called with tensors that have shapes and no memory, so that every launch is what a
GPU would be asked for; instead of launching, Triton compiles. A line for each kernel: its name, the dtype of the
values, Q, its constants, registers of a thread, bytes that a thread spills, and bytes of shared memory of a program.
"""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction, MockTensor

from caption.ops import triton_kernels
from caption.ops.exp_tanh import prepare_keys

IMAGES, L, A, D = 16, 196, 512, 2048
# Multiprocessors, with 1, 100 and 300 of which 16 images get blocks of 64, 32 and 16 regions; values; precision.
CASES = [
    (1, torch.float32, "highest"), (1, torch.float32, "high"), (1, torch.float16, "high"), (1, torch.bfloat16, "high"),
    (100, torch.bfloat16, "high"), (300, torch.float16, "high"), (300, torch.float32, "high"),
]  # fmt: skip
ROWS = (5, 1, 16, 40)  # of an image


class Driver:
    """Answer as a GPU does when Triton asks which one to compile for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def usage(kernel: Any) -> dict[str, int]:
    """Return registers, spilled bytes and shared bytes of a compiled kernel."""
    shared = kernel.metadata.shared
    if "cubin" not in kernel.asm:
        text = kernel.asm["amdgcn"]
        found = {name: int(value) for name, value in re.findall(r"\.(vgpr_count|private_segment_\w+): +(\d+)", text)}
        return {
            "registers": found["vgpr_count"], "spilled": found["private_segment_fixed_size"], "shared": shared,
        }  # fmt: skip
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"], "shared": shared}


def main(architecture: str) -> None:
    cuda = architecture.startswith("sm_")
    target = GPUTarget("cuda", int(architecture[3:]), 32) if cuda else GPUTarget("hip", architecture, 64)
    triton.runtime.driver.set_active(Driver(target))
    torch.version.hip = None if cuda else "6"  # by which the kernels know AMD's compiler
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # which tensors without memory do not have
    run, compiled, options = JITFunction.run, set(), {"values": "", "rows": 0}

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        arguments = [MockTensor(value.dtype) if isinstance(value, torch.Tensor) else value for value in arguments]
        kernel = run(self, *arguments, grid=grid, warmup=True, **keywords)
        if kernel.hash not in compiled:
            compiled.add(kernel.hash)
            constants = {name: value for name, value in zip(self.arg_names, arguments, strict=True) if name.isupper()}
            print(json.dumps({"kernel": self.fn.__name__, **options, **constants, **usage(kernel)}), flush=True)

    JITFunction.run = compile_only
    for (multiprocessors, dtype, precision), rows in itertools.product(CASES, ROWS):
        triton_kernels.multiprocessors = lambda _, value=multiprocessors: value
        torch.set_float32_matmul_precision(precision)
        query, keys, vector, values = (
            torch.empty(shape, dtype=kind, device="meta", requires_grad=True)
            for shape, kind in (
                ((IMAGES, rows, A), torch.float32), ((IMAGES, L, A), torch.float32), ((A,), torch.float32),
                ((IMAGES, L, D), dtype),
            )
        )  # fmt: skip
        options.update(values=str(dtype).removeprefix("torch."), rows=rows)
        context, _ = triton_kernels.additive_attention(query, prepare_keys(keys), vector, values, 1.0)
        (context.sum() + triton_kernels.additive_scores(query, prepare_keys(keys), vector).sum()).backward()


if __name__ == "__main__":
    main(sys.argv[1])
