"""What a part of a batch loses: the model and its losses as one module, so that DistributedDataParallel, which looks at
a module's forward pass, sees all that is trained."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from caption.captioner import Captioner
from caption.config import TrainingConfig
from caption.data.dataset import Batch
from caption.decoders.base import DecoderOutput
from caption.device import autocast, to_device
from caption.training import losses
from caption.training.self_critical import Critic


class Lost(NamedTuple):
    """Of a part of a batch."""

    total: Tensor  # [], the weighted sum of the terms, for its mean word
    terms: dict[str, Tensor]  # each a mean over its words
    words: int  # N
    captions: int
    drawn: Tensor | None  # [2], hard attention's rewards of draws, and how many drew


class Objective(nn.Module):
    """The losses of teacher forcing or, with a critic, of captions that the model draws."""

    def __init__(self, captioner: Captioner, config: TrainingConfig, critic: Critic | None = None) -> None:
        super().__init__()
        self.captioner, self.config, self.critic = captioner, config, critic

    def forward(self, batch: Batch, draw: bool = False, own: float = 0.0, baseline: Tensor | None = None) -> Lost:
        """A batch, its captions' lengths on the CPU. `draw`: hard attention draws; `own`: share of the words read that
        are the model's; `baseline` [] of hard attention, if there is one yet."""
        device = next(self.captioner.parameters()).device
        images = to_device(batch.images, device)
        if self.config.horizontal_flip:
            images = mirror(images)
        if self.critic:
            with autocast(device, self.config.precision):
                decoded, gain, reward = self.critic(self.captioner, batch, images)
            terms = {"self_critical": losses.self_critical(decoded, gain), "reward": gain.new_tensor(reward)}
            captions, drawn = len(batch.indices) * self.config.self_critical.samples, None
        else:
            decoded = decode(self.captioner, batch._replace(images=images), self.config, device, draw, own)
            earned, drawn = losses.earnings(decoded, self.config.reinforce, baseline)
            terms, captions = losses.terms(decoded, self.config, earned), int((batch.lengths > 0).sum())
        there = bool(batch.lengths.any())  # or it stands in for nothing
        words = len(decoded.targets) if there else 0
        return Lost(losses.total(terms, self.config), terms, words, captions if there else 0, drawn)


def mirror(images: Tensor) -> Tensor:
    """Pictures [B, 3, S, S], each with left and right exchanged with a chance of one half."""
    coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(coins, images.flip(-1), images)


def decode(
    captioner: Captioner, batch: Batch, config: TrainingConfig, device: torch.device, draw: bool, own: float = 0.0
) -> DecoderOutput:
    """Teacher forcing; a share `own` of the words read is the model's. With `draw`, hard attention draws locations:
    `draws` rows for each caption, but for those that take the expectation. Without, all take it."""
    captions, lengths, drawn = to_device(batch.captions, device), batch.lengths, None
    if draw and captioner.decoder.stochastic:
        drawn = torch.rand(captions.shape[:2], device=device) >= config.reinforce.soft_probability  # one coin a caption
        captions, lengths, drawn = (
            each.repeat_interleave(config.reinforce.samples, 1) for each in (captions, lengths, drawn)
        )
    need_weights = config.doubly_stochastic > 0 or drawn is not None
    with autocast(device, config.precision):
        decoded: DecoderOutput = captioner(to_device(batch.images, device), captions, lengths, drawn, need_weights, own)
    return decoded
