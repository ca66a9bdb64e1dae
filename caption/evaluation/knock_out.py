"""Knock-outs: replace the weights of attention at test time, leave the rest, and see what the captions lose.

Where attention falls does not say whether captions depend on it: a model may read the same from weights that are even.
Each of KNOCK_OUTS makes other weights from those that the model itself would use, and forces the model to read with
them. The references are then scored again (teacher forcing), and the captions written anew (free running).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from caption import ops
from caption.attention import AttentionOutput, Memory
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.config.inference import NEEDED
from caption.data.dataset import Batch
from caption.decoders import shift_right
from caption.device import autocast, to_device
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.bootstrap import Difference, Score, compare, ratio
from caption.progress import ProgressBar
from caption.search import Hypothesis, search, with_hard_attention
from caption.visualise.upsample import center_prior

AS_TRAINED = ""  # the name of no knock-out
JUDGED = "CIDEr-D"  # the score that the verdict is about
REAL = 0.05  # p below which a difference counts
UNUSED = 0.05  # fraction of the score: attention that is worth less is not used
SAME = 0.25  # fraction of what attention is worth: a gaze that costs less to exchange for another is the same
STUCK = 0.9  # fraction of the words whose maximum lies at the border


class Weights(NamedTuple):
    """The weights with which a model read the words of Q captions of each image. Beyond the end of a caption, the last
    ones are repeated; a row without a caption has those of the image's first."""

    values: Tensor  # [B, Q, T, M, L]
    is_word: Tensor  # bool [B, Q, T]


def _image_mean(weights: Weights, grid: FeatureGrid) -> Tensor:
    is_word = weights.is_word[..., None, None]
    return (weights.values * is_word).sum(2, keepdim=True) / is_word.sum(2, keepdim=True).clamp(min=1)


def _center(weights: Weights, grid: FeatureGrid) -> Tensor:
    prior = to_device(torch.from_numpy(center_prior(grid)), weights.values.device)
    return prior.to(weights.values.dtype).expand_as(weights.values[:, :1, :1])


# What each makes of the model's own weights [B, Q, T, M, L]; a result with fewer rows or steps holds for all.
KNOCK_OUTS: dict[str, Callable[[Weights, FeatureGrid], Tensor]] = {
    "uniform": lambda w, grid: torch.full_like(w.values[:, :1, :1], 1 / w.values.shape[-1]),  # even
    "shuffled": lambda w, grid: w.values.roll(1, 0),  # of another image: the one before it in the batch
    "center": _center,  # of no image: on its centre
    "previous": lambda w, grid: torch.cat([w.values[:, :, :1], w.values[:, :, :-1]], 2),  # of the word before
    "first-word": lambda w, grid: w.values[:, :, :1],  # of the first word, at all words
    "image-mean": _image_mean,  # the mean over the words of the caption, at all words
}


def used_weights(weights: Tensor, heads: Tensor | None, locations: Tensor | None) -> Tensor:
    """Return the weights with which contexts were read [..., M, L]: those of the heads, or one location [...] of the
    weights [..., L] where hard attention chose it."""
    if heads is not None:
        return heads
    if locations is None:
        return weights.unsqueeze(-2)
    one_hot = F.one_hot(locations.clamp(min=0), weights.shape[-1])
    return torch.where(locations.unsqueeze(-1) >= 0, one_hot, weights).unsqueeze(-2)


class Effect(NamedTuple):
    """An image under a knock-out."""

    nll: float  # negative log-likelihood of its references under teacher forcing, in nats, summed
    words: int  # of the references, <end> included
    at_border: int  # of these, those whose maximum of the weights is in one of the outermost regions
    caption: list[int]  # the best one, free running


@torch.inference_mode()
def knock_out(
    captioner: Captioner,
    loader: DataLoader[Any],
    names: Sequence[str],
    config: SearchConfig,
    device: torch.device,
    precision: str,
) -> Iterator[tuple[int, dict[str, Effect]]]:
    """Yield the number of each image in its split, and its effect as trained and under each of KNOCK_OUTS by name.

    Free running, the weights that are replaced are those of the caption that the model writes as trained.
    """
    captioner.eval()
    grid, decoder = captioner.encoder.feature_grid, captioner.decoder
    with ops.reuse_weights(decoder):
        for batch in ProgressBar(loader, "knock out", "batches"):
            if "shuffled" in names and len(batch.indices) == 1:
                raise UserError(
                    "--knock-out takes the attention of another image, but there is one; give a larger split"
                )
            with autocast(device, precision):
                memory = captioner.encode(to_device(batch.images, device))
                nlls, own = teacher_force(decoder, memory, batch, config)
                written = search(decoder, memory, config, heads=True)
                effects = {AS_TRAINED: _effects(nlls, own, written, grid)}
                own_written = written_weights([hypotheses[0] for hypotheses in written])
                for name in names:
                    change = KNOCK_OUTS[name]
                    forced = memory._replace(forced=change(own, grid))
                    nlls, weights = teacher_force(decoder, forced, batch, config)
                    forced = memory._replace(forced=to_device(change(own_written, grid), device))
                    effects[name] = _effects(nlls, weights, search(decoder, forced, config), grid)
            for b, index in enumerate(batch.indices):
                yield index, {name: column[b] for name, column in effects.items()}


def teacher_force(decoder: Any, memory: Memory, batch: Batch, config: SearchConfig) -> tuple[Tensor, Weights]:
    """Return the negative log-likelihood of each word of a batch's captions [B, Q, T], in nats, 0 where there is none;
    and the weights with which they were read. `config` says how hard attention chooses."""
    device = memory.mean.device
    captions, lengths = to_device(batch.captions, device), to_device(batch.lengths, device)
    memory = with_hard_attention(memory, config.hard_attention, captions.shape[1])
    state = decoder.start(memory, captions.shape[1])
    nlls, weights = [], []
    for word, target in zip(shift_right(captions).unbind(-1), captions.unbind(-1), strict=True):
        logits, state, attended = decoder.step(word, state, memory)
        nlls.append(ops.token_nll(logits.flatten(0, 1), target.flatten()).view_as(target))
        weights.append(_used(attended))
    is_word = torch.arange(captions.shape[-1], device=device) < lengths.unsqueeze(-1)  # [B, Q, T]
    return torch.stack(nlls, 2) * is_word, _hold(torch.stack(weights, 2), is_word)


def _used(attended: AttentionOutput) -> Tensor:
    return used_weights(attended.weights, attended.heads, attended.sample.location if attended.sample else None)


def _hold(values: Tensor, is_word: Tensor) -> Weights:
    """Repeat the last weights of a caption [B, Q, T, M, L] beyond its end, and those of the first row without one."""
    images, rows, steps = is_word.shape
    row = torch.where(is_word[..., 0], torch.arange(rows, device=is_word.device), 0)  # [B, Q]
    image = torch.arange(images, device=is_word.device).unsqueeze(1)
    lengths = is_word.sum(-1)[image, row]  # [B, Q]
    step = torch.minimum(torch.arange(steps, device=is_word.device), (lengths - 1).clamp(min=0).unsqueeze(-1))
    return Weights(values[image.unsqueeze(-1), row.unsqueeze(-1), step], is_word)


def written_weights(hypotheses: Sequence[Hypothesis]) -> Weights:
    """Return the weights with which each image's caption was read; Q is 1."""
    used = [used_weights(h.weights.float(), h.heads, h.locations) for h in hypotheses]  # [T, M, L]
    lengths = torch.tensor([len(weights) for weights in used])
    values = torch.stack([F.pad(weights, (0, 0, 0, 0, 0, int(lengths.max()) - len(weights))) for weights in used])
    is_word = torch.arange(values.shape[1]) < lengths.unsqueeze(-1)
    return _hold(values.unsqueeze(1), is_word.unsqueeze(1))


def _effects(nlls: Tensor, weights: Weights, written: list[list[Hypothesis]], grid: FeatureGrid) -> list[Effect]:
    border = to_device(torch.from_numpy(border_regions(grid)), nlls.device)
    at_border = border[weights.values.mean(3).argmax(-1)]  # [B, Q, T]
    sums = (nlls, weights.is_word, at_border & weights.is_word)
    columns = zip(*(values.sum((1, 2)).tolist() for values in sums), written, strict=True)
    return [Effect(nll, words, border, hypotheses[0].words) for nll, words, border, hypotheses in columns]


def border_regions(grid: FeatureGrid) -> NDArray[np.bool_]:
    """Return whether each region [L] is one of the outermost."""
    inner = np.zeros((grid.rows, grid.columns), bool)
    inner[1:-1, 1:-1] = True
    return ~inner.ravel()


class Verdict(NamedTuple):
    """A judgement of an attention by its knock-outs, and why."""

    word: str  # unused, stuck at the border, same for every image, same for every word, working or undecided
    reason: str


class Study(NamedTuple):
    """The difference that each knock-out makes to every score, and the verdict."""

    differences: dict[str, list[Difference]]  # by the name of the knock-out
    border: float  # percentage of the references' words, <end> included, whose maximum is in an outermost region
    verdict: Verdict


def compare_effects(
    effects: Sequence[Mapping[str, Effect]],
    score: Callable[[list[list[int]]], Sequence[Score]],
    seed: int,
    grid: FeatureGrid,
) -> Study:
    """Compare the scores as trained with those under each knock-out, from the effects on every image.

    `score` returns the scores of one caption for each image; that of the cross-entropy of the references is added.
    """
    columns = {name: [effect[name] for effect in effects] for name in effects[0]}
    scores = {
        name: [cross_entropy(column), *score([effect.caption for effect in column])] for name, column in columns.items()
    }
    differences = {name: compare(scores[AS_TRAINED], scores[name], seed) for name in scores if name != AS_TRAINED}
    trained = columns[AS_TRAINED]
    border = 100 * sum(effect.at_border for effect in trained) / max(1, sum(effect.words for effect in trained))
    judged = {name: next(d for d in found if d.name == JUDGED) for name, found in differences.items()}
    return Study(differences, border, judge(judged, border, 100 * float(border_regions(grid).mean())))


def cross_entropy(effects: Iterable[Effect]) -> Score:
    """Return the cross-entropy of the references in nats per word."""
    return Score("cross-entropy", np.array([(effect.nll, effect.words) for effect in effects], np.float64), ratio)


def judge(falls: Mapping[str, Difference], border: float, border_by_chance: float) -> Verdict:
    """Return the verdict on an attention from the differences of a score, free running: the first rule that applies.

    unused: with even attention, the score falls by less than the fraction UNUSED of it; stuck at the border: at STUCK
    of the words the maximum is in one of the outermost regions, where even attention would be less often; same for
    every image: with the attention of another image it falls by less than the fraction SAME of that; same for every
    word: so it does with the mean over the words of the caption, used at all of them; working: otherwise. Of the
    first rule, "less" holds for the upper end of the 95 % interval. undecided: a fall that is neither less nor real.
    `falls` are by the name of the knock-out, the others in percent.
    """
    even, other, mean = (falls[name] for name in NEEDED)
    if not even.first > 0 or math.isnan(even.value + other.value + mean.value):
        return Verdict("undecided", f"{even.name} is not above 0 for these captions")
    reason = f"{even.name} {even.first:.1f} falls by {_fall(even)} with even attention"
    if -even.low < UNUSED * even.first:
        return Verdict("unused", reason)
    if even.p >= REAL:
        return Verdict("undecided", f"{reason}; more images would tell")
    if border >= 100 * STUCK > border_by_chance:
        where = f"the maximum is in one of the outermost regions at {border:.0f} % of the words"
        return Verdict("stuck at the border", f"{where}; {reason}")
    reason += f", by {_fall(other)} with that of another image, by {_fall(mean)} with the mean over the caption's words"
    for difference, word in ((other, "same for every image"), (mean, "same for every word")):
        if -difference.value < SAME * -even.value:
            return Verdict(word, reason)
        if difference.p >= REAL:
            return Verdict("undecided", f"{reason}; more images would tell")
    return Verdict("working", reason)


def _fall(difference: Difference) -> str:
    return f"{0 - difference.value:.1f}" + ("" if difference.p < REAL else f" (not real, p = {difference.p:.2f})")
