"""Captions of a whole split: the decoder's search, over every batch of a loader."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.device import autocast, to_device
from caption.ops.recurrent_linear import unrolled
from caption.progress import ProgressBar
from caption.search import Hypothesis, search


class Generated(NamedTuple):
    """What the model says of an image, and where it looked."""

    image: int  # its number in the split
    hypotheses: list[Hypothesis]  # the best first
    references: list[tuple[list[str], Tensor]]  # if asked for: words, and where the model looked at them [T, L]


@torch.inference_mode()
def generate(
    captioner: Captioner,
    loader: DataLoader[Any],
    config: SearchConfig,
    device: torch.device,
    precision: str,
    references: bool = False,
) -> Iterator[Generated]:
    """Captions of every image; with `references`, also how its own captions are read, by teacher forcing (of hard
    attention the expectation). An image is encoded once for both. The weights must not change before all is read."""
    captioner.eval()
    with unrolled(captioner.decoder):
        for batch in ProgressBar(loader, "caption", "batches"):
            read: list[list[tuple[list[str], Tensor]]] = [[] for _ in batch.indices]
            with autocast(device, precision):
                memory = captioner.encode(to_device(batch.images, device))
                found = search(captioner.decoder, memory, config)
                if references:
                    captions = to_device(batch.captions, device)
                    weights = captioner.decoder(memory, captions, batch.lengths).weights
                    weights = weights.float().cpu()  # [B, Q, T, L]
                    for b, q in (batch.lengths > 0).nonzero().tolist():
                        length = int(batch.lengths[b, q])
                        words = captioner.vocabulary.decode(batch.captions[b, q, :length].tolist())
                        read[b].append((words, weights[b, q, : length - 1]))
            yield from map(Generated, batch.indices, found, read)
