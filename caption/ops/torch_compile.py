"""Functions that torch.compile makes one kernel of, on a GPU, where `--training.compile` asks for it: it needs Triton,
and half a minute the first time. Shapes may change from call to call. A CPU has kernels in C of the same (native.py).
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from caption.errors import UserError

_state = {"wanted": False}


def want(device: torch.device) -> None:
    """Compile from now on, on a GPU. Raises UserError where Triton is not there."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError(
            "training.compile needs Triton, which PyTorch for Linux brings, and there is none; leave it out"
        )
    switch(device.type == "cuda")


def switch(on: bool) -> None:
    """Compile or not, from now on."""
    # One image or row, or more; with a gradient, without, or in inference: each is compiled for itself, once.
    torch._dynamo.config.cache_size_limit = 32  # by its older name, which PyTorch 2.6 knows, too
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
