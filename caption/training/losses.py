"""What training minimises: named terms, and the weight of each in the sum."""

import torch
from torch import Tensor

from caption import distributed
from caption.config import ReinforceConfig, TrainingConfig
from caption.decoders.base import DecoderOutput
from caption.device import upcast_float32
from caption.ops.token_nll import surprises


def word_count(decoded: DecoderOutput) -> int:
    """N, but not 0: what stands in for nothing has a loss of zero, not none."""
    return max(1, len(decoded.targets))


def cross_entropy(decoded: DecoderOutput) -> Tensor:
    """Mean over the N words of -log p(y_t | y_<t, a), in nats; with hard attention, given the locations, too."""
    return surprises(decoded.logits, decoded.targets).sum() / word_count(decoded)


def uniform(decoded: DecoderOutput) -> Tensor:
    """Mean over the N words of the cross-entropy against the uniform distribution over V words.

    Label smoothing by epsilon (Szegedy et al., 2016) is (1 - epsilon) cross_entropy + epsilon uniform.
    """
    return -upcast_float32(decoded.logits).log_softmax(-1).sum() / (word_count(decoded) * decoded.logits.shape[-1])


def doubly_stochastic(decoded: DecoderOutput) -> Tensor:
    """sum_i (1 - sum_t alpha_ti)^2 of eq. 14: every place of the picture should be looked at.

    Summed over the L locations of a caption, as printed in the paper, and over the captions; then divided by the
    number of words, like the cross-entropy, so that lambda weighs the two as eq. 14 does, whatever the batch.
    Steps without a word have weight zero and captions that are not there do not count.
    """
    assert decoded.weights is not None
    looked = decoded.weights.sum(2)  # [B, Q, L]
    there = looked.detach().sum(-1, keepdim=True) > 0
    return ((1 - looked).square() * there).sum() / word_count(decoded)


@torch.no_grad()
def word_rewards(decoded: DecoderOutput) -> Tensor:
    """log p(y_t | y_<t, s_<=t, a) of every word, in nats, without gradient [B, Q, T]; zero where there is no word."""
    rewards = -surprises(decoded.logits, decoded.targets)  # [N]
    return _place(rewards, decoded)


def _place(values: Tensor, decoded: DecoderOutput) -> Tensor:
    """Values [N] of the words -> [B, Q, T], zero where there is no word."""
    assert decoded.weights is not None
    shape = decoded.weights.shape[:3]
    return values.new_zeros(shape.numel()).index_copy(0, decoded.positions, values).view(shape)


def _to_go(values: Tensor) -> Tensor:
    """The sum over the words from each step on; values [B, Q, T]."""
    return values.sum(-1, keepdim=True) - values.cumsum(-1) + values


def draws_rewards(rewards: Tensor, decoded: DecoderOutput) -> Tensor:
    """The sum of log p(y | s, a) over the captions that drew, and how many did [2].

    `rewards` [B, Q, T] are those of `word_rewards`.
    """
    assert decoded.draw is not None and decoded.weights is not None
    drew = (decoded.draw.location[..., 0] >= 0) & (decoded.weights[:, :, 0].sum(-1) > 0)  # [B, Q]
    return torch.stack([(rewards.sum(-1) * drew).sum(), drew.sum()])


def next_baseline(moving: Tensor | None, drawn: Tensor) -> Tensor:
    """b_k = 0.9 b_(k-1) + 0.1 log p(y | s_k, a), the mean over the captions that drew [].

    `drawn` [2] is what `draws_rewards` gives of the whole batch. The first b is that mean itself: from zero, b would be
    of no use for twenty steps. It is not a number as long as no caption drew.
    """
    mean = drawn[0] / drawn[1]
    if moving is None:
        return mean
    following = torch.where(moving.isnan(), mean, 0.9 * moving + 0.1 * mean)
    return torch.where(drawn[1] > 0, following, moving)


def advantages(rewards: Tensor, decoded: DecoderOutput, config: ReinforceConfig, moving: Tensor) -> Tensor:
    """What each draw earned beyond its baseline [B, Q, T], in nats; `rewards` [B, Q, T] are those of `word_rewards`.

    `moving` [] is b, the moving average of log p(y | s, a). No baseline depends on the draw that it is held against
    (but for the very first b), so none changes the expectation of the gradient (Williams, 1992).
    """
    whole = rewards.sum(-1, keepdim=True)  # log p(y | s, a), [B, Q, 1]
    if config.reward == "caption":
        earned = whole.expand_as(rewards)
    else:  # s_t comes after the words before t, and does not answer for them
        earned = _to_go(rewards)
    if config.baseline == "none":
        return earned
    if config.baseline == "leave_one_out":  # the other draws of the same caption
        draws = earned.reshape(len(earned), -1, config.samples, earned.shape[-1])  # [B, Q / N, N, T]
        others = (draws.sum(2, keepdim=True) - draws) / (config.samples - 1)
        return (draws - others).flatten(1, 2)
    moving = moving.nan_to_num()  # nobody drew yet, so nobody will read what is earned
    if config.reward == "caption":
        return earned - moving
    words = _place(torch.ones_like(decoded.positions, dtype=rewards.dtype), decoded)  # b is shared among them evenly
    return earned - moving * _to_go(words) / words.sum(-1, keepdim=True).clamp(min=1)


def earnings(
    decoded: DecoderOutput, config: ReinforceConfig, moving: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The advantages [B, Q, T], and what `draws_rewards` gives [2]; without draws, neither. Where there is no baseline
    yet, it is held against the mean of these draws, of all processes."""
    if decoded.draw is None:
        return None, None
    rewards = word_rewards(decoded)
    drawn = draws_rewards(rewards, decoded)
    if moving is None:
        moving = next_baseline(None, distributed.all_reduce(drawn))
    return advantages(rewards, decoded, config, moving), drawn


def reinforce(decoded: DecoderOutput, earned: Tensor) -> Tensor:
    """Its gradient is -sum_t (log p(y | s, a) - b) d log p(s_t | s_<t, a) over the number of words, eq. 11-12.

    `earned` [B, Q, T] are the `advantages`. The value itself means nothing. Captions that took the expectation have
    log p(s) = 0 and take no part.
    """
    assert decoded.draw is not None
    return -(earned * decoded.draw.log_probability).sum() / word_count(decoded)


def entropy(decoded: DecoderOutput) -> Tensor:
    """Mean over the words of H[s_t] = -sum_i alpha_ti log alpha_ti, in nats; eq. 11 asks for more of it."""
    assert decoded.draw is not None
    return decoded.draw.entropy.sum() / word_count(decoded)


def self_critical(decoded: DecoderOutput, earned: Tensor) -> Tensor:
    """Its gradient is -sum_t (r(y) - b) d log p(y_t | y_<t, a) over the number of words (Rennie et al., 2017, eq. 8).

    `earned` [N] are reward less baseline of each word's caption. The value itself means nothing.
    """
    return (earned * surprises(decoded.logits, decoded.targets)).sum() / word_count(decoded)


def term_weights(config: TrainingConfig) -> dict[str, float]:
    """The weight of every term; one of weight zero need not be computed."""
    smoothing, hard = config.label_smoothing, config.reinforce
    weights = {
        "cross_entropy": 1 - smoothing,
        "uniform": smoothing,
        "doubly_stochastic": config.doubly_stochastic,
        "reinforce": hard.weight,
        "entropy": -hard.entropy,
        "self_critical": 1.0,
    }
    return {name: weight for name, weight in weights.items() if weight}


def terms(decoded: DecoderOutput, config: TrainingConfig, earned: Tensor | None = None) -> dict[str, Tensor]:
    """Every term that has a weight, by its name; where locations were drawn those of hard attention, too.

    `earned` [B, Q, T] are the advantages, from `earnings`. The entropy is told even at weight zero: it shows whether
    attention still tries other places.
    """
    made = {"cross_entropy": cross_entropy, "uniform": uniform, "doubly_stochastic": doubly_stochastic}
    values = {name: made[name](decoded) for name in term_weights(config) if name in made}
    if earned is not None:
        values |= {"reinforce": reinforce(decoded, earned), "entropy": entropy(decoded)}
    return values


def total(values: dict[str, Tensor], config: TrainingConfig) -> Tensor:
    """The weighted sum, which is minimised."""
    weights = term_weights(config)
    return torch.stack([weights.get(name, 0.0) * value for name, value in values.items()]).sum()
