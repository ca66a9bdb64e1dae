"""Functions that torch.compile may make one kernel of, where `--training.compile` asks for it: a C++ compiler is needed
on a CPU, Triton on a GPU, and half a minute the first time. Shapes may change from call to call."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import torch

from caption.errors import UserError

_state = {"wanted": False}


def want(device: torch.device) -> None:
    """Compile from now on. Raises UserError where there is no compiler."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise UserError("training.compile needs a C++ compiler (g++ or clang++), and there is none; leave it out")
    switch(True)


def switch(on: bool) -> None:
    """Compile or not, from now on."""
    # One image or row, or more; with a gradient, without, or in inference: each is compiled for itself, once.
    torch._dynamo.config.recompile_limit = 32
    _state["wanted"] = on


def wanted() -> bool:
    """Whether compiling is on."""
    return _state["wanted"]


def compilable(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself or, once compiling is wanted, compiled."""
    compiled = None

    @functools.wraps(plain)
    def chosen(*arguments: Any) -> Any:
        nonlocal compiled
        if not wanted():
            return plain(*arguments)
        compiled = compiled or torch.compile(plain, dynamic=True)
        return compiled(*arguments)

    return chosen
