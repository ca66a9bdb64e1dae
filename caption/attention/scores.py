"""Scores: how well each region answers a query. What does not depend on the query is computed once per image, as keys.

| name | e_ti | source |
|---|---|---|
| additive | v . tanh(W_a a_i + W_h h) | Bahdanau et al., 2015; the paper's f_att, eq. 4 |
| concat | v . tanh(W [h; a_i]) | Luong et al., 2015: the same function as additive |
| dot | h . a_i | Luong et al., 2015 |
| general | h . W a_i | Luong et al., 2015, bilinear |
| scaled_dot | (W_q h) . (W_k a_i) / sqrt(A) | Vaswani et al., 2017 |
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from caption import ops
from caption.device import upcast_float32
from caption.errors import UserError


class Score(nn.Module):
    """The protocol of a score: `keys` once for each image, then `forward` at every step.

    Where a subclass does not say otherwise, e_ti = h . k_i with the keys k_i = W_k a_i.
    """

    key: nn.Module  # W_k

    def keys(self, regions: Tensor) -> Tensor:
        """Return keys [B, L, A] of regions [B, L, D]."""
        return self.key(regions)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scores e_t [B, Q, L] of queries [B, Q, H] and keys [B, L, A], eq. 4."""
        return query.to(keys.dtype) @ keys.transpose(1, 2)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return contexts [B, Q, D] and weights [B, Q, L] of soft attention over values [B, L, D], eq. 5 and 13."""
        weights = ops.attention_weights(upcast_float32(self(query, keys)), temperature)
        return ops.weighted_sum(weights, values), weights


class TanhScore(Score):
    """e_ti = v . tanh(k_i + q), for any projections of regions and query to keys k_i and q."""

    vector: nn.Linear  # v

    def project_query(self, query: Tensor) -> Tensor:
        """Return q [B, Q, A] of queries [B, Q, H]."""
        raise NotImplementedError

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scores e_t [B, Q, L] of queries [B, Q, H] and keys [B, L, A], eq. 4."""
        return ops.additive_scores(self.project_query(query), keys, self.vector.weight.view(-1))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return contexts [B, Q, D] and weights [B, Q, L] of soft attention over values [B, L, D], eq. 4, 5 and 13."""
        vector = self.vector.weight.view(-1)
        return ops.additive_attention(self.project_query(query), keys, vector, values, temperature)


class AdditiveScore(TanhScore):
    """e_ti = v . tanh(W_a a_i + W_h h_(t-1)), eq. 4: the multilayer perceptron f_att."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = ops.RecurrentLinear(region_width, width)  # W_a
        self.query = ops.RecurrentLinear(query_width, width, bias=False)  # W_h
        self.vector = nn.Linear(width, 1, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """Return the prepared keys W_a a_i [B, L, A] of regions [B, L, D]."""
        return ops.prepare_keys(self.key(regions))

    def project_query(self, query: Tensor) -> Tensor:
        """Return W_h h [B, Q, A] of queries [B, Q, H]."""
        return self.query(query)


class ConcatScore(TanhScore):
    """e_ti = v . tanh(W [h; a_i]).

    W [h; a_i] is the sum of two products with the two blocks of columns of W, so that the block of a_i makes the keys:
    this is the additive score by another name, and nothing is ever concatenated.
    """

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.query_width = query_width
        self.joint = nn.Linear(query_width + region_width, width)
        self.vector = nn.Linear(width, 1, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """Return the prepared keys [B, L, A] of regions [B, L, D]."""
        return ops.prepare_keys(F.linear(regions, self.joint.weight[:, self.query_width :], self.joint.bias))

    def project_query(self, query: Tensor) -> Tensor:
        """Return the query's part of W [h; a_i], shape [B, Q, A]."""
        return F.linear(query, self.joint.weight[:, : self.query_width])


class DotScore(Score):
    """e_ti = h . a_i: no weights at all, so that the LSTM's state must be as wide as a region."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        """Raises UserError when H is not D. `width` is not used: nothing is projected."""
        super().__init__()
        if query_width != region_width:
            raise UserError(
                f"decoder.score is dot, which needs decoder.hidden_dim ({query_width}) as wide as a region "
                f"({region_width}); give --decoder.hidden-dim {region_width}, or the score general, which projects"
            )

    def keys(self, regions: Tensor) -> Tensor:
        """Return the regions [B, L, D] themselves."""
        return regions


class GeneralScore(Score):
    """e_ti = h . W a_i: the keys are as wide as the query, A = H, whatever `width` says."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(region_width, query_width, bias=False)  # W


class ScaledDotScore(Score):
    """e_ti = (W_q h) . (W_k a_i) / sqrt(A): without the root, the softmax of wide keys would be almost hard."""

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(region_width, width)  # W_k
        self.query = nn.Linear(query_width, width)
        self.scale = 1 / math.sqrt(width)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return scores [B, Q, L] of queries [B, Q, H] and keys [B, L, A]."""
        return self.scale * self.query(query).to(keys.dtype) @ keys.transpose(1, 2)


SCORES: dict[str, type[Score]] = {
    "additive": AdditiveScore,
    "concat": ConcatScore,
    "dot": DotScore,
    "general": GeneralScore,
    "scaled_dot": ScaledDotScore,
}
