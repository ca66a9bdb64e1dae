"""Self-critical training (Rennie et al., 2017): REINFORCE with whole captions as what is drawn.

Captions are drawn from the model, each is scored against the image's references, and made more probable by as much as
it is better than its baseline: the greedy caption (the paper), or the mean of the image's other draws, which costs no
caption more and varies less (Luo, 2020).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from caption.captioner import Captioner
from caption.config import SearchConfig, SelfCriticalConfig
from caption.data.dataset import Batch, CaptionDataset, pad_captions
from caption.data.vocabulary import END, PAD, START, UNKNOWN
from caption.decoders.base import DecoderOutput
from caption.evaluation.reward import Reward
from caption.search import Hypothesis, search

OTHER = -1  # a word, but none of the vocabulary


class Critic:
    """Draws captions of a batch and says what each earned."""

    def __init__(self, config: SelfCriticalConfig, data: CaptionDataset, max_length: int) -> None:
        """Rewards against the captions of `data`; draws have `max_length` words at most."""
        self.config = config
        # What a reference has in place of words that the model does not know, no draw can equal.
        references = [
            [[OTHER if word == UNKNOWN else word for word in [*one.tolist(), END]] for one in data.captions(index)]
            for index in range(len(data))
        ]
        self.reward = Reward(references, config.reward)
        # Draws are from the model's own distribution: all is allowed but padding and start, as in what is read again.
        self.draw = SearchConfig(
            config.samples, max_length, 0, suppress_unknown=False, method="sample", temperature=config.temperature
        )
        self.greedy = SearchConfig(1, max_length, 0, suppress_unknown=False)

    def __call__(self, captioner: Captioner, batch: Batch, images: Tensor) -> tuple[DecoderOutput, Tensor, float]:
        """The N words of the draws, read again with gradient; what each word's caption earned beyond its baseline [N];
        the mean reward of a draw.

        Dropout rests while they are drawn, and, unless the configuration wants it, while they are read, so that what is
        trained is what was drawn from.
        """
        captioner.decoder.eval()
        memory = captioner.encode(images)
        drawn = _words(search(captioner.decoder, memory, self.draw))  # [B][K] captions
        rewards = torch.tensor(self.score(batch.indices, drawn))  # [B, K]
        if self.config.baseline == "greedy":
            greedy = _words(search(captioner.decoder, memory, self.greedy))
            earned = rewards - torch.tensor(self.score(batch.indices, greedy))
        else:
            count = rewards.shape[1]
            earned = rewards - (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
        torch.clear_autocast_cache()  # PyTorch before 2.10 would take weights from it that have no gradient
        captions, lengths = pad_captions(drawn)
        captioner.decoder.train(self.config.dropout)
        decoded: DecoderOutput = captioner.decoder(memory, captions.to(images.device), lengths, need_weights=False)
        never = torch.tensor([PAD, START], device=images.device)
        logits = decoded.logits / self.config.temperature
        decoded = decoded._replace(logits=logits.index_fill(-1, never, -torch.inf))
        captioner.decoder.train()
        return decoded, earned.flatten().repeat_interleave(lengths.flatten()).to(images.device), rewards.mean().item()

    def score(self, indices: Sequence[int], captions: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Rewards [B][K] of captions of the images of these numbers."""
        return [self.reward(index, several) for index, several in zip(indices, captions, strict=True)]


def _words(found: list[list[Hypothesis]]) -> list[list[list[int]]]:
    """The captions [B][K], each with <end>, if it came to it; an image's longest first, so that steps shrink early."""
    ended = [[[*one.words, *([END] if one.finished else [])] for one in several] for several in found]
    return [sorted(several, key=len, reverse=True) for several in ended]
