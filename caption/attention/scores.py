"""Scores: how well each region answers a query. What does not depend on the query is computed once an image, as keys.

| name | e_ti | source |
|---|---|---|
| additive | v . tanh(W_a a_i + W_h h) | Bahdanau et al., 2015; the paper's f_att |
| concat | v . tanh(W [h; a_i]) | Luong et al., 2015: the same function as additive |
| dot | h . a_i | Luong et al., 2015 |
| general | h . W a_i | Luong et al., 2015, bilinear |
| scaled_dot | (W_q h) . (W_k a_i) / sqrt(A) | Vaswani et al., 2017 |
"""

import math
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from caption.errors import UserError
from caption.ops.exp_tanh import exponentials, for_many, tanh_scores
from caption.ops.recurrent_linear import StepLinear


class Score(Protocol):
    """What an attention needs of a score."""

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys [B, L, A]."""

    def __call__(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, A] -> scores e_t [B, Q, L]."""


class TanhScore(nn.Module):
    """e_ti = v . tanh(k_i + q), of keys and queries as exponentials; why: additive.py."""

    vector: nn.Linear  # v

    def ask(self, query: Tensor) -> Tensor:
        """query [B, Q, H] -> e^(2q) [B, Q, A]."""
        raise NotImplementedError

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, A] -> scores [B, Q, L]."""
        return tanh_scores(self.ask(query), keys, self.vector.weight.view(-1))


class AdditiveScore(TanhScore):
    """e_ti = v . tanh(W_a a_i + W_h h_(t-1)), eq. 4: the multilayer perceptron f_att."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = StepLinear(region_width, width)
        self.query = StepLinear(query_width, width, bias=False)
        self.vector = nn.Linear(width, 1, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys e^(2 W_a a_i) [B, L, A]."""
        return for_many(exponentials(self.key(regions)))

    def ask(self, query: Tensor) -> Tensor:
        """query [B, Q, H] -> e^(2 W_h h) [B, Q, A]."""
        return exponentials(self.query(query))


class ConcatScore(TanhScore):
    """e_ti = v . tanh(W [h; a_i]).

    W [h; a_i] is the sum of two products with its two blocks of columns, so that the blocks of a_i make the keys: this
    is the additive score by another name, and nothing is ever concatenated.
    """

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.query_width = query_width
        self.joint = nn.Linear(query_width + region_width, width)
        self.vector = nn.Linear(width, 1, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys, as the additive score's [B, L, A]."""
        return for_many(exponentials(F.linear(regions, self.joint.weight[:, self.query_width :], self.joint.bias)))

    def ask(self, query: Tensor) -> Tensor:
        """query [B, Q, H] -> as the additive score's [B, Q, A]."""
        return exponentials(F.linear(query, self.joint.weight[:, : self.query_width]))


class DotScore(nn.Module):
    """e_ti = h . a_i: no weights at all, so that the LSTM's state must be as wide as a region."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        """Raises UserError when H is not D. `width` is not read: there is nothing to project."""
        super().__init__()
        if query_width != region_width:
            raise UserError(
                f"decoder.score is dot, which needs decoder.hidden_dim ({query_width}) as wide as a region "
                f"({region_width}); give --decoder.hidden-dim {region_width}, or the score general, which projects"
            )

    def keys(self, regions: Tensor) -> Tensor:
        """The regions [B, L, D] themselves."""
        return regions

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, H] -> scores [B, Q, L]."""
        return query.to(keys.dtype) @ keys.transpose(1, 2)


class GeneralScore(nn.Module):
    """e_ti = h . W a_i: the keys are as wide as the query, A = H, whatever `width` says."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(region_width, query_width, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys [B, L, H]."""
        keys: Tensor = self.key(regions)
        return keys

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, H] -> scores [B, Q, L]."""
        return query.to(keys.dtype) @ keys.transpose(1, 2)


class ScaledDotScore(nn.Module):
    """e_ti = (W_q h) . (W_k a_i) / sqrt(A): without the root, the softmax of wide keys would be almost hard."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(region_width, width)
        self.query = nn.Linear(query_width, width)
        self.scale = 1 / math.sqrt(width)

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys [B, L, A]."""
        keys: Tensor = self.key(regions)
        return keys

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, A] -> scores [B, Q, L]."""
        scores: Tensor = self.scale * self.query(query).to(keys.dtype) @ keys.transpose(1, 2)
        return scores


SCORES: dict[str, type[AdditiveScore | ConcatScore | DotScore | GeneralScore | ScaledDotScore]] = {
    "additive": AdditiveScore,
    "concat": ConcatScore,
    "dot": DotScore,
    "general": GeneralScore,
    "scaled_dot": ScaledDotScore,
}
