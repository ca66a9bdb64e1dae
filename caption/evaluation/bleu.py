"""Corpus BLEU (Papineni et al., 2002)."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score
from caption.evaluation.ngrams import NGrams, Words, look_up

TINY, SMALL = 1e-15, 1e-9  # COCO's, against division by zero


def bleu(references: Sequence[Sequence[Words]], captions: Sequence[Words], ngrams: Iterable[NGrams]) -> list[Score]:
    """BLEU-1 to 4 with the brevity penalty, as COCO's server reports them, and the same without it, as the paper.

    A picture adds, for each n, the n-grams that also stand in a reference (each at most as often as in the reference
    that has it most often) and all its n-grams; and its words and those of the reference closest in length.
    """
    group = np.repeat(np.arange(len(captions)), [len(several) for several in references])  # picture of each reference
    parts = []
    for n, (written, known, number) in enumerate(ngrams, 1):
        key = group[known.text] * number + known.gram
        order = np.lexsort((known.times, key))
        last = np.append(np.diff(key[order]) != 0, True)[: len(key)]  # each picture's largest count of an n-gram
        most = look_up(key[order][last], known.times[order][last].astype(float), written.text * number + written.gram)
        matched = np.bincount(written.text, np.minimum(written.times, most), len(captions))
        parts += [matched, np.array([max(0, len(caption) - n + 1) for caption in captions], float)]
    lengths = [len(caption) for caption in captions]
    closest = [
        min((abs(len(reference) - length), len(reference)) for reference in several)[1]
        for several, length in zip(references, lengths, strict=True)
    ]
    table = np.stack([*parts, np.array(lengths, float), np.array(closest, float)], 1)  # [N, 10]
    with_penalty = [Score(f"BLEU-{n}", table, partial(_combine, n=n, penalty=True)) for n in (1, 2, 3, 4)]
    without = [Score(f"BLEU-{n}, without BP", table, partial(_combine, n=n, penalty=False)) for n in (1, 2, 3, 4)]
    return [*with_penalty, *without, Score("length ratio", table[:, 8:], _length_ratio)]


def _combine(sums: NDArray[np.float64], n: int, penalty: bool) -> NDArray[np.float64]:
    """Sums [..., 10] -> BLEU-n in percent: the geometric mean of the precisions of 1- to n-grams, times the penalty."""
    precisions = (sums[..., 0 : 2 * n : 2] + TINY) / (sums[..., 1 : 2 * n : 2] + SMALL)
    score = 100 * precisions.prod(-1) ** (1 / n)
    if penalty:
        score = score * np.exp(np.minimum(0, 1 - (sums[..., 9] + SMALL) / (sums[..., 8] + TINY)))
    return np.asarray(score)


def _length_ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Words written over words of the references closest in length; a plain ratio, not in percent."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))
