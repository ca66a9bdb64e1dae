"""What training minimises, as named terms; their weights lie outside."""

import torch.nn.functional as F
from torch import Tensor

from caption.attention import at_least_single
from caption.decoder import Decoded


def cross_entropy(decoded: Decoded, smoothing: float = 0.0) -> Tensor:
    """Mean over the N words of -log p(y_t | y_<t, a), in nats."""
    return F.cross_entropy(at_least_single(decoded.logits), decoded.targets, label_smoothing=smoothing)


def doubly_stochastic(decoded: Decoded) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 of eq. 14: every place of the picture should be looked at.

    Summed over the L locations of a caption, as printed in the paper, and over the captions; then divided by the
    number of words, like the cross-entropy, so that lambda weighs the two as eq. 14 does, whatever the batch.
    Steps without a word have weight zero and captions that are not there do not count.
    """
    looked = decoded.weights.sum(2)  # [B, Q, L]
    there = looked.detach().sum(-1, keepdim=True) > 0
    return ((1 - looked).square() * there).sum() / len(decoded.targets)


def terms(decoded: Decoded, smoothing: float = 0.0) -> dict[str, Tensor]:
    """Every term by its name."""
    return {"cross_entropy": cross_entropy(decoded, smoothing), "doubly_stochastic": doubly_stochastic(decoded)}
