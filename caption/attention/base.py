"""The base class of every attention, and the types that pass between it and a decoder."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from caption.errors import UserError


class GumbelSoftmax(NamedTuple):
    """Gradients pass through relaxed samples of locations (Jang et al., 2017; Maddison et al., 2017)."""

    temperature: float  # tau
    straight_through: bool  # the context is that of the sample itself, only its gradient that of the relaxed one


class Memory(NamedTuple):
    """A batch of images as an attention reads them: computed once for each image, for all its captions and beams.

    `mean_gates` is for the decoder alone. `sample_rows`, `argmax` and `gumbel_softmax` say how hard attention selects,
    the first two of them how the retina does; soft attention does not read them.
    """

    keys: Tensor  # [B, L, A]; an attention with several heads has a layout of its own, images first
    values: Tensor  # [B, L, D], the annotation vectors; likewise
    mean: Tensor  # [B, D], of the annotation vectors
    mean_gates: Tensor | None = None  # [B, G], the mean's addend of the gates of an LSTM that reads it at every step
    sample_rows: Tensor | None = None  # bool [B, Q]: rows that attend to one location; None: all take the expectation
    argmax: bool = False  # that location is the most probable one, not a sample
    gumbel_softmax: GumbelSoftmax | None = None  # how gradients pass through samples; None: not at all
    forced: Tensor | None = None  # [B, Q or 1, T, M, L]: weights to read with at each step, whatever the query
    mask: Tensor | None = None  # bool [B, L], False for padding, which gets no weight; None: every region is one

    def first(self, images: int, rows: int) -> "Memory":
        """Return the memory of the first `images` images and of their first `rows` rows, without a copy."""
        sample_rows = None if self.sample_rows is None else self.sample_rows[:images, :rows]
        forced = None if self.forced is None else self.forced[:images, :rows]
        memory = self._replace(sample_rows=sample_rows, forced=forced)
        if images == len(self.keys):
            return memory
        keys, values, mean = self.keys[:images], self.values[:images], self.mean[:images]
        mean_gates = None if self.mean_gates is None else self.mean_gates[:images]
        mask = None if self.mask is None else self.mask[:images]
        return memory._replace(keys=keys, values=values, mean=mean, mean_gates=mean_gates, mask=mask)

    def forced_weights(self, rows: int, first: int, steps: int = 1) -> Tensor | None:
        """Return `forced` for `rows` rows in so many steps from the first on [B, Q, steps, M, L]; its last step stands
        for all beyond. What they give to padding is shared out evenly among the regions. None if the attention is
        free."""
        if self.forced is None:
            return None
        step = torch.arange(first, first + steps, device=self.forced.device).clamp(max=self.forced.shape[2] - 1)
        forced = self.forced[:, :, step].expand(-1, rows, -1, -1, -1)
        if self.mask is None:
            return forced
        mask = self.mask[:, None, None, None]  # [B, 1, 1, 1, L]
        to_padding = forced.masked_fill(mask, 0).sum(-1, keepdim=True)  # [B, Q, steps, M, 1]
        return forced.masked_fill(~mask, 0) + mask * to_padding / mask.sum(-1, keepdim=True)


class Sample(NamedTuple):
    """The location that hard attention or the retina chose for each of Q rows."""

    location: Tensor  # [B, Q], in 0..L-1; -1 for a row that took the expectation
    log_probability: Tensor  # [B, Q], log alpha at the location, of a place its log density; 0 for the expectation
    entropy: Tensor  # [B, Q], of the distribution sampled from, in nats


class AttentionOutput(NamedTuple):
    """The result of one step of attention for Q rows of each image."""

    context: Tensor  # [B, Q, C], z_t; C is D, unless the attention projects
    weights: Tensor  # [B, Q, L], alpha_t: not negative, summing to one
    sample: Sample | None = None  # of hard attention, unless all rows took the expectation
    # [B, Q] in [0, 1], the factor of the context: beta_t of the paper, 1 - beta_t of adaptive attention
    gate: Tensor | None = None
    # [B, Q, M, L], the weights of each of several heads, or of the filters of a glimpse; `weights` are their mean
    heads: Tensor | None = None


class Attention(nn.Module):
    """The attention of a recurrent decoder. Subclasses implement `prepare`, `attend` and `read`."""

    context_width: int  # C
    stochastic = False  # whether training samples locations
    heads = 1  # M

    def prepare(self, regions: Tensor, mask: Tensor | None = None) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D], and `mask` bool
        [B, L] is False where they are padding.

        Raises UserError for a mask that `mask_regions` refuses, or that the attention cannot use.
        """
        raise NotImplementedError

    def attend(self, query: Tensor, memory: Memory, step: int) -> AttentionOutput:
        """Return what `forward` returns, by weights of the attention's own."""
        raise NotImplementedError

    def read(self, query: Tensor, weights: Tensor, memory: Memory) -> Tensor:
        """Return contexts [B, Q, C] for given weights [B, Q, M, L] of the heads, or of the filters of a glimpse."""
        raise NotImplementedError

    def forward(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """Return contexts [B, Q, C] and weights [B, Q, L] for queries [B, Q, H] at step t, counted from 0."""
        forced = memory.forced_weights(query.shape[1], step)
        if forced is None:
            return self.attend(query, memory, step)
        weights = forced.squeeze(2)  # [B, Q, M, L]
        return AttentionOutput(self.read(query, weights, memory), weights.mean(2), heads=weights)


def mask_regions(regions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return regions [B, L, D] with zeros for padding, and the mean of the others [B, D]; `mask` is bool [B, L], False
    for padding, or None.

    Zeros, since a weight of 0 would not keep padding that is infinite or not a number out of the context.

    Raises UserError for a mask of another type or shape, and for an image that is padding alone.
    """
    if mask is None:
        return regions, regions.mean(1)
    if mask.dtype != torch.bool or mask.shape != regions.shape[:2]:
        raise UserError(
            f"the mask is {mask.dtype} {list(mask.shape)}, but must be torch.bool {list(regions.shape[:2])}: True for "
            "every region [B, L] that is not padding"
        )
    if not (filled := mask.any(1)).all():
        raise UserError(
            f"image {filled.long().argmin().item()} of the batch is masked everywhere, but must have a region to "
            "attend to; leave it out"
        )
    regions = regions.masked_fill(~mask.unsqueeze(-1), 0)
    return regions, regions.sum(1) / mask.sum(1, keepdim=True)


def mask_scores(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores [B, ..., L] with minus infinity where `mask` [B, L] is False: a weight and a gradient of exactly
    zero."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask.view(len(mask), *[1] * (scores.dim() - 2), -1), -torch.inf)
