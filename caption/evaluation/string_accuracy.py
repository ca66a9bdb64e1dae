"""Is a string read right? For captions that are strings, a word a character."""

from collections.abc import Sequence

import numpy as np
from nltk import edit_distance

from caption.evaluation.bootstrap import Score
from caption.evaluation.ngrams import Words


def is_string_set(references: Sequence[Sequence[Words]]) -> bool:
    """Whether captions are strings: every picture has one, and all its words are single characters."""
    return all(len(texts) == 1 and all(len(word) == 1 for word in texts[0]) for texts in references)


def string_accuracy(written: Sequence[Words], references: Sequence[Words]) -> list[Score]:
    """Of what was read and the string that is there, characters of each picture, in percent.

    Exact match: pictures of which every character is right. Character error rate: insertions, deletions and
    substitutions (Levenshtein's distance) over all strings, divided by all their characters; more than 100 where too
    much is written.
    """
    edits = [edit_distance(ours, right) for ours, right in zip(written, references, strict=True)]
    ones = np.ones(len(edits))
    exact = np.array([edit == 0 for edit in edits], np.float64)
    lengths = np.array([len(right) for right in references], np.float64)
    return [
        Score("exact match", np.stack([exact, ones], 1)),
        Score("character error rate", np.stack([np.array(edits, np.float64), lengths], 1)),
    ]
