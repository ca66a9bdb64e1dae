"""Exact match and character error rate, for captions that are strings with one character per word."""

from collections.abc import Sequence

import numpy as np
from nltk import edit_distance

from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.ngrams import Words


def is_string_set(references: Sequence[Sequence[Words]]) -> bool:
    """Return whether the captions are strings: one per image, and every word a single character."""
    return all(len(texts) == 1 and all(len(word) == 1 for word in texts[0]) for texts in references)


def string_accuracy(captions: Sequence[Words], references: Sequence[Words]) -> list[Score]:
    """Return two scores, in percent, of captions against the string in each image.

    Exact match is the fraction of images with every character right. The character error rate is the number of
    insertions, deletions and substitutions (Levenshtein distance) over the number of characters of all references; it
    exceeds 100 where captions are much too long.
    """
    edits = np.array([edit_distance(*pair) for pair in zip(captions, references, strict=True)], np.float64)
    lengths = np.array([len(reference) for reference in references], np.float64)
    return [mean_score("exact match", edits == 0), Score("character error rate", np.stack([edits, lengths], 1))]
