"""Deterministic soft attention, section 4.2."""

from torch import Tensor, nn

from caption.attention.additive import AdditiveScore
from caption.attention.base import Attended, Memory, at_least_single


class SoftAttention(nn.Module):
    """The context is the expectation of the annotation vectors: z_t = sum_i alpha_ti a_i, eq. 13."""

    stochastic = False  # whether training draws locations

    def __init__(self, score: AdditiveScore, temperature: float = 1.0) -> None:
        super().__init__()
        self.score = score
        self.temperature = temperature

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads."""
        keys = self.score.keys(regions)
        return Memory(keys, regions.to(keys.dtype))

    def logits(self, query: Tensor, memory: Memory) -> Tensor:
        """query [B, Q, H] -> log alpha_t up to a constant [B, Q, L], eq. 4 over the temperature."""
        return at_least_single(self.score(query, memory.keys)) / self.temperature

    def forward(self, query: Tensor, memory: Memory) -> Attended:
        """query [B, Q, H] -> context [B, Q, D] and weights [B, Q, L]."""
        weights = self.logits(query, memory).softmax(-1)  # eq. 5, [B, Q, L]
        context = weights.to(memory.values.dtype) @ memory.values  # [B, Q, D], nothing repeated along Q
        return Attended(context, weights)
