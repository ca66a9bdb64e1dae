"""The LSTM's cell, eq. 1-3."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops import cpu
from caption.ops.torch_compile import compilable


def lstm(cell: Tensor, word: Tensor, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cell [B, Q, H]; the shares that the word, the state and what is seen have in the gates before their
    nonlinearities, each [B, Q, 4H] -> hidden state and cell [B, Q, H]."""
    hidden, following = lstm_rows(*(each.flatten(0, 1) for each in (cell, word, state, seen)))
    return hidden.view(cell.shape), following.view(cell.shape)


def lstm_rows(cell: Tensor, word: Tensor, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The same of N rows: [N, H], each [N, 4H] -> [N, H] each; one shape less for a compiler to tell apart."""
    alike = word.dtype == state.dtype == seen.dtype
    function = _Lstm.apply if cpu.computes(cell) and cpu.computes(word, torch.bfloat16) and alike else equations
    found: tuple[Tensor, Tensor] = function(cell, word, state, seen)
    return found


@compilable
def equations(cell: Tensor, word: Tensor, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """As they stand."""
    i, f, o, g = (word + state + seen).chunk(4, -1)  # input, forget, output, modulator, eq. 1
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)  # eq. 2
    return torch.sigmoid(o) * torch.tanh(cell).to(o.dtype), cell  # eq. 3


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: Tensor, word: Tensor, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        opened, hidden, following = cpu.lstm(cell, word, state, seen)
        ctx.save_for_backward(opened, cell, following)
        return hidden, following

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_hidden: Tensor, of_following: Tensor) -> tuple[Tensor, ...]:
        opened, cell, following = ctx.saved_tensors
        of_cell, of_gates = cpu.lstm_gradients(opened, cell, following, of_hidden, of_following)
        return of_cell, of_gates, of_gates, of_gates
