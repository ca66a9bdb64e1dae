"""Multi-head attention (Vaswani et al., 2017, section 3.2): M scaled dot products at once, each in its own projection.

head_m = softmax((W_q h)_m . (W_k a)_m / sqrt(A / M)) (W_v a)_m,    z = W_o [head_1; ...; head_M]
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from caption.attention.base import AttentionOutput, Memory
from caption.device import upcast_float32
from caption.errors import UserError


class MultiHeadAttention(nn.Module):
    """The context is a projection of M expectations; `torch.nn.MultiheadAttention` with H = A is the same function.

    The memory holds keys and values as [B, M, L, A / M].
    """

    stochastic = False

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

    def prepare(self, regions: Tensor) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D]."""
        keys, values = self.project(regions)
        return Memory(keys, values, regions.to(keys.dtype).mean(1))

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """Return contexts [B, Q, H], the weights of the heads [B, Q, M, L] and their mean [B, Q, L]; queries are
        [B, Q, H]."""
        context, heads = self.attend(query, memory.keys, memory.values)
        return AttentionOutput(context, heads.mean(2), heads=heads)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return contexts [B, n, H] and weights [B, n, M, L] of queries [B, n, H]; keys and values are those of
        `project`."""
        queries = split_heads(self.query(query), self.heads)  # [B, M, n, A / M]
        scores = upcast_float32(queries @ keys.transpose(-1, -2)) / (math.sqrt(queries.shape[-1]) * self.temperature)
        weights = scores.softmax(-1)  # [B, M, n, L]
        return self.output(join_heads(weights.to(values.dtype) @ values)), weights.transpose(1, 2)

    def contexts(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """Return the first result of `attend` alone, by PyTorch's fused attention, which never has the weights in
        memory.

        With `causal`, the n-th query does not attend to what comes after the n-th position.
        """
        queries = split_heads(self.query(query), self.heads) / self.temperature
        return self.output(join_heads(F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)))


def split_heads(values: Tensor, heads: int) -> Tensor:
    """Return values [..., n, A] as [..., M, n, A / M]."""
    return values.view(*values.shape[:-1], heads, -1).transpose(-2, -3)


def join_heads(values: Tensor) -> Tensor:
    """Return values [..., M, n, A / M] as [..., n, A]."""
    return values.transpose(-2, -3).flatten(-2)
