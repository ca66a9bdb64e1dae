"""Faithfulness: does a word become less likely without the regions that attention weighed the most?

The k first regions of an order are erased at one word: each becomes the mean annotation vector of its image, for this
step alone. What is measured is how far the log-probability of the word, which the model itself wrote, falls. Orders are
those of attention, of chance, of the distance from the centre, of the gradient (a_i - mean) . d log p / d a_i, and,
where a word tells of an annotated object, of how much of a region it covers. Attention is then scored anew over what is
left, and may turn to another object; "weights kept" erases what attention weighed the most, and lets it read what it
would have read otherwise with the weights that it had.

Erasing by attention follows Serrano and Smith (2019), who set weights to zero, and DeYoung et al. (2020), who erase
inputs and call the fall comprehensiveness. It says whether the regions that the map shows were needed at this step,
given the state. It does not say that no other map would do as well (Jain and Wallace, 2019; Wiegreffe and Pinter,
2019), nor what the state took from the image at earlier words, nor what lies in the pixels: the receptive fields of
neighbouring regions overlap.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from caption import ops
from caption.attention import Memory
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.data.scenes import word_kinds
from caption.data.vocabulary import END, PAD, START
from caption.device import autocast, to_device
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.bootstrap import Score, ratio
from caption.evaluation.gates import CONTENT_WORDS
from caption.evaluation.grounding import Instances
from caption.evaluation.knock_out import used_weights
from caption.evaluation.ngrams import Words
from caption.progress import ProgressBar
from caption.search import search

KEPT = "weights kept"  # in the order of attention
ORDERS = ("attention", KEPT, "random", "center", "gradient", "object")
ALL_WORDS = "all words"
Coverage = NDArray[np.float64]  # [T, L]: fraction of each region that the object of a word covers; NaN: of no object


class Falls(NamedTuple):
    """The fall of the log-probability of each word of a caption."""

    words: Words
    values: NDArray[np.float64]  # [T, orders, steps], in nats; NaN where a word tells of no annotated object


def erased_counts(regions: int) -> list[int]:
    """Return the numbers of regions to erase: the powers of two below L, and L."""
    return [2**n for n in range(regions.bit_length()) if 2**n < regions] + [regions]


@torch.no_grad()
def measure_falls(
    captioner: Captioner,
    loader: DataLoader[Any],
    config: SearchConfig,
    device: torch.device,
    precision: str,
    instances: Instances | None = None,
    image_ids: Sequence[int] = (),
) -> Iterator[tuple[int, Falls]]:
    """Yield the number of each image in its split, and the falls of the words that the model writes for it."""
    captioner.eval()
    grid = captioner.encoder.feature_grid
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**32)
    for batch in ProgressBar(loader, "erase", "batches"):
        with autocast(device, precision), ops.reuse_weights(captioner.decoder):
            regions = captioner.regions(to_device(batch.images, device))
            memory = captioner.decoder.prepare(regions)
            best = [hypotheses[0] for hypotheses in search(captioner.decoder, memory, config)]
        words = [captioner.vocabulary.decode(hypothesis.words) for hypothesis in best]
        coverage: list[Coverage] | None = None
        if instances:
            ids = [image_ids[index] for index in batch.indices]
            coverage = [object_coverage(*caption, instances, grid) for caption in zip(words, ids, strict=True)]
        written = [[*hypothesis.words, *[END] * hypothesis.finished] for hypothesis in best]
        with autocast(device, precision):
            values = erase(captioner.decoder, regions, written, coverage, grid, generator)
        for b, index in enumerate(batch.indices):
            yield index, Falls(words[b], values[b, : len(words[b])])


@torch.no_grad()
def erase(
    decoder: Any,
    regions: Tensor,
    captions: Sequence[Sequence[int]],
    coverage: Sequence[Coverage] | None,
    grid: FeatureGrid,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Return how far the log-probability of each word of a caption of each image falls [B, T, orders, steps], in nats.

    `regions` are [B, L, D]; the captions may end with <end>. Steps are those of `erased_counts`.
    """
    images, count = regions.shape[:2]
    mean = regions.mean(1, keepdim=True)
    memory, blank = decoder.prepare(regions), decoder.prepare(mean.expand_as(regions))
    counts = erased_counts(count)
    state, word = decoder.start(memory, 1), torch.full((images, 1), START, device=regions.device)
    falls = []
    for t in range(max(map(len, captions))):
        target = torch.tensor([[caption[t] if t < len(caption) else PAD] for caption in captions])
        target = to_device(target, regions.device)
        logits, following, attended = decoder.step(word, state, memory)
        whole = _log_probability(logits, target)
        with torch.enable_grad():
            leaf = regions.detach().requires_grad_()
            read = decoder.prepare(leaf)
            read = memory._replace(keys=read.keys, values=read.values)
            likelihood = _log_probability(decoder.step(word, state, read)[0], target).sum()
            (gradient,) = torch.autograd.grad(likelihood, leaf)
        kept_memory = memory._replace(forced=used_weights(attended.weights, attended.heads, None).unsqueeze(2))
        orders = {
            "attention": attended.weights[:, 0].float(),
            KEPT: attended.weights[:, 0].float(),
            "random": to_device(torch.rand(images, count, generator=generator), regions.device),
            "center": to_device(-_distance_from_centre(grid), regions.device).expand(images, -1),
            "gradient": (gradient * (regions - mean)).sum(-1).float(),
            "object": to_device(_covered(coverage, t, images, count), regions.device),
        }
        fallen = []
        for name in ORDERS:
            rank = orders[name].nan_to_num().argsort(dim=-1, descending=True, stable=True).argsort(-1)  # [B, L]
            source = kept_memory if name == KEPT else memory
            steps = [
                whole - _log_probability(decoder.step(word, state, replace(source, blank, rank < k))[0], target)
                for k in counts
            ]
            fallen.append(torch.stack(steps, 1).masked_fill(orders[name].isnan().any(-1, keepdim=True), torch.nan))
        falls.append(torch.stack(fallen, 1))  # [B, orders, steps]
        state, word = following, target
    return np.asarray(torch.stack(falls, 1).double().cpu())


def _log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """Return log p [B] of target words [B, 1] from logits [B, 1, V]."""
    return -ops.token_nll(logits.flatten(0, 1), target.flatten())


def replace(memory: Memory, blank: Memory, erased: Tensor) -> Memory:
    """Return a memory with the regions `erased`, bool [B, L], of another; the regions of keys and values are their
    last dimension but one."""
    keys, values = (
        torch.where(erased.view(len(erased), *[1] * (own.dim() - 3), -1, 1), other, own)
        for own, other in ((memory.keys, blank.keys), (memory.values, blank.values))
    )
    return memory._replace(keys=keys, values=values)


def _distance_from_centre(grid: FeatureGrid) -> Tensor:
    """Return the distance [L] of each region's centre from that of the image, in pixels."""
    row, column = (
        grid.first + grid.step * torch.arange(lines) - (grid.size - 1) / 2 for lines in (grid.rows, grid.columns)
    )
    return torch.hypot(row.unsqueeze(1), column.unsqueeze(0)).flatten()


def _covered(coverage: Sequence[Coverage] | None, t: int, images: int, count: int) -> Tensor:
    """Return the coverage [B, L] by the object of each image's word t; NaN where there is none."""
    covered = torch.full((images, count), torch.nan)
    for b, each in enumerate(coverage or ()):
        if t < len(each):
            covered[b] = torch.from_numpy(each[t])
    return covered


def object_coverage(words: Words, image_id: int, instances: Instances, grid: FeatureGrid) -> Coverage:
    """Return how much of each region the object covers that a word tells of [T, L]; NaN for other words.

    It is the object that the word names; of a drawn scene, the words of its size and colour before the name count, too.
    """
    kinds = word_kinds()
    coverage = np.full((len(words), grid.rows * grid.columns), np.nan)
    for start, stop, category in instances.named(words):
        if found := instances.find(image_id, category, grid):
            first = start
            while instances.has_scenes and first and kinds.get(words[first - 1]) in ("colours", "sizes"):
                first -= 1
            coverage[first:stop] = region_coverage(found[0], grid)
    return coverage


def region_coverage(mask: NDArray[np.bool_], grid: FeatureGrid) -> NDArray[np.float64]:
    """Return the fraction of each region [L], a square of one step around its centre, that a mask [S, S] covers."""

    def edges(count: int) -> NDArray[np.int64]:
        return np.clip(np.round(grid.first + 0.5 + grid.step * (np.arange(count + 1) - 0.5)), 0, grid.size).astype(int)

    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0))).astype(np.float64)
    corner = sums[np.ix_(edges(grid.rows), edges(grid.columns))]
    inside = corner[1:, 1:] - corner[:-1, 1:] - corner[1:, :-1] + corner[:-1, :-1]
    area = np.outer(np.diff(edges(grid.rows)), np.diff(edges(grid.columns)))
    return np.asarray((inside / np.maximum(area, 1)).ravel())


def fall_scores(falls: Sequence[Falls], regions: int, kinds: Mapping[str, str]) -> dict[tuple[str, str, int], Score]:
    """Return the mean fall by kind of word, order and number of regions erased.

    `kinds` names the kind of a word, and all others are "content words"; without any, kinds are left out. All orders of
    a kind are over the same words; that of objects is there for "words of an object" alone, those that tell of one. A
    kind that is not in the captions is left out. Raises UserError if all captions are empty.
    """
    words = [word for each in falls for word in each.words]
    image = np.array([i for i, each in enumerate(falls) for _ in each.words], int)
    values = np.concatenate([each.values for each in falls])  # [N words, orders, steps]
    if not words:
        raise UserError("--faithfulness erases what words were read from, but all captions are empty; train the model")
    of_object = np.isfinite(values).all((1, 2))
    members = {ALL_WORDS: np.ones(len(words), bool), "words of an object": of_object}
    for kind in dict.fromkeys([*kinds.values(), CONTENT_WORDS]) if kinds else ():
        members[kind] = np.array([kinds.get(word, CONTENT_WORDS) == kind for word in words])
    scores = {}
    for kind, member in members.items():
        orders = ORDERS if member is of_object else ORDERS[:-1]
        for (o, order), (k, erased) in product(enumerate(orders), enumerate(erased_counts(regions))):
            if member.any():
                sums = np.bincount(image[member], values[member, o, k], len(falls))
                statistics = np.stack([sums, np.bincount(image[member], minlength=len(falls)).astype(float)], 1)
                scores[kind, order, erased] = Score(f"{kind}, {order}, {erased}", statistics, ratio)
    return scores
