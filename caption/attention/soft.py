"""Deterministic soft attention, section 4.2."""

from typing import Any

import torch
from torch import Tensor, nn

from caption import ops
from caption.attention.base import Attention, AttentionOutput, Memory, mask_regions, mask_scores
from caption.attention.scores import Score
from caption.device import to_autocast_dtype, upcast_float32


class SoftAttention(Attention):
    """The context is the expectation of the annotation vectors: z_t = sum_i alpha_ti a_i, eq. 13."""

    def __init__(
        self, score: Score, region_width: int, temperature: float = 1.0, window: nn.Module | None = None
    ) -> None:
        """`window` is one of WINDOWS, or None: attend everywhere."""
        super().__init__()
        self.context_width = region_width
        self.score = score
        self.temperature = temperature
        self.window: Any = window

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        regions, mean = mask_regions(regions, mask)
        if mask is not None and self.window is not None:
            self.window.check_mask(mask)
        values = to_autocast_dtype(regions).contiguous()
        return Memory(self.score.keys(values), values, mean, mask=mask)

    def logits(self, query: Tensor, memory: Memory, step: int) -> tuple[Tensor, Tensor | None]:
        """Return log alpha_t up to a constant [B, Q, L], eq. 4 over the temperature, minus infinity for padding and
        outside the window; and the logarithm of a factor of the weights after the softmax [B, Q, L], or None."""
        logits = mask_scores(upcast_float32(self.score(query, memory.keys)), memory.mask)
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.window is None:
            return logits, None
        inside, log_bias = self.window(query, step, memory.mask)
        return logits.masked_fill(~inside, -torch.inf), log_bias

    def normalise(self, logits: Tensor, log_bias: Tensor | None) -> Tensor:
        """Return alpha_t [B, Q, L] of what `logits` returns: eq. 5, times the factor of a window."""
        weights = logits.softmax(-1)
        return weights if log_bias is None else weights * log_bias.exp()

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, D] for given weights [B, Q, 1, L], eq. 13."""
        return ops.weighted_sum(weights.squeeze(2), memory.values)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, D] and weights [B, Q, L] for queries [B, Q, H] at step t, counted from 0."""
        if self.window is None and memory.mask is None:  # in one pass, where a backend has one
            return AttentionOutput(*self.score.attend(query, memory.keys, memory.values, self.temperature))
        weights = self.normalise(*self.logits(query, memory, step))
        return AttentionOutput(ops.weighted_sum(weights, memory.values), weights)  # eq. 13
