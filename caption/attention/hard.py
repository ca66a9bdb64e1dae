"""Stochastic hard attention, section 4.1; `losses.reinforce_loss` trains it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from caption.attention.base import AttentionOutput, Draw, Memory
from caption.attention.soft import SoftAttention
from caption.ops.contexts import contexts


class HardAttention(SoftAttention):
    """The context is the annotation vector of one location, s_t ~ Multinoulli(alpha_t), eq. 8-9.

    `Memory.drawn` says which rows draw. The others take the expectation of the context, which is soft attention.
    """

    stochastic = True

    def damp(self, logits: Tensor, damping: Tensor | None) -> Tensor:
        """Logits [B, Q, L] with a window's damping in them: a draw needs probabilities, so that weights sum to one."""
        return logits if damping is None else logits + damping

    def weigh(self, logits: Tensor, damping: Tensor | None) -> Tensor:
        """The expectation is that of the draws."""
        return self.damp(logits, damping).softmax(-1)

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] at step t -> context [B, Q, D], weights [B, Q, L] and, unless `drawn` is None, the draws
        [B, Q].

        No gradient passes through the choice itself. Probabilities stay logarithms, so that nothing is divided by
        alpha: where alpha is 0 or 1, all values and gradients are finite.
        """
        if memory.drawn is None:
            return super().forward(query, memory, step)
        logits, damping = self.logits(query, memory, step)
        log_weights = self.damp(logits, damping).log_softmax(-1)  # eq. 5, [B, Q, L]
        weights = log_weights.exp()
        location = choose(log_weights.detach(), memory.most_probable)  # [B, Q]
        one_hot = F.one_hot(location, weights.shape[-1])  # s_t, [B, Q, L]
        selected = torch.where(memory.drawn.unsqueeze(-1), one_hot, weights)
        context = contexts(selected, memory.values)  # eq. 9, [B, Q, D]
        log_probability = log_weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)
        draw = Draw(
            location.masked_fill(~memory.drawn, -1),
            log_probability.masked_fill(~memory.drawn, 0),
            # Below exp(-100), a weight adds nothing; -inf times 0 would be no number.
            -(weights * log_weights.clamp(min=-100)).sum(-1),
        )
        return AttentionOutput(context, weights, draw)


def choose(log_weights: Tensor, most_probable: bool) -> Tensor:
    """log alpha [B, Q, L] -> a location for each row [B, Q]: its maximum, or a draw.

    Drawn by the largest of log alpha_i - log x_i with x_i exponentially distributed (the Gumbel-max trick): one pass
    that never asks a GPU to wait.
    """
    if most_probable:
        return log_weights.argmax(-1)
    # Below its resolution the generator gives 0 too often (its chance should be the value itself), and a 0 would win
    # against any alpha.
    noise = torch.empty_like(log_weights).exponential_().clamp_(min=torch.finfo(log_weights.dtype).eps / 2)
    return (log_weights - noise.log_()).argmax(-1)
