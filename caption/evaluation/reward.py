"""Rewards of single captions, fast enough for training: CIDEr-D or BLEU-4 of word numbers.

CIDEr-D is that of `cider`, with the document frequencies of the training split. BLEU-4 of a sentence is smoothed: for
n > 1, one is added to the n-grams found and to all n-grams (Lin and Och, 2004); one without a common 4-gram would have
0 otherwise.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from caption.evaluation.cider import SIGMA

Gram = tuple[int, ...]
Kind = Literal["cider_d", "bleu_4"]


def _grams(caption: Sequence[int]) -> list[Counter[Gram]]:
    """How often each n-gram stands in a caption, for n = 1 to 4."""
    words = tuple(caption)
    return [Counter(words[i : i + n] for i in range(len(words) - n + 1)) for n in (1, 2, 3, 4)]


class Reward:
    """How good captions are, each from 0: CIDEr-D, 10 at most, or BLEU-4, 1 at most."""

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], kind: Kind) -> None:
        """`references` of every image, as word numbers; <end> counts as a word, or captions would not learn to end."""
        self.references = references
        self.score = self._cider_d if kind == "cider_d" else _bleu_4
        self.images = math.log(max(1, len(references)))
        self.frequency: Counter[Gram] = Counter()  # of images in whose references an n-gram stands
        if kind == "cider_d":
            for several in references:
                self.frequency.update({gram for one in several for grams in _grams(one) for gram in grams})

    def __call__(self, image: int, captions: Sequence[Sequence[int]]) -> list[float]:
        """Of captions, word numbers, for an image, by its number in `references`; 0 without references."""
        references = self.references[image]
        return self.score(references, captions) if references else [0.0] * len(captions)

    def _weighted(self, grams: Counter[Gram]) -> Iterator[tuple[Gram, float]]:
        """tf-idf of every n-gram."""
        for gram, times in grams.items():
            yield gram, times * (self.images - math.log(max(1, self.frequency[gram])))

    def _cider_d(self, references: Sequence[Sequence[int]], captions: Sequence[Sequence[int]]) -> list[float]:
        # For n = 1 to 4: the references that an n-gram stands in, with its weight there; and their vectors' lengths.
        known: list[dict[Gram, list[tuple[int, float]]]] = [defaultdict(list) for _ in range(4)]
        norms = [[0.0] * len(references) for _ in range(4)]
        for number, reference in enumerate(references):
            for n, grams in enumerate(_grams(reference)):
                for gram, weight in self._weighted(grams):
                    known[n][gram].append((number, weight))
                    norms[n][number] += weight**2
        scores = []
        for caption in captions:
            penalty = [math.exp(-((len(caption) - len(one)) ** 2) / (2 * SIGMA**2)) for one in references]
            total = 0.0
            for n, grams in enumerate(_grams(caption)):
                weights = dict(self._weighted(grams))
                norm = sum(weight**2 for weight in weights.values())
                similar = [0.0] * len(references)
                for gram, weight in weights.items():
                    for number, other in known[n].get(gram, ()):
                        similar[number] += min(weight, other) * other
                for product, other, damp in zip(similar, norms[n], penalty, strict=True):
                    if product:
                        total += damp * product / math.sqrt(norm * other)
            scores.append(10 / 4 * total / len(references))
        return scores


def _bleu_4(references: Sequence[Sequence[int]], captions: Sequence[Sequence[int]]) -> list[float]:
    most: dict[Gram, int] = {}  # how often an n-gram stands in the reference that has it most often
    for reference in references:
        for grams in _grams(reference):
            for gram, times in grams.items():
                most[gram] = max(times, most.get(gram, 0))
    scores = []
    for caption in captions:
        length, logs = len(caption), 0.0
        for n, grams in enumerate(_grams(caption)):
            found = sum(min(times, most.get(gram, 0)) for gram, times in grams.items())
            smooth = n > 0
            if not found + smooth:
                logs = -math.inf
                break
            logs += math.log((found + smooth) / (max(0, length - n) + smooth))
        closest = min((abs(len(one) - length), len(one)) for one in references)[1]
        scores.append(math.exp(logs / 4 + min(0.0, 1 - closest / max(1, length))))
    return scores
