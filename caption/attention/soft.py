"""Deterministic soft attention, section 4.2."""

import functools
import importlib.util

import torch
from torch import Tensor, nn

from caption.attention.base import AttentionOutput, Memory
from caption.attention.scores import Score, TanhScore
from caption.device import to_autocast_dtype, upcast_float32
from caption.ops.contexts import contexts


class SoftAttention(nn.Module):
    """The context is the expectation of the annotation vectors: z_t = sum_i alpha_ti a_i, eq. 13."""

    stochastic = False  # whether training draws locations

    def __init__(
        self, score: Score, region_width: int, temperature: float = 1.0, window: nn.Module | None = None
    ) -> None:
        """`window` is one of WINDOWS; None: everywhere."""
        super().__init__()
        self.context_width = region_width
        self.score = score
        self.temperature = temperature
        self.window = window

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads."""
        values = to_autocast_dtype(regions).contiguous()
        return Memory(self.score.keys(values), values, regions.mean(1))

    def logits(self, query: Tensor, memory: Memory, step: int) -> tuple[Tensor, Tensor | None]:
        """query [B, Q, H] -> log alpha_t up to a constant [B, Q, L], eq. 4 over the temperature, minus infinity outside
        the window; and the logarithm of what damps the weights after the softmax [B, Q, L], if anything does."""
        logits = upcast_float32(self.score(query, memory.keys))
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.window is None:
            return logits, None
        inside, damping = self.window(query, step)
        return logits.masked_fill(~inside, -torch.inf), damping

    def weigh(self, logits: Tensor, damping: Tensor | None) -> Tensor:
        """What `logits` gives -> alpha_t [B, Q, L], eq. 5."""
        weights = logits.softmax(-1)
        return weights if damping is None else weights * damping.exp()

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] at step t, from 0 -> context [B, Q, D] and weights [B, Q, L]."""
        score = self.score
        if isinstance(score, TanhScore) and self.window is None and fuses(query.device.type):
            from caption.ops.triton_attention import attend

            vector = score.vector.weight.view(-1)
            return AttentionOutput(*attend(score.ask(query), memory.keys, vector, memory.values, self.temperature))
        weights = self.weigh(*self.logits(query, memory, step))  # [B, Q, L]
        return AttentionOutput(contexts(weights, memory.values), weights)


@functools.cache
def fuses(device: str) -> bool:
    """Whether a kind of device runs the kernels of fused.py."""
    return device == "cuda" and importlib.util.find_spec("triton") is not None
