"""Generate captions for all images of a split."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from caption import distributed, ops
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.device import autocast, to_device
from caption.encoders.grid import FeatureGrid
from caption.evaluation.grounding import GroundingCounts, Instances
from caption.progress import ProgressBar
from caption.search import Hypothesis, search


class Generated(NamedTuple):
    """The captions of an image, and the attention of the model that wrote them."""

    image: int  # its number in the split
    hypotheses: list[Hypothesis]  # best first
    references: list[tuple[list[str], Tensor]]  # words of each reference and its attention [T, L], if asked for


@torch.inference_mode()
def generate(
    captioner: Captioner,
    loader: DataLoader[Any],
    config: SearchConfig,
    device: torch.device,
    precision: str,
    references: bool = False,
) -> Iterator[Generated]:
    """Yield the captions of each image.

    With `references`, each also has the attention for its references under teacher forcing (for hard attention the
    expectation); the image is encoded once for both. The weights must not change before the iteration ends.
    """
    captioner.eval()
    with ops.reuse_weights(captioner.decoder):
        for batch in ProgressBar(loader, "caption", "batches"):
            attention: list[list[tuple[list[str], Tensor]]] = [[] for _ in batch.indices]
            with autocast(device, precision):
                memory = captioner.encode(to_device(batch.images, device))
                hypotheses = search(captioner.decoder, memory, config)
                if references:
                    captions = to_device(batch.captions, device)
                    weights = captioner.decoder(memory, captions, batch.lengths).weights
                    weights = weights.float().cpu()  # [B, Q, T, L]
                    for b, q in (batch.lengths > 0).nonzero().tolist():
                        length = int(batch.lengths[b, q])
                        words = captioner.vocabulary.decode(batch.captions[b, q, :length].tolist())
                        attention[b].append((words, weights[b, q, : length - 1]))
            yield from map(Generated, batch.indices, hypotheses, attention)


def gather_captions(
    generated: Iterable[Generated], image_ids: Sequence[int], grid: FeatureGrid, instances: Instances | None
) -> tuple[list[Hypothesis], list[GroundingCounts]]:
    """Return the best caption of each image in the order of the split, gathered from all processes; and, with
    `instances`, the grounding of its references."""
    best: dict[int, Hypothesis] = {}
    grounding: dict[int, GroundingCounts] = {}
    for index, hypotheses, references in generated:
        best[index] = hypotheses[0]
        if instances:
            grounding[index] = GroundingCounts()
            for words, weights in references:
                counts = instances.count(words, weights.numpy(), image_ids[index], grid)
                grounding[index] = grounding[index].plus(counts)
    best, grounding = distributed.gather(best), distributed.gather(grounding)
    return [best[index] for index in sorted(best)], [grounding[index] for index in sorted(grounding)]
