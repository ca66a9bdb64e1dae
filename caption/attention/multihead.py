"""Multi-head attention (Vaswani et al., 2017, section 3.2): M scaled dot products at once, each in its own projection.

head_m = softmax((W_q h)_m . (W_k a)_m / sqrt(A / M)) (W_v a)_m,    z = W_o [head_1; ...; head_M]
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from caption.attention.base import Attention, AttentionOutput, Memory, mask_regions, mask_scores
from caption.device import upcast_float32
from caption.errors import UserError


class MultiHeadAttention(Attention):
    """The context is a projection of M expectations; `torch.nn.MultiheadAttention` with H = A is the same function.

    The memory holds keys and values as [B, M, L, A / M].
    """

    def __init__(self, query_width: int, region_width: int, width: int, heads: int, temperature: float = 1.0) -> None:
        """Raises UserError when M does not divide A."""
        super().__init__()
        if width % heads:
            raise UserError(f"decoder.heads is {heads}, but must divide decoder.attention_dim, which is {width}")
        self.context_width, self.heads, self.temperature = query_width, heads, temperature
        self.query = nn.Linear(query_width, width)  # W_q
        self.key = nn.Linear(region_width, width)  # W_k
        self.value = nn.Linear(region_width, width)  # W_v
        self.output = nn.Linear(width, query_width)  # W_o

    def project(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, M, L, A / M] of regions [B, L, D]."""
        return split_heads(self.key(regions), self.heads), split_heads(self.value(regions), self.heads)

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding."""
        regions, mean = mask_regions(regions, mask)
        keys, values = self.project(regions)
        return Memory(keys, values, mean.to(keys.dtype), mask=mask)

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return contexts [B, Q, H], the weights of the heads [B, Q, M, L] and their mean [B, Q, L]; queries are
        [B, Q, H]."""
        weights = self.weights(query, memory.keys, memory.mask)
        return AttentionOutput(self.read(query, weights, memory), weights.mean(2), heads=weights)

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights of the heads [B, n, M, L] for queries [B, n, H]; keys are those of `project`, and `mask`
        bool [B, L] is False for padding."""
        queries = split_heads(self.query(query), self.heads)  # [B, M, n, A / M]
        scores = upcast_float32(queries @ keys.transpose(-1, -2)) / (math.sqrt(queries.shape[-1]) * self.temperature)
        return mask_scores(scores, mask).softmax(-1).transpose(1, 2)

    def weighted_sum(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return contexts [B, n, H] for weights [B, n, M, L]; values are those of `project`."""
        return self.output(join_heads(weights.transpose(1, 2).to(values.dtype) @ values))

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, H] for given weights of the heads [B, Q, M, L]."""
        return self.weighted_sum(weights, memory.values)

    def contexts(
        self, query: Tensor, keys: Tensor, values: Tensor, causal: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        """Return `weighted_sum` of `weights`, by PyTorch's fused attention, which never has the weights in memory.

        With `causal`, and then without a mask, the n-th query does not attend to what comes after the n-th position.
        """
        queries = split_heads(self.query(query), self.heads) / self.temperature
        allowed = None if mask is None else mask[:, None, None]  # [B, 1, 1, L]
        return self.output(join_heads(F.scaled_dot_product_attention(queries, keys, values, allowed, is_causal=causal)))


def split_heads(values: Tensor, heads: int) -> Tensor:
    """Return values [..., n, A] as [..., M, n, A / M]."""
    return values.view(*values.shape[:-1], heads, -1).transpose(-2, -3)


def join_heads(values: Tensor) -> Tensor:
    """Return values [..., M, n, A / M] as [..., n, A]."""
    return values.transpose(-2, -3).flatten(-2)
