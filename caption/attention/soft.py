"""Deterministic soft attention, section 4.2."""

from torch import Tensor, nn

from caption.attention.additive import AdditiveScore
from caption.attention.base import Attended, Memory, at_least_single


class SoftAttention(nn.Module):
    """The context is the expectation of the annotation vectors: z_t = sum_i alpha_ti a_i, eq. 13."""

    def __init__(self, score: AdditiveScore) -> None:
        super().__init__()
        self.score = score

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads."""
        keys = self.score.keys(regions)
        return Memory(keys, regions.to(keys.dtype))

    def forward(self, query: Tensor, memory: Memory) -> Attended:
        """query [B, Q, H] -> context [B, Q, D] and weights [B, Q, L]."""
        weights = at_least_single(self.score(query, memory.keys)).softmax(-1)  # eq. 5, [B, Q, L]
        context = weights.to(memory.values.dtype) @ memory.values  # [B, Q, D], nothing repeated along Q
        return Attended(context, weights)
