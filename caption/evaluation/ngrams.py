"""n-grams of all captions of a split, counted at once: what BLEU and CIDEr-D are made of."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = Sequence[str]
Integers = NDArray[np.int64]


class Counts(NamedTuple):
    """How often each n-gram stands in each text; one row for every pair that occurs, sorted by text, then n-gram."""

    text: Integers
    gram: Integers  # numbers from 0
    times: Integers


class NGrams(NamedTuple):
    """The n-grams of one length n, in captions written and in references; n-grams have the same numbers in both."""

    written: Counts  # text: the picture
    references: Counts  # text: the reference, in the order of all pictures' references
    number: int  # of different n-grams


def count_ngrams(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Iterator[NGrams]:
    """For n = 1, 2, 3, 4; `references` holds those of each picture, `captions` the one written for it."""
    texts = [*captions, *(reference for group in references for reference in group)]
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for text in texts for word in text], np.int64)
    text = np.repeat(np.arange(len(texts)), [len(text) for text in texts])  # which text each word stands in
    gram = words  # the n-gram that begins at each word
    for n in (1, 2, 3, 4):
        if n > 1:  # an n-gram is an (n-1)-gram and one more word of the same text
            whole = text[n - 1 :] == text[: len(text) - n + 1]
            starts = np.flatnonzero(whole)
            following = words[starts + n - 1]
            longer = np.full_like(gram, -1)
            distinct, longer[starts] = np.unique(gram[starts] * len(numbers) + following, return_inverse=True)
            gram, number = longer, len(distinct)
        else:
            number = len(numbers)
        there = gram >= 0
        pairs, count = np.unique(text[there] * max(number, 1) + gram[there], return_counts=True)
        row_text, row_gram = np.divmod(pairs, max(number, 1))
        end = np.searchsorted(row_text, len(captions))
        yield NGrams(
            Counts(row_text[:end], row_gram[:end], count[:end]),
            Counts(row_text[end:] - len(captions), row_gram[end:], count[end:]),
            number,
        )


def look_up(keys: Integers, values: NDArray[np.float64], wanted: Integers) -> NDArray[np.float64]:
    """The values of the wanted keys, 0 for those that are not there; `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted))
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
