"""When the model looks: how much the image counts for words of one kind, and for single words, by the decoder's gate.

The gate of a word (`AttentionOutput.gate`) is the factor of the context when the word was written: beta_t of Show,
Attend and Tell, 1 - beta_t of adaptive attention with its sentinel.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score
from caption.evaluation.ngrams import Words

LISTED = 10  # words with the highest means, and as many with the lowest
MIN_COUNT = 20  # occurrences from which on a word may be listed

CONTENT_WORDS = "content words"  # the kind of words that have no other
# English words of the closed classes, which a sentence needs more than an image does: a list, since nothing is tagged.
FUNCTION_WORDS = frozenset(
    "a an the this that these those some any each every another other both all "  # determiners
    "i me my you your he him his she her it its we us our they them their who whose which what there "  # pronouns
    "about above across after against along among around as at before behind below beneath beside between beyond by "
    "down during for from in inside into near of off on onto out outside over past through to toward towards under up "
    "upon with within without "  # prepositions and particles
    "and or but nor so if while than because when where "  # conjunctions
    "am is are was were be been being has have had having do does did can could will would may might must should "
    "not no n't".split()
)


def gate_scores(
    captions: Sequence[Words], gates: Sequence[NDArray[np.floating]], kinds: Mapping[str, str]
) -> list[Score]:
    """Return the mean gate, in percent, of all words, of the words of each kind, and of single words.

    `gates` are [T] for each caption. `kinds` names the kind of a word, and all others are "content words"; without any,
    kinds are left out. Single words are the LISTED with the highest means and the LISTED with the lowest, of those that
    occur MIN_COUNT times or more.
    """
    counts = Counter(word for words in captions for word in words)
    members: dict[str, set[str]] = {}
    for word in counts if kinds else ():
        members.setdefault(kinds.get(word, CONTENT_WORDS), set()).add(word)
    by_kind = _ranked([_mean_gate(kind, captions, gates, words) for kind, words in members.items()])
    frequent = [word for word, count in counts.items() if count >= MIN_COUNT]
    by_word = _ranked([_mean_gate(f'"{word}"', captions, gates, {word}) for word in frequent])
    lowest = by_word[LISTED:][-LISTED:]
    return [_mean_gate("all words", captions, gates, counts), *by_kind, *by_word[:LISTED], *lowest]


def _mean_gate(
    label: str, captions: Sequence[Words], gates: Sequence[NDArray[np.floating]], wanted: Container[str]
) -> Score:
    """Return the mean gate of the wanted words as a score, in a row of its own in the column "gate"."""
    table = np.zeros((len(captions), 2))
    for sums, words, values in zip(table, captions, gates, strict=True):
        found = [float(value) for word, value in zip(words, values, strict=True) if word in wanted]
        sums[:] = sum(found), len(found)
    return Score(f"{label}, gate", table)


def _ranked(scores: Sequence[Score]) -> list[Score]:
    """Return scores from the highest to the lowest."""
    return sorted(scores, key=lambda score: -score.value)
