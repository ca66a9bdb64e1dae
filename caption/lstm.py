"""The LSTM's cell, eq. 1-3."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption import native
from caption.compiled import compilable


def lstm(cell: Tensor, *shares: Tensor) -> tuple[Tensor, Tensor]:
    """Cell [B, Q, H], and what makes up the gates before their nonlinearities, each [B, Q, 4H] -> hidden state and cell
    [B, Q, H]."""
    hidden, following = lstm_rows(cell.flatten(0, 1), *(share.flatten(0, 1) for share in shares))
    return hidden.view(cell.shape), following.view(cell.shape)


def lstm_rows(cell: Tensor, *shares: Tensor) -> tuple[Tensor, Tensor]:
    """The same of N rows: [N, H], each [N, 4H] -> [N, H] each; one shape less for a compiler to tell apart."""
    if not native.computes(cell):
        found: tuple[Tensor, Tensor] = equations(cell, *shares)
        return found
    gates = functools.reduce(torch.add, shares)
    hidden, cell = _Lstm.apply(gates.float(), cell)  # type: ignore[no-untyped-call]
    return hidden.to(gates.dtype), cell


@compilable
def equations(cell: Tensor, *shares: Tensor) -> tuple[Tensor, Tensor]:
    """As they stand."""
    gates = functools.reduce(torch.add, shares)  # eq. 1
    i, f, o, g = gates.chunk(4, -1)  # input, forget, output, modulator
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)  # eq. 2
    return torch.sigmoid(o) * torch.tanh(cell).to(o.dtype), cell  # eq. 3


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        opened, hidden, following = native.lstm(gates, cell)
        ctx.save_for_backward(opened, cell, following)
        return hidden, following

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_hidden: Tensor, of_following: Tensor) -> tuple[Tensor, Tensor]:
        opened, cell, following = ctx.saved_tensors
        return native.lstm_gradients(opened, cell, following, of_hidden, of_following)
