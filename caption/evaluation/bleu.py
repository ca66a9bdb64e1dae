"""Corpus BLEU (Papineni et al., 2002)."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score
from caption.evaluation.ngrams import NGrams, Words, look_up

TINY, SMALL = 1e-15, 1e-9  # COCO's constants against division by zero


def bleu(references: Sequence[Sequence[Words]], captions: Sequence[Words], ngrams: Iterable[NGrams]) -> list[Score]:
    """Return BLEU-1 to 4 with the brevity penalty, as COCO's server reports them, and without it, as the paper does.

    An image contributes, for each n, the number of its n-grams that occur in a reference (each at most as often as in
    the reference that has it most often) and of all its n-grams; and the length of the caption and of the reference
    closest in length.
    """
    columns = []
    for n, counts in enumerate(ngrams, 1):
        columns += [clipped_matches(references, captions, counts)]
        columns += [np.array([max(0, len(caption) - n + 1) for caption in captions], float)]
    lengths = [len(caption) for caption in captions]
    closest = [
        min((abs(len(reference) - length), len(reference)) for reference in texts)[1]
        for texts, length in zip(references, lengths, strict=True)
    ]
    table = np.stack([*columns, np.array(lengths, float), np.array(closest, float)], 1)  # [N, 10]
    with_penalty = [Score(f"BLEU-{n}", table, partial(bleu_from_sums, n=n, penalty=True)) for n in (1, 2, 3, 4)]
    without = [Score(f"BLEU-{n}, without BP", table, partial(bleu_from_sums, n=n, penalty=False)) for n in (1, 2, 3, 4)]
    return [*with_penalty, *without, Score("length ratio", table[:, 8:], _length_ratio)]


def clipped_matches(
    references: Sequence[Sequence[Words]], captions: Sequence[Words], counts: NGrams
) -> NDArray[np.float64]:
    """Return the number of each caption's n-grams that occur in a reference of its image [N], each n-gram at most as
    often as in the reference that has it most often.

    `counts` are those of `count_ngrams` for one n: there each n-gram has a number.
    """
    group = np.repeat(np.arange(len(captions)), [len(texts) for texts in references])  # image of each reference
    key = group[counts.references.text] * counts.distinct + counts.references.gram
    order = np.lexsort((counts.references.times, key))
    last = np.append(np.diff(key[order]) != 0, True)[: len(key)]  # an image's largest count of an n-gram
    wanted = counts.captions.text * counts.distinct + counts.captions.gram
    limit = look_up(key[order][last], counts.references.times[order][last].astype(float), wanted)
    matches = np.bincount(counts.captions.text, np.minimum(counts.captions.times, limit), len(captions))
    return matches.astype(float, copy=False)  # for a checker of types, which does not know that weights are floats


def bleu_from_sums(sums: NDArray[np.float64], n: int, penalty: bool) -> NDArray[np.float64]:
    """Return BLEU-n in percent from sums [..., 10] over a corpus: the geometric mean of the precisions of 1- to
    n-grams and, with `penalty`, times the brevity penalty min(1, exp(1 - r / c)).

    The sums are, for 1- to 4-grams, the clipped matches and the captions' n-grams, and at the end c, the length of the
    captions, and r, that of the references closest in length. So that nothing is divided by zero, COCO's code adds
    TINY to the matches and to c, and SMALL to the n-grams and to r.
    """
    precisions = (sums[..., 0 : 2 * n : 2] + TINY) / (sums[..., 1 : 2 * n : 2] + SMALL)
    score = 100 * precisions.prod(-1) ** (1 / n)
    if penalty:
        score = score * np.exp(np.minimum(0, 1 - (sums[..., 9] + SMALL) / (sums[..., 8] + TINY)))
    return np.asarray(score)


def _length_ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the captions' length over that of the references closest in length, not in percent."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))
