"""Rewards, baselines and advantages of the locations that hard attention samples (paper, section 4.1, eq. 11-12)."""

import torch
from torch import Tensor

from caption import distributed, ops
from caption.config import ReinforceConfig
from caption.decoders import DecoderOutput
from caption.decoders.packing import unpack


@torch.no_grad()
def word_rewards(decoded: DecoderOutput) -> Tensor:
    """Return log p(y_t | y_<t, s_<=t, a) of every word [B, Q, T], in nats, without gradient; 0 where there is none."""
    assert decoded.weights is not None
    return unpack(-ops.token_nll(decoded.logits, decoded.targets), decoded.positions, decoded.weights.shape[:3])


def _to_go(values: Tensor) -> Tensor:
    """Return the sum of values [B, Q, T] over the words from each step on [B, Q, T]."""
    return values.sum(-1, keepdim=True) - values.cumsum(-1) + values


def reward_sum(rewards: Tensor, decoded: DecoderOutput) -> Tensor:
    """Return the sum of log p(y | s, a) over the captions that sampled locations, and their number [2].

    `rewards` [B, Q, T] are those of `word_rewards`.
    """
    assert decoded.sample is not None and decoded.weights is not None
    sampled = (decoded.sample.location[..., 0] >= 0) & (decoded.weights[:, :, 0].sum(-1) > 0)  # [B, Q]
    return torch.stack([(rewards.sum(-1) * sampled).sum(), sampled.sum()])


def update_baseline(baseline: Tensor | None, rewards: Tensor) -> Tensor:
    """Return b_k = 0.9 b_(k-1) + 0.1 log p(y | s_k, a) [], with the mean over the captions that sampled locations.

    `rewards` [2] is the `reward_sum` of the whole batch. The first b, where `baseline` is None or NaN, is that mean
    itself: from 0, b would be useless for twenty steps. A batch in which no caption sampled leaves b as it is; if there
    is none yet, it is NaN.
    """
    mean = rewards[0] / rewards[1]
    if baseline is None:
        return mean
    updated = torch.where(baseline.isnan(), mean, 0.9 * baseline + 0.1 * mean)
    return torch.where(rewards[1] > 0, updated, baseline)


def advantages(rewards: Tensor, words: Tensor, config: ReinforceConfig, baseline: Tensor | None = None) -> Tensor:
    """Return the reward less the baseline of each sampled location [B, Q, T], in the rewards' unit.

    `rewards` [B, Q, T] are what each step earned, such as those of `word_rewards`, and `words` [B, Q, T] 1 at the steps
    that there are, else 0. `config.reward` is "caption", the sum over all steps, or "to_go", the sum from the
    location's step on. `config.baseline` is one of

    - "none";
    - "moving_average", `baseline` [], the b of `update_baseline`; NaN counts as 0. With "to_go", each word of the row
      has an equal part of b, and a location the parts of the words from its step on. A row without words then has
      advantage 0;
    - "leave_one_out", the mean reward at that step of the caption's other samples. Each caption has `config.samples`
      rows, one after the other.

    None depends on the sample that it is subtracted from (but for the very first b), so none changes the expected
    gradient (Williams, 1992).
    """
    if config.reward == "caption":
        returns = rewards.sum(-1, keepdim=True).expand_as(rewards)  # log p(y | s, a)
    else:  # s_t comes after the words before t, and cannot change them
        returns = _to_go(rewards)
    if config.baseline == "none":
        return returns
    if config.baseline == "leave_one_out":  # the mean of the other samples of the same caption
        samples = returns.reshape(len(returns), -1, config.samples, returns.shape[-1])  # [B, Q / N, N, T]
        others = (samples.sum(2, keepdim=True) - samples) / (config.samples - 1)
        return (samples - others).flatten(1, 2)
    assert baseline is not None
    baseline = baseline.nan_to_num()  # NaN: no caption has sampled locations yet, so no advantage is used
    if config.reward == "caption":
        return returns - baseline
    return returns - baseline * _to_go(words) / words.sum(-1, keepdim=True).clamp(min=1)  # the steps share b evenly


def location_advantages(
    decoded: DecoderOutput, config: ReinforceConfig, baseline: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the advantages [B, Q, T] and the `reward_sum` [2]; None for both if no locations were sampled, or if
    gradients pass through them, so that they need no reward.

    Where there is no baseline yet, it is the mean reward of this batch over all processes.
    """
    if decoded.sample is None or config.estimator != "reinforce":
        return None, None
    rewards = word_rewards(decoded)
    sums = reward_sum(rewards, decoded)
    if baseline is None:
        baseline = update_baseline(None, distributed.all_reduce(sums))
    words = unpack(rewards.new_ones(len(decoded.positions)), decoded.positions, rewards.shape)  # [B, Q, T]
    return advantages(rewards, words, config, baseline), sums
