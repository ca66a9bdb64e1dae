"""Stochastic hard attention, section 4.1; `training.reinforce` trains it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from caption import ops
from caption.attention.base import AttentionOutput, GumbelSoftmax, Memory, Sample
from caption.attention.soft import SoftAttention


class HardAttention(SoftAttention):
    """The context is the annotation vector of one location, s_t ~ Multinoulli(alpha_t), eq. 8-9.

    `Memory.sample_rows` says which rows sample. The others take the expectation of the context, eq. 13. No gradient
    passes through the choice itself, unless `Memory.gumbel_softmax` says how.
    """

    stochastic = True

    def add_bias(self, logits: Tensor, log_bias: Tensor | None) -> Tensor:
        """Return logits [B, Q, L] with a window's bias in them: what is sampled from must sum to one."""
        return logits if log_bias is None else logits + log_bias

    def normalise(self, logits: Tensor, log_bias: Tensor | None) -> Tensor:
        """Return alpha_t [B, Q, L], eq. 5: the expectation is that of the samples."""
        return self.add_bias(logits, log_bias).softmax(-1)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, D], weights [B, Q, L] and, unless `sample_rows` is None, the samples [B, Q].

        Probabilities stay logarithms, so that nothing is divided by alpha: where alpha is 0 or 1, all values and
        gradients are finite.
        """
        if memory.sample_rows is None:
            return super().attend(query, memory, step)
        log_weights = self.add_bias(*self.logits(query, memory, step)).log_softmax(-1)  # [B, Q, L]
        weights = log_weights.exp()
        if memory.gumbel_softmax is None:
            location = sample_location(log_weights.detach(), memory.argmax)  # [B, Q]
            chosen = F.one_hot(location, weights.shape[-1])  # s_t, [B, Q, L]
        else:
            location, chosen = sample_relaxed(log_weights, memory.gumbel_softmax)
        selected = torch.where(memory.sample_rows.unsqueeze(-1), chosen, weights)
        context = ops.weighted_sum(selected, memory.values)  # eq. 9, [B, Q, D]
        log_probability = log_weights.gather(-1, location.unsqueeze(-1)).squeeze(-1)
        expected = ~memory.sample_rows
        sample = Sample(
            location.masked_fill(expected, -1),
            log_probability.masked_fill(expected, 0),
            # Below exp(-100), a weight adds nothing; -inf times 0 would not be a number.
            -(weights * log_weights.clamp(min=-100)).sum(-1),
        )
        return AttentionOutput(context, weights, sample)


def sample_location(log_weights: Tensor, argmax: bool) -> Tensor:
    """Return a location for each row [B, Q] from log alpha [B, Q, L]: the most probable one, or a sample."""
    return log_weights.argmax(-1) if argmax else ops.sample_categorical(log_weights)


def sample_relaxed(log_weights: Tensor, gumbel_softmax: GumbelSoftmax) -> tuple[Tensor, Tensor]:
    """Return a location for each row [B, Q] and its selection [B, Q, L] from log alpha [B, Q, L].

    With Gumbel noise g, the location is the argmax of log alpha + g, a sample of alpha. The selection is the relaxed
    sample softmax((log alpha + g) / tau), which tends to the sample's one-hot vector as tau tends to 0; with
    `straight_through`, it is that vector, with the gradient of the relaxed sample (Jang et al., 2017, section 2.2).
    """
    perturbed = ops.add_gumbel_noise(log_weights)
    location = perturbed.argmax(-1)
    relaxed = (perturbed / gumbel_softmax.temperature).softmax(-1)
    if not gumbel_softmax.straight_through:
        return location, relaxed
    return location, F.one_hot(location, relaxed.shape[-1]) + (relaxed - relaxed.detach())
