"""What passes between an attention and a decoder."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Memory(NamedTuple):
    """What attention needs of a batch of images; computed once an image, whatever the number of captions or beams.

    The last two say how hard attention and the retina select; soft attention does not read them.
    """

    keys: Tensor  # [B, L, A]; an attention of several heads has its own layout, images first
    values: Tensor  # [B, L, D], the annotation vectors; likewise
    mean: Tensor  # [B, D], of the annotation vectors
    drawn: Tensor | None = None  # [B, Q], whether a row attends to one location; None: all to the expectation
    most_probable: bool = False  # that location is the most probable one, not a draw

    def first(self, images: int, rows: int) -> "Memory":
        """The memory of the first so many images and of their first rows, without a copy."""
        drawn = None if self.drawn is None else self.drawn[:images, :rows]
        if images == len(self.keys):
            return self._replace(drawn=drawn)
        keys, values, mean = self.keys[:images], self.values[:images], self.mean[:images]
        return self._replace(keys=keys, values=values, mean=mean, drawn=drawn)


class Draw(NamedTuple):
    """The location that hard attention or the retina chose for each of Q rows."""

    location: Tensor  # [B, Q], in 0..L-1; -1 for a row that took the expectation
    log_probability: Tensor  # [B, Q], log alpha at the location, of a place its density's; 0 for the expectation
    entropy: Tensor  # [B, Q], of what was drawn from, in nats


class AttentionOutput(NamedTuple):
    """The result of one step of attention for Q rows of each image."""

    context: Tensor  # [B, Q, C], z_t; C is D, unless the attention projects
    weights: Tensor  # [B, Q, L], alpha_t: not negative, summing to one
    draw: Draw | None = None  # of hard attention, unless all rows took the expectation
    gate: Tensor | None = None  # [B, Q], beta_t, by which the decoder multiplied the context
    heads: Tensor | None = None  # [B, Q, M, L], of several heads each one's weights; `weights` are their mean


class Attention(Protocol):
    """What a recurrent decoder needs of an attention."""

    context_width: int  # C
    stochastic: bool  # whether training draws locations

    def prepare(self, regions: Tensor) -> Memory:
        """regions [B, L, D] -> what every later step reads."""

    def __call__(self, query: Tensor, memory: Memory, step: int = 0) -> AttentionOutput:
        """query [B, Q, H] at step t, from 0 -> context [B, Q, C] and weights [B, Q, L]."""
