"""Equations that torch.compile fuses into one kernel on a GPU, where `--training.compile` asks for it.

It needs Triton and takes half a minute the first time. Shapes may change from call to call.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caption.errors import UserError
from caption.ops import reference

_state = {"enabled": False}


def enable(device: torch.device) -> None:
    """Compile from now on, if the device is a GPU. Raises UserError where Triton is missing."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError(
            "training.compile needs Triton, which PyTorch brings for Linux, but it is missing; leave it out"
        )
    switch(device.type == "cuda")


def switch(on: bool) -> None:
    """Compile, or stop compiling, from now on."""
    # One image or row, or more; with gradient, without, or in inference: each is compiled once.
    torch._dynamo.config.cache_size_limit = 32  # the older name, which PyTorch 2.6 knows, too
    _state["enabled"] = on


def enabled(*_: Tensor) -> bool:
    """Return whether compiling is on, which is for tensors of any kind."""
    return _state["enabled"]


@functools.cache
def _compiled(equation: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(equation, dynamic=True)


def lstm_cell(cell: Tensor, *addends: Tensor) -> tuple[Tensor, Tensor]:
    """Return `reference.lstm_cell`, compiled; of rows [N, H], one shape less for the compiler to tell apart."""
    hidden, next_cell = _compiled(reference.lstm_cell)(*(tensor.flatten(0, -2) for tensor in (cell, *addends)))
    return hidden.view(cell.shape), next_cell.view(cell.shape)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `reference.token_nll`, compiled."""
    return _compiled(reference.token_nll)(logits, targets)
