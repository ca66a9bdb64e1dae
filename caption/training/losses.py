"""The terms of the training loss, each declared once in TERMS, and their weighted sum."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from caption import ops
from caption.attention import Sample
from caption.config import TrainingConfig
from caption.decoders import DecoderOutput
from caption.device import upcast_float32


class LossInputs(NamedTuple):
    """Everything that a term may need. N words are all target tokens of the batch."""

    references: DecoderOutput | None = None  # teacher forcing of the references
    locations: Sample | None = None  # locations [B, Q, T] that hard attention sampled for `references`
    location_advantages: Tensor | None = None  # [B, Q, T], their reward less baseline, in nats
    samples: DecoderOutput | None = None  # scores of captions that the model sampled
    caption_advantages: Tensor | None = None  # [N], reward less baseline of the caption of each word


def word_count(decoded: DecoderOutput) -> int:
    """Return N, the number of target tokens, but at least 1, so that an empty batch gives 0 and not NaN."""
    return max(1, len(decoded.targets))


def cross_entropy(references: DecoderOutput) -> Tensor:
    """Return the mean over the N words of -log p(y_t | y_<t, a), in nats; given sampled locations too, if any."""
    return ops.token_nll(references.logits, references.targets).sum() / word_count(references)


def smoothing_loss(references: DecoderOutput) -> Tensor:
    """Return the mean over the N words of the cross-entropy against the uniform distribution over V words, in nats.

    Label smoothing by epsilon (Szegedy et al., 2016) is (1 - epsilon) cross_entropy + epsilon smoothing_loss.
    """
    log_probabilities = upcast_float32(references.logits).log_softmax(-1)  # [N, V]
    return -log_probabilities.sum() / (word_count(references) * references.logits.shape[-1])


def doubly_stochastic(references: DecoderOutput) -> Tensor:
    """Return sum_i (1 - sum_t alpha_ti)^2 of eq. 14: attention should reach every location of the image.

    The sum is over the L locations, as printed in the paper, and over the captions. It is divided by the number of
    words, like the cross-entropy, so that lambda weighs the two as eq. 14 does for any batch. The weights alpha,
    `references.weights` [B, Q, T, L], are zero at steps without a word; rows without a caption do not count.
    """
    assert references.weights is not None
    attended = references.weights.sum(2)  # [B, Q, L]
    has_words = attended.detach().sum(-1, keepdim=True) > 0
    return ((1 - attended).square() * has_words).sum() / word_count(references)


def reinforce_loss(references: DecoderOutput, locations: Sample, location_advantages: Tensor) -> Tensor:
    """Return a term with the gradient -sum_t (log p(y | s, a) - b) d log p(s_t | s_<t, a) / N, section 4.1.

    `location_advantages` [B, Q, T] come from `reinforce.location_advantages`, and N is the number of words. The value
    itself has no meaning. Captions that used the expectation have log p(s) = 0 and contribute nothing.
    """
    return -(location_advantages * locations.log_probability).sum() / word_count(references)


def location_entropy(references: DecoderOutput, locations: Sample) -> Tensor:
    """Return the mean over the words of H[s_t] = -sum_i alpha_ti log alpha_ti, in nats, which section 4.1 rewards."""
    return locations.entropy.sum() / word_count(references)


def self_critical_loss(samples: DecoderOutput, caption_advantages: Tensor) -> Tensor:
    """Return a term with the gradient -sum_t (r(y) - b) d log p(y_t | y_<t, a) / N (Rennie et al., 2017, eq. 8).

    `caption_advantages` [N] are reward less baseline of the caption of each word. The value itself has no meaning.
    """
    return (caption_advantages * ops.token_nll(samples.logits, samples.targets)).sum() / word_count(samples)


class Term(NamedTuple):
    """One term of the loss."""

    function: Callable[..., Tensor]  # its arguments are fields of LossInputs; returns a mean over the words []
    weight: Callable[[TrainingConfig], float]  # its factor in the sum that is minimised
    log_unweighted: bool = False  # also computed, for the log, where the weight is 0
    reads_attention: bool = False  # reads `references.weights`, which a Transformer returns only on request


# By the name in the log. A new loss is one function above and one line here.
TERMS: dict[str, Term] = {
    "cross_entropy": Term(cross_entropy, lambda config: 1 - config.label_smoothing),
    "smoothing": Term(smoothing_loss, lambda config: config.label_smoothing),
    "doubly_stochastic": Term(doubly_stochastic, lambda config: config.doubly_stochastic, reads_attention=True),
    "reinforce": Term(reinforce_loss, lambda config: config.reinforce.weight, log_unweighted=True),
    # Logged always: it shows whether attention still explores.
    "entropy": Term(location_entropy, lambda config: -config.reinforce.entropy, log_unweighted=True),
    "self_critical": Term(self_critical_loss, lambda config: 1.0),
}


def reads_attention(config: TrainingConfig) -> bool:
    """Return whether a term that reads the attention's weights has a weight that is not 0."""
    return any(term.reads_attention and term.weight(config) != 0 for term in TERMS.values())


def compute_terms(inputs: LossInputs, config: TrainingConfig) -> dict[str, Tensor]:
    """Return every term [] whose arguments are there and whose weight is not 0, by name."""
    terms = {}
    for name, term in TERMS.items():
        arguments = [getattr(inputs, argument) for argument in _arguments(term.function)]
        if all(argument is not None for argument in arguments) and (term.weight(config) or term.log_unweighted):
            terms[name] = term.function(*arguments)
    return terms


@functools.cache
def _arguments(function: Callable[..., Tensor]) -> tuple[str, ...]:
    """Return the names of a function's arguments; finding them takes a while, and every step asks."""
    return tuple(inspect.signature(function).parameters)


def total_loss(terms: dict[str, Tensor], config: TrainingConfig) -> Tensor:
    """Return the weighted sum of the terms [], which is minimised. Raises ValueError for a term not in TERMS."""
    if unknown := sorted(set(terms) - set(TERMS)):
        raise ValueError(f"loss term {unknown[0]!r} is not in TERMS, so it has no weight; add it there")
    return torch.stack([TERMS[name].weight(config) * value for name, value in terms.items()]).sum()
