"""The additive score (Bahdanau et al., 2015), the paper's f_att."""

import torch
from torch import Tensor, nn


class AdditiveScore(nn.Module):
    """e_ti = v . tanh(W_a a_i + W_h h_(t-1)), eq. 4: the multilayer perceptron f_att.

    `keys` is the part that does not depend on the query, so that it is computed once an image.
    """

    def __init__(self, query_width: int, region_width: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(region_width, width)
        self.query = nn.Linear(query_width, width, bias=False)
        self.vector = nn.Linear(width, 1, bias=False)

    def keys(self, regions: Tensor) -> Tensor:
        """regions [B, L, D] -> keys [B, L, A]."""
        keys: Tensor = self.key(regions)
        return keys

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Q, H], keys [B, L, A] -> scores [B, Q, L]."""
        joined = torch.tanh(keys.unsqueeze(1) + self.query(query).unsqueeze(2))  # [B, Q, L, A]
        scores: Tensor = self.vector(joined).squeeze(-1)  # [B, Q, L]
        return scores
