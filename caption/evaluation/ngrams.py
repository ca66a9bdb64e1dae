"""Count the n-grams of all captions of a split at once, for BLEU and CIDEr-D."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = Sequence[str]
Integers = NDArray[np.int64]


class Counts(NamedTuple):
    """Counts of each n-gram in each text: one row per pair that occurs, sorted by text, then n-gram."""

    text: Integers
    gram: Integers  # numbered from 0
    times: Integers


class NGrams(NamedTuple):
    """The n-grams of one length n in captions and references; both number n-grams alike."""

    captions: Counts  # text: the image
    references: Counts  # text: the reference, numbered over all images
    distinct: int  # number of different n-grams


def count_ngrams(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Iterator[NGrams]:
    """Yield the n-grams for n = 1, 2, 3, 4 of one caption per image and the references of each image."""
    texts = [*captions, *(reference for group in references for reference in group)]
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for text in texts for word in text], np.int64)
    text = np.repeat(np.arange(len(texts)), [len(text) for text in texts])  # the text of each word
    gram, distinct = words, len(numbers)  # the n-gram that begins at each word; -1 where the text ends before it does
    for n in (1, 2, 3, 4):
        if n > 1:  # an n-gram is an (n-1)-gram and one more word of the same text
            starts = np.flatnonzero(text[n - 1 :] == text[: len(text) - n + 1])
            following = words[starts + n - 1]
            longer = np.full_like(gram, -1)
            unique, longer[starts] = np.unique(gram[starts] * len(numbers) + following, return_inverse=True)
            gram, distinct = longer, len(unique)
        complete = gram >= 0
        pairs, count = np.unique(text[complete] * max(distinct, 1) + gram[complete], return_counts=True)
        row_text, row_gram = np.divmod(pairs, max(distinct, 1))
        end = np.searchsorted(row_text, len(captions))
        yield NGrams(
            Counts(row_text[:end], row_gram[:end], count[:end]),
            Counts(row_text[end:] - len(captions), row_gram[end:], count[end:]),
            distinct,
        )


def look_up(keys: Integers, values: NDArray[np.float64], wanted: Integers) -> NDArray[np.float64]:
    """Return the values of the wanted keys, 0 for missing ones; `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted))
    positions = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[positions] == wanted, values[positions], 0)
