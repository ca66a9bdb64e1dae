"""Self-critical training (Rennie et al., 2017): REINFORCE with sampled captions.

Captions are sampled from the model and scored against the references of their image. Each becomes more probable in
proportion to its advantage: its reward less a baseline, which is the reward of the greedy caption (the paper) or the
mean reward of the image's other samples, which needs no further caption and has less variance (Luo, 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from caption.captioner import Captioner
from caption.config import SearchConfig, SelfCriticalConfig
from caption.data.dataset import Batch, CaptionDataset, pad_captions
from caption.data.vocabulary import END, PAD, START, UNKNOWN
from caption.decoders import DecoderOutput
from caption.device import to_device
from caption.evaluation.reward import Reward
from caption.search import Hypothesis, search

OUT_OF_VOCABULARY = -1  # a word of a reference that no sample can equal


class CaptionSampler:
    """Samples captions of a batch and computes their advantages."""

    def __init__(self, config: SelfCriticalConfig, data: CaptionDataset, max_length: int) -> None:
        """Reward captions of at most `max_length` words against the references in `data`."""
        self.config = config
        references = [[_reference(caption.tolist()) for caption in data.captions(index)] for index in range(len(data))]
        self.reward = Reward(references, config.reward)
        # Samples follow the model's own distribution: only padding and start are excluded, as when they are scored.
        self.sampling = SearchConfig(
            config.samples, max_length, 0, suppress_unknown=False, method="sample", temperature=config.temperature
        )
        self.greedy = SearchConfig(1, max_length, 0, suppress_unknown=False)

    def __call__(self, captioner: Captioner, batch: Batch, images: Tensor) -> tuple[DecoderOutput, Tensor, float]:
        """Return the scores of the samples' N words, the advantage of each word's caption [N] and the mean reward.

        The scores have a gradient. Dropout is off while captions are sampled and, unless the configuration asks for it,
        while they are scored, so that the distribution that is trained is the one that was sampled.
        """
        captioner.decoder.eval()
        memory = captioner.encode(images)
        samples = _words(search(captioner.decoder, memory, self.sampling))  # [B][K] captions
        rewards = torch.tensor(self.score(batch.indices, samples))  # [B, K]
        if self.config.baseline == "greedy":
            greedy = _words(search(captioner.decoder, memory, self.greedy))
            advantages = rewards - torch.tensor(self.score(batch.indices, greedy))
        else:
            advantages = rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        torch.clear_autocast_cache()  # PyTorch before 2.10 would reuse casts of weights made without gradient
        captions, lengths = pad_captions(samples)
        captioner.decoder.train(self.config.dropout)
        decoded: DecoderOutput = captioner.decoder(
            memory, to_device(captions, images.device), lengths, need_weights=False
        )
        logits = decoded.logits / self.config.temperature
        for word in (PAD, START):  # one by one: a list would be copied to a GPU
            logits[..., word] = -torch.inf
        captioner.decoder.train()
        word_advantages = advantages.flatten().repeat_interleave(lengths.flatten())
        return decoded._replace(logits=logits), to_device(word_advantages, images.device), rewards.mean().item()

    def score(self, indices: Sequence[int], captions: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Return the rewards [B][K] of captions [B][K] of the images with these indices."""
        return [self.reward(index, samples) for index, samples in zip(indices, captions, strict=True)]


def _reference(words: list[int]) -> list[int]:
    """Return a reference with <end>, in which words that are not in the vocabulary equal no word of a sample."""
    return [OUT_OF_VOCABULARY if word == UNKNOWN else word for word in [*words, END]]


def _words(hypotheses: list[list[Hypothesis]]) -> list[list[list[int]]]:
    """Return captions [B][K], with <end> if they reached it; longest first per image, so that steps shrink early."""
    captions = [[[*item.words, *([END] if item.finished else [])] for item in beams] for beams in hypotheses]
    return [sorted(samples, key=len, reverse=True) for samples in captions]
