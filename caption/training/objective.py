"""The loss of a micro-batch, as a module: DistributedDataParallel sees only what runs in a module's forward."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from caption.attention import GumbelSoftmax
from caption.captioner import Captioner
from caption.config import ReinforceConfig, TrainingConfig
from caption.data.dataset import Batch
from caption.decoders import DecoderOutput
from caption.device import autocast, to_device
from caption.training import losses
from caption.training.losses import LossInputs
from caption.training.reinforce import location_advantages
from caption.training.self_critical import CaptionSampler


class MicroBatchLoss(NamedTuple):
    """Loss of one micro-batch."""

    total: Tensor  # [], weighted sum of the terms, a mean over the words
    logged: dict[str, Tensor]  # [] each, means over the words: the terms and, of sampled captions, the reward
    words: int  # N
    captions: int
    reward_sum: Tensor | None  # [2], from `reinforce.reward_sum`, if locations were sampled


class Objective(nn.Module):
    """Teacher forcing of the references or, with a sampler, self-critical training."""

    def __init__(
        self, captioner: Captioner, config: TrainingConfig, caption_sampler: CaptionSampler | None = None
    ) -> None:
        super().__init__()
        self.captioner, self.config, self.caption_sampler = captioner, config, caption_sampler

    def forward(
        self, batch: Batch, sample_locations: bool = False, sampling_rate: float = 0.0, baseline: Tensor | None = None
    ) -> MicroBatchLoss:
        """Return the loss of a batch whose lengths are on the CPU.

        `sample_locations`: hard attention samples; `sampling_rate`: fraction of the input words that are the model's
        own (scheduled sampling); `baseline` []: moving average of hard attention's reward, if there is one yet.
        """
        device = next(self.captioner.parameters()).device
        images = to_device(batch.images, device)
        if self.config.horizontal_flip:
            images = random_horizontal_flip(images)
        if self.config.random_crop < 1:
            images = random_crop(images, self.config.random_crop)
        advantages: Tensor | None
        if self.caption_sampler:
            with autocast(device, self.config.precision):
                decoded, advantages, reward = self.caption_sampler(self.captioner, batch, images)
            inputs = LossInputs(samples=decoded, caption_advantages=advantages)
            extra, reward_sum = {"reward": advantages.new_full((), reward)}, None
            captions = len(batch.indices) * self.config.self_critical.samples
        else:
            batch = batch._replace(images=images)
            decoded = decode(self.captioner, batch, self.config, sample_locations, sampling_rate)
            advantages, reward_sum = location_advantages(decoded, self.config.reinforce, baseline)
            inputs, extra = LossInputs(decoded, decoded.sample, advantages), {}
            captions = int((batch.lengths > 0).sum())
        terms = losses.compute_terms(inputs, self.config)
        is_padding = not batch.lengths.any()
        words, captions = (0, 0) if is_padding else (len(decoded.targets), captions)
        return MicroBatchLoss(losses.total_loss(terms, self.config), terms | extra, words, captions, reward_sum)


def random_horizontal_flip(images: Tensor) -> Tensor:
    """Exchange left and right in each of the images [B, 3, S, S] with probability 1/2."""
    flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def random_crop(images: Tensor, smallest: float) -> Tensor:
    """Crop each of the images uint8 [B, 3, S, S] to a square at random and enlarge it to S x S again.

    The square's area is uniform between the fraction `smallest` and 1 of the image's, its place uniform in the image.
    """
    side = torch.empty(len(images), device=images.device).uniform_(smallest, 1).sqrt()  # of the image's
    centre = (1 - side).unsqueeze(1) * torch.empty(len(images), 2, device=images.device).uniform_(-1, 1)
    transform = torch.cat([torch.diag_embed(side.unsqueeze(1).expand(-1, 2)), centre.unsqueeze(2)], 2)  # [B, 2, 3]
    places = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), places, align_corners=False, padding_mode="border").round().byte()


def decode(
    captioner: Captioner, batch: Batch, config: TrainingConfig, sample_locations: bool, sampling_rate: float = 0.0
) -> DecoderOutput:
    """Run teacher forcing; a fraction `sampling_rate` of the input words is the model's own.

    With `sample_locations`, hard attention samples `reinforce.samples` rows of locations per caption, except that a
    caption uses the expectation with probability `reinforce.soft_probability`. Without, all use the expectation.
    """
    device = next(captioner.parameters()).device
    captions, lengths, sampled = to_device(batch.captions, device), batch.lengths, None
    if sample_locations and captioner.decoder.stochastic:
        sampled = torch.rand(captions.shape[:2], device=device) >= config.reinforce.soft_probability  # [B, Q]
        captions, lengths, sampled = (
            values.repeat_interleave(config.reinforce.samples, 1) for values in (captions, lengths, sampled)
        )
    need_weights = losses.reads_attention(config) or sampled is not None
    images = to_device(batch.images, device)
    with autocast(device, config.precision):
        return captioner(
            images, captions, lengths, sampled, need_weights, sampling_rate, gumbel_softmax(config.reinforce)
        )


def gumbel_softmax(config: ReinforceConfig) -> GumbelSoftmax | None:
    """Return how gradients pass through sampled locations; None where REINFORCE takes their place."""
    if config.estimator == "reinforce":
        return None
    return GumbelSoftmax(config.gumbel_temperature, config.estimator == "straight_through")
