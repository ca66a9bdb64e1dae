"""The arithmetic of the model: each operation is called by its name, and the fastest backend for its tensors computes
it.

`reference` holds every operation as its equation. BACKENDS says which other implementations there are and which tensors
they support; the first that supports them is taken, and `reference` where none does. `CAPTION_OPS=reference` in the
environment, or `with use("reference"):`, turns all of them off. This package alone knows of C, Triton, oneDNN, CUDA
graphs, torch.compile and PyTorch's private names.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

from torch import Tensor, nn

from caption.ops import cpu, cpu_library, exp_tanh, reference, switch, torch_compile, triton
from caption.ops import dropout as shared_bits
from caption.ops.cuda_graphs import TimeLoop
from caption.ops.cuda_graphs import enable as enable_graphs
from caption.ops.recurrent_linear import RecurrentLinear, reuse_weights
from caption.ops.reference import add_gumbel_noise, attention_weights, gate_context, sample_categorical
from caption.ops.switch import chosen, use
from caption.ops.torch_compile import enable as enable_compile

__all__ = [
    "BACKENDS", "Backend", "Dropout", "RecurrentLinear", "TimeLoop", "add_gumbel_noise", "additive_attention",
    "additive_scores", "attention_weights", "chosen", "cpu_kernels", "enable_compile", "enable_graphs", "gate_context",
    "lstm_cell", "prepare_keys", "reuse_weights", "sample_categorical", "token_nll", "use", "weighted_sum",
]  # fmt: skip


def cpu_kernels() -> str:
    """Return which kernels a CPU uses: C, PyTorch (without a compiler) or reference. They differ in the last digits."""
    return "reference" if not switch.fast() else "C" if cpu_library.library() else "PyTorch"


P = ParamSpec("P")
R = TypeVar("R")


class Backend(NamedTuple):
    """One implementation of an operation."""

    name: str
    supports: Callable[..., bool]  # of the operation's arguments
    run: Callable[..., Any]


def _always(*_: Any) -> bool:
    return True


# For each operation its backends, the preferred one first.
BACKENDS: dict[str, tuple[Backend, ...]] = {
    "prepare_keys": (Backend("exp", _always, exp_tanh.prepare_keys),),
    "additive_scores": (
        Backend("C", cpu.supports_additive_scores, cpu.additive_scores),
        Backend("Triton", triton.supports_additive_scores, triton.additive_scores),
        Backend("exp, in blocks", _always, exp_tanh.additive_scores),
    ),
    "weighted_sum": (Backend("C", cpu.supports_weighted_sum, cpu.weighted_sum),),
    "additive_attention": (Backend("Triton", triton.supports_additive_attention, triton.additive_attention),),
    "lstm_cell": (
        Backend("C", cpu.supports_lstm_cell, cpu.lstm_cell),
        Backend("torch.compile", torch_compile.enabled, torch_compile.lstm_cell),
    ),
    "token_nll": (
        Backend("C", cpu.supports_token_nll, cpu.token_nll),
        Backend("torch.compile", torch_compile.enabled, torch_compile.token_nll),
    ),
    "dropout": (Backend("shared random bits", shared_bits.supports_dropout, shared_bits.dropout),),
}


def _dispatched(equation: Callable[P, R]) -> Callable[P, R]:
    """Return a function like the equation, computed by the first backend that supports the arguments."""
    operation = equation.__name__

    @functools.wraps(equation)
    def run(*arguments: P.args, **keywords: P.kwargs) -> R:
        backends = BACKENDS[operation] if switch.fast() else ()
        backend = next((backend for backend in backends if backend.supports(*arguments, **keywords)), None)
        switch.note(operation, "reference" if backend is None else backend.name)
        implementation = equation if backend is None else backend.run
        return implementation(*arguments, **keywords)

    return run


prepare_keys = _dispatched(reference.prepare_keys)
additive_scores = _dispatched(reference.additive_scores)
weighted_sum = _dispatched(reference.weighted_sum)
lstm_cell = _dispatched(reference.lstm_cell)
token_nll = _dispatched(reference.token_nll)
_dropout = _dispatched(reference.dropout)


@_dispatched
def additive_attention(
    query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the contexts and weights of `reference.additive_attention`, each part by its own fastest backend."""
    weights = attention_weights(additive_scores(query, keys, vector), temperature)
    return weighted_sum(weights, values), weights


class Dropout(nn.Dropout):
    """The function of `nn.Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each element zero with probability p and the others divided by 1 - p, in training."""
        return _dropout(x, self.p, self.training)
