"""Operations by the kernels in C (kernels.c), for float32 and partly bfloat16 tensors on a CPU.

Each operation has a `supports_...` that takes the same arguments and says whether the kernels are for them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caption.ops import exp_tanh
from caption.ops.cpu_library import LANES, library, run

MIN_WORK = 2**14  # B Q L A or B Q L D from which on a kernel over regions pays
MIN_ELEMENTS = 2**14  # numbers from which on a kernel pays without gradient: not to compile for one image's caption


def _supports_regions(rows: Tensor, regions: Tensor, *others: Tensor) -> bool:
    """Return whether the kernels are for rows [B, Q, ...] over keys [B, L, A] or values [B, L, D]."""
    if rows.device.type != "cpu" or any(tensor.dtype != torch.float32 for tensor in (regions, *others)):
        return False
    if regions.shape[-1] % LANES or (len(rows) == 1 and not torch.is_grad_enabled()):
        return False  # one image is captioned sooner than the kernels are compiled
    return rows.shape[1] * regions.numel() >= MIN_WORK and library() is not None


def _supports_elements(tensor: Tensor, *others: Tensor) -> bool:
    """Return whether the kernels are for these tensors, all of the same dtype, float32 or bfloat16."""
    known = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bfloat16)
    if not known or any(other.dtype != tensor.dtype for other in others):
        return False
    return (torch.is_grad_enabled() or tensor.numel() >= MIN_ELEMENTS) and library() is not None


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def supports_additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> bool:
    return _supports_regions(query, keys, vector)


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """Return additive scores [B, Q, L] of query [B, Q, A], prepared keys [B, L, A] and vector [A]."""
    return exp_tanh.additive_scores(query, keys, vector, KERNELS)


def _scores_forward(exp_query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    scores = keys.new_empty(*exp_query.shape[:2], keys.shape[1])
    run("additive_scores", (exp_query, keys, vector, scores), (*exp_query.shape[:2], *keys.shape[1:]))
    return scores


def _scores_backward(
    exp_query: Tensor, keys: Tensor, vector: Tensor, gradient: Tensor, grad_keys: Tensor
) -> tuple[Tensor, Tensor]:
    grad_query = exp_query.new_empty(exp_query.shape)
    grad_vector = keys.new_empty(len(keys), keys.shape[-1])  # of each image
    tensors = (exp_query, keys, vector, gradient, grad_query, grad_keys, grad_vector)
    run("additive_scores_backward", tensors, (*exp_query.shape[:2], *keys.shape[1:]))
    return grad_query, grad_vector.sum(0)


KERNELS = exp_tanh.Kernels(_scores_forward, _scores_backward)


def supports_weighted_sum(weights: Tensor, values: Tensor) -> bool:
    """Not in training, where it would save less than 3 %, and not in bfloat16, where oneDNN's product is as fast."""
    return not torch.is_grad_enabled() and _supports_regions(weights, values)


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Return the contexts [B, Q, D] of weights [B, Q, L] and values [B, L, D], without gradient."""
    contexts = values.new_empty(*weights.shape[:2], values.shape[-1])
    run("weighted_sum", (weights.float(), values, contexts), (*weights.shape[:2], *values.shape[1:]))
    return contexts


def supports_lstm_cell(cell: Tensor, *addends: Tensor) -> bool:
    return cell.dtype == torch.float32 and _supports_elements(cell) and _supports_elements(*addends)


class _LSTMCell(torch.autograd.Function):
    """The next hidden state, in the dtype of the gates' addends, and the next cell in float32, eq. 1-3."""

    @staticmethod
    def forward(
        ctx: Any, cell: Tensor, from_word: Tensor, from_hidden: Tensor, from_context: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert from_word.shape == from_hidden.shape == from_context.shape == (*cell.shape[:-1], 4 * cell.shape[-1])
        gates, next_cell = cell.new_empty(from_word.shape), cell.new_empty(cell.shape)
        hidden = from_word.new_empty(cell.shape)
        sizes = (_is_half(from_word), cell.shape[:-1].numel(), cell.shape[-1])
        run("lstm_cell", (from_word, from_hidden, from_context, cell, gates, hidden, next_cell), sizes)
        ctx.save_for_backward(gates, cell, next_cell)
        return hidden, next_cell

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_hidden: Tensor, grad_next_cell: Tensor) -> tuple[Tensor, ...]:
        gates, cell, next_cell = ctx.saved_tensors
        grad_cell, grad_gates = cell.new_empty(cell.shape), grad_hidden.new_empty(gates.shape)
        tensors = (gates, cell, next_cell, grad_hidden, grad_next_cell, grad_gates, grad_cell)
        run("lstm_cell_backward", tensors, (_is_half(grad_hidden), cell.shape[:-1].numel(), cell.shape[-1]))
        return grad_cell, grad_gates, grad_gates, grad_gates


lstm_cell: Callable[..., tuple[Tensor, Tensor]] = _LSTMCell.apply


def supports_token_nll(logits: Tensor, targets: Tensor) -> bool:
    return _supports_elements(logits)


class _TokenNLL(torch.autograd.Function):
    """-log p_y of each target y in nats [N], from logits x [N, V], without a second matrix [N, V].

    It is log sum_v e^(x_v) - x_y, each less the largest logit; the gradient is p_v - [v = y].
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        assert targets.shape == logits.shape[:1]
        largest, sums = logits.new_empty(2, len(logits), dtype=torch.float32)
        run("token_nll", (logits, largest, sums), (_is_half(logits), *logits.shape))
        log_sums = sums.log()
        ctx.save_for_backward(logits, targets, largest, log_sums)
        return log_sums - (logits.gather(1, targets.unsqueeze(1)).squeeze(1) - largest)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, largest, log_sums = ctx.saved_tensors
        grad_logits = logits.new_empty(logits.shape)
        sizes = (_is_half(logits), *logits.shape)
        run("token_nll_backward", (logits, targets, largest, log_sums, gradient, grad_logits), sizes)
        return grad_logits, None


token_nll: Callable[..., Tensor] = _TokenNLL.apply
