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
    """The context is a projection of M expectations; a `torch.nn.MultiheadAttention` with H = A is the same function.

    Memory holds keys and values as [B, M, L, A / M].
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
        """regions [B, L, D] -> keys and values [B, M, L, A / M]."""
        return split(self.key(regions), self.heads), split(self.value(regions), self.heads)

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads."""
        keys, values = self.project(regions)
        return Memory(keys, values, regions.to(keys.dtype).mean(1))

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] -> context [B, Q, H], weights of the heads [B, Q, M, L] and their mean [B, Q, L]."""
        context, heads = self.attend(query, memory.keys, memory.values)
        return AttentionOutput(context, heads.mean(2), heads=heads)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """query [B, n, H], keys and values of `project` -> contexts [B, n, H], weights [B, n, M, L]."""
        asked = split(self.query(query), self.heads)  # [B, M, n, A / M]
        scores = upcast_float32(asked @ keys.transpose(-1, -2)) / (math.sqrt(asked.shape[-1]) * self.temperature)
        weights = scores.softmax(-1)  # [B, M, n, L]
        context: Tensor = self.output(join(weights.to(values.dtype) @ values))
        return context, weights.transpose(1, 2)

    def contexts(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """The first result of `attend` alone, by PyTorch's fused attention, which never has the weights in memory.

        `causal`: the n-th query does not see what is after the n-th place.
        """
        asked = split(self.query(query), self.heads) / self.temperature
        joined = join(F.scaled_dot_product_attention(asked, keys, values, is_causal=causal))
        contexts: Tensor = self.output(joined)
        return contexts


def split(values: Tensor, heads: int) -> Tensor:
    """[..., n, A] -> [..., M, n, A / M]."""
    return values.view(*values.shape[:-1], heads, -1).transpose(-2, -3)


def join(values: Tensor) -> Tensor:
    """[..., M, n, A / M] -> [..., n, A]."""
    return values.transpose(-2, -3).flatten(-2)
