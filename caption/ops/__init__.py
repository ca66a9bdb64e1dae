"""The arithmetic of the model: each operation is called by its name, and the fastest backend for its tensors computes
it.

`reference` holds every operation as its equation. BACKENDS says which other implementations there are and which tensors
they support; the first that supports them is taken, and `reference` where none does. `CAPTION_OPS=reference` in the
environment, or `with use("reference"):`, turns all of them off. This package alone knows of C, Triton, oneDNN, CUDA
graphs, torch.compile and PyTorch's private names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from caption.ops import cpu, exp_tanh, reference, switch, torch_compile, triton
from caption.ops import dropout as shared_bits
from caption.ops.cuda_graphs import TimeLoop
from caption.ops.recurrent_linear import RecurrentLinear, reuse_weights
from caption.ops.reference import attention_weights, gate_context
from caption.ops.switch import chosen, use
from caption.ops.torch_compile import enable as enable_compile

__all__ = [
    "BACKENDS", "Backend", "Dropout", "RecurrentLinear", "TimeLoop", "additive_attention", "additive_scores",
    "attention_weights", "chosen", "enable_compile", "gate_context", "lstm_cell", "prepare_keys", "reuse_weights",
    "token_nll", "use", "weighted_sum",
]  # fmt: skip


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
        Backend("exp, in blocks", _always, exp_tanh.additive_scores),
    ),
    "weighted_sum": (Backend("C", cpu.supports_weighted_sum, cpu.weighted_sum),),
    "additive_attention": (Backend("Triton", triton.supports_additive_attention, triton.additive_attention),),
    "lstm_cell": (
        Backend("C", cpu.supports_lstm_cell, cpu.lstm_cell),
        Backend("torch.compile", torch_compile.supports, torch_compile.lstm_cell),
    ),
    "token_nll": (
        Backend("C", cpu.supports_token_nll, cpu.token_nll),
        Backend("torch.compile", torch_compile.supports, torch_compile.token_nll),
    ),
    "dropout": (Backend("shared random bits", shared_bits.supports_dropout, shared_bits.dropout),),
}


def _backend(operation: str, *arguments: Any) -> Backend | None:
    """Return the first backend that supports these arguments, or None for the reference."""
    backends = BACKENDS[operation] if switch.fast() else ()
    backend = next((backend for backend in backends if backend.supports(*arguments)), None)
    switch.note(operation, "reference" if backend is None else backend.name)
    return backend


def _run(operation: str, *arguments: Any) -> Any:
    backend = _backend(operation, *arguments)
    return (getattr(reference, operation) if backend is None else backend.run)(*arguments)


def prepare_keys(keys: Tensor) -> Tensor:
    """Return keys W_a a_i [B, L, A] in the form that additive scores read: once for each image, for all its steps."""
    prepared: Tensor = _run("prepare_keys", keys)
    return prepared


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return the scores e_ti = v . tanh(W_a a_i + W_h h_(t-1)), shape [B, Q, L], eq. 4.

    `query` W_h h_(t-1) is [B, Q, A], `keys` [B, L, A] are those of `prepare_keys`, `vector` v is [A].
    """
    scores: Tensor = _run("additive_scores", query, keys, vector)
    return scores


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Return the contexts z_t = sum_i alpha_ti a_i, shape [B, Q, D], of weights [B, Q, L] and values [B, L, D], eq.
    13."""
    contexts: Tensor = _run("weighted_sum", weights, values)
    return contexts


def additive_attention(
    query: Tensor, keys: Tensor, vector: Tensor, values: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the contexts [B, Q, D] and weights alpha_t [B, Q, L] of additive soft attention, eq. 4, 5 and 13."""
    backend = _backend("additive_attention", query, keys, vector, values, temperature)
    if backend is not None:
        contexts, weights = backend.run(query, keys, vector, values, temperature)
        return contexts, weights
    weights = attention_weights(additive_scores(query, keys, vector), temperature)
    return weighted_sum(weights, values), weights


def lstm_cell(cell: Tensor, from_word: Tensor, from_hidden: Tensor, from_context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden state and cell [B, Q, H] from the cell and the gates' three addends [B, Q, 4H], eq.
    1-3."""
    hidden, next_cell = _run("lstm_cell", cell, from_word, from_hidden, from_context)
    return hidden, next_cell


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target token in nats [N]; logits [N, V], targets [N]."""
    nll: Tensor = _run("token_nll", logits, targets)
    return nll


class Dropout(nn.Dropout):
    """The function of `nn.Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each element zero with probability p and the others divided by 1 - p, in training."""
        result: Tensor = _run("dropout", x, self.p, self.training)
        return result
