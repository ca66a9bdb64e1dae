"""Types that pass between an attention and a decoder."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Memory(NamedTuple):
    """A batch of images as an attention reads them: computed once for each image, for all its captions and beams.

    The last two fields say how hard attention and the retina select; soft attention does not read them.
    """

    keys: Tensor  # [B, L, A]; an attention with several heads has a layout of its own, images first
    values: Tensor  # [B, L, D], the annotation vectors; likewise
    mean: Tensor  # [B, D], of the annotation vectors
    sample_rows: Tensor | None = None  # bool [B, Q]: rows that attend to one location; None: all take the expectation
    argmax: bool = False  # that location is the most probable one, not a sample

    def first(self, images: int, rows: int) -> "Memory":
        """Return the memory of the first `images` images and of their first `rows` rows, without a copy."""
        sample_rows = None if self.sample_rows is None else self.sample_rows[:images, :rows]
        if images == len(self.keys):
            return self._replace(sample_rows=sample_rows)
        keys, values, mean = self.keys[:images], self.values[:images], self.mean[:images]
        return self._replace(keys=keys, values=values, mean=mean, sample_rows=sample_rows)


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
    gate: Tensor | None = None  # [B, Q], beta_t, by which the decoder multiplied the context
    heads: Tensor | None = None  # [B, Q, M, L], the weights of each of several heads; `weights` are their mean


class Attention(Protocol):
    """The protocol by which a recurrent decoder attends."""

    context_width: int  # C
    stochastic: bool  # whether training samples locations
    heads: int  # M

    def prepare(self, regions: Tensor) -> Memory:
        """Return what every later step reads, computed once for each image; regions are [B, L, D]."""

    def __call__(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """Return contexts [B, Q, C] and weights [B, Q, L] for queries [B, Q, H] at step t, counted from 0."""
