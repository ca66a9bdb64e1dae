"""The Triton kernels compile for GPUs that are not there, in every option that the code asks for, and fit them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux alone")
if torch.version.cuda is None:
    pytest.skip("only PyTorch's builds for CUDA bring what compiles for it", allow_module_level=True)

# A program has 128 threads: three at a time have 168 of a multiprocessor's 65,536 registers each, and 24 KiB of shared
# memory; Turing (sm_75), which has 64 KiB in all, gets by with half of it.
REGISTERS, SHARED = 168, {"sm_75": 12 * 1024, "sm_80": 24 * 1024, "sm_90": 24 * 1024, "gfx942": 16 * 1024}

# What older versions of Triton say where they cannot compile.
SKIPS = {
    "ROCm linker": "this Triton needs ROCm's linker for AMD",
    "map::at": "Triton 3.2 multiplies neither TF32 nor bfloat16 on Turing, which `triton.works` finds out",
}


COMMON = ("sm_80", "sm_90")  # the others take as long, and are compiled by `make test-slow`


@pytest.mark.parametrize(
    "architecture", [each if each in COMMON else pytest.param(each, marks=pytest.mark.slow) for each in SHARED]
)
def test_kernels_fit_without_spills_in_every_option_and_another_q_compiles_nothing(
    architecture: str, tmp_path: Path
) -> None:
    script = Path(__file__).parent / "compile_kernels.py"
    environment = {
        **os.environ,
        "PYTHONPATH": str(script.parents[2]),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_INTERPRET": "0",
    }
    run = subprocess.run(
        [sys.executable, script, architecture], env=environment, check=False, capture_output=True, text=True
    )
    for message, reason in SKIPS.items():
        if message in run.stderr:
            pytest.skip(reason)
    assert run.returncode == 0, run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]

    blocks = {(kernel["REGIONS"], kernel["values"], kernel["PRECISION"]) for kernel in named(kernels, "_block")}
    single = "tf32" if architecture.startswith("sm_") else "ieee"  # AMD's compiler has no TF32
    assert blocks == {
        (64, "float32", "ieee"), (64, "float32", single), (64, "float16", "ieee"), (64, "bfloat16", "ieee"),
        (32, "bfloat16", "ieee"), (16, "float16", "ieee"), (16, "float32", single),
    }  # fmt: skip
    assert {kernel["values"] for kernel in named(kernels, "_combine")} == {"float32", "float16", "bfloat16"}
    assert {kernel["REGIONS"] for kernel in named(kernels, "_scores")} == {64, 32, 16}
    assert {kernel["WIDTH"] for kernel in named(kernels, "_gradients")} == {32, 16}

    for kernel in kernels:
        assert kernel["rows"] == 5, kernel  # other numbers of rows came later
        assert kernel["spilled"] == 0, kernel
        assert kernel["registers"] <= REGISTERS and kernel["shared"] <= SHARED[architecture], kernel


def named(kernels: list[dict[str, object]], name: str) -> list[dict[str, object]]:
    return [kernel for kernel in kernels if kernel["kernel"] == name]
