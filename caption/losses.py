"""What training minimises: named terms, and the weight of each in the sum."""

import torch
import torch.nn.functional as F
from torch import Tensor

from caption.attention import at_least_single
from caption.config import TrainingConfig
from caption.decoder import Decoded


def cross_entropy(decoded: Decoded) -> Tensor:
    """Mean over the N words of -log p(y_t | y_<t, a), in nats."""
    return F.cross_entropy(at_least_single(decoded.logits), decoded.targets)


def uniform(decoded: Decoded) -> Tensor:
    """Mean over the N words of the cross-entropy against the uniform distribution over V words.

    Label smoothing by epsilon (Szegedy et al., 2016) is (1 - epsilon) cross_entropy + epsilon uniform.
    """
    return -at_least_single(decoded.logits).log_softmax(-1).mean()


def doubly_stochastic(decoded: Decoded) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 of eq. 14: every place of the picture should be looked at.

    Summed over the L locations of a caption, as printed in the paper, and over the captions; then divided by the
    number of words, like the cross-entropy, so that lambda weighs the two as eq. 14 does, whatever the batch.
    Steps without a word have weight zero and captions that are not there do not count.
    """
    looked = decoded.weights.sum(2)  # [B, Q, L]
    there = looked.detach().sum(-1, keepdim=True) > 0
    return ((1 - looked).square() * there).sum() / len(decoded.targets)


TERMS = {"cross_entropy": cross_entropy, "uniform": uniform, "doubly_stochastic": doubly_stochastic}


def term_weights(config: TrainingConfig) -> dict[str, float]:
    """The weight of every term; one of weight zero need not be computed."""
    smoothing = config.label_smoothing
    weights = {"cross_entropy": 1 - smoothing, "uniform": smoothing, "doubly_stochastic": config.doubly_stochastic}
    return {name: weight for name, weight in weights.items() if weight}


def terms(decoded: Decoded, config: TrainingConfig) -> dict[str, Tensor]:
    """Every term that has a weight, by its name."""
    return {name: TERMS[name](decoded) for name in term_weights(config)}


def total(values: dict[str, Tensor], config: TrainingConfig) -> Tensor:
    """The weighted sum, which is minimised."""
    weights = term_weights(config)
    return torch.stack([weights[name] * value for name, value in values.items()]).sum()
