"""Rewards of single captions, fast enough for training: CIDEr-D or BLEU-4 of word numbers.

CIDEr-D is that of `cider`, with the document frequencies of the training split. BLEU-4 of a sentence is smoothed: for
n > 1, one is added to the n-grams found and to all n-grams (Lin and Och, 2004); one without a common 4-gram would have
0 otherwise.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from caption.metrics.cider import SIGMA

Gram = tuple[int, ...]
Kind = Literal["cider_d", "bleu_4"]


def _grams(caption: Sequence[int]) -> list[Counter[Gram]]:
    """How often each n-gram stands in a caption, for n = 1 to 4."""
    words = tuple(caption)
    return [Counter(words[i : i + n] for i in range(len(words) - n + 1)) for n in (1, 2, 3, 4)]


class Reward:
    """How good a caption is, from 0: CIDEr-D, 10 at most, or BLEU-4, 1 at most.

    What an image's references give is found at the first question for it and kept.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], kind: Kind) -> None:
        """`references` of every image, as word numbers; <end> counts as a word, or captions would not learn to end."""
        self.references, self.kind = references, kind
        self.score = self._cider_d if kind == "cider_d" else self._bleu_4
        self.images = math.log(max(1, len(references)))
        self.frequency: Counter[Gram] = Counter()  # of images in whose references an n-gram stands
        if kind == "cider_d":
            for several in references:
                self.frequency.update({gram for one in several for grams in _grams(one) for gram in grams})
        self._known: dict[int, list[dict[Gram, list[tuple[int, float]]]]] = {}
        self._norms: dict[int, list[list[float]]] = {}

    def __call__(self, image: int, caption: Sequence[int]) -> float:
        """Of a caption, word numbers, for an image, by its number in `references`; 0 without references."""
        return self.score(image, _grams(caption), len(caption)) if self.references[image] else 0.0

    def _weighted(self, grams: Counter[Gram]) -> Iterator[tuple[Gram, float]]:
        """tf-idf of every n-gram."""
        for gram, times in grams.items():
            yield gram, times * (self.images - math.log(max(1, self.frequency[gram])))

    def _prepare(self, image: int) -> None:
        """For n = 1 to 4: which references an n-gram stands in, with its weight there; and their vectors' lengths."""
        known: list[dict[Gram, list[tuple[int, float]]]] = [defaultdict(list) for _ in range(4)]
        norms = [[0.0] * len(self.references[image]) for _ in range(4)]
        for number, reference in enumerate(self.references[image]):
            for n, grams in enumerate(_grams(reference)):
                for gram, weight in self._weighted(grams):
                    known[n][gram].append((number, weight))
                    norms[n][number] += weight**2
        self._known[image] = [dict(each) for each in known]
        self._norms[image] = [[math.sqrt(each) for each in several] for several in norms]

    def _cider_d(self, image: int, caption: list[Counter[Gram]], length: int) -> float:
        if image not in self._known:
            self._prepare(image)
        references = self.references[image]
        penalty = [math.exp(-((length - len(one)) ** 2) / (2 * SIGMA**2)) for one in references]
        total = 0.0
        for grams, known, norms in zip(caption, self._known[image], self._norms[image], strict=True):
            weights = dict(self._weighted(grams))
            norm = math.sqrt(sum(weight**2 for weight in weights.values()))
            similar = [0.0] * len(references)
            for gram, weight in weights.items():
                for number, other in known.get(gram, ()):
                    similar[number] += min(weight, other) * other
            for product, other, damp in zip(similar, norms, penalty, strict=True):
                if product:
                    total += damp * product / (norm * other)
        return 10 / 4 * total / len(references)

    def _bleu_4(self, image: int, caption: list[Counter[Gram]], length: int) -> float:
        references = self.references[image]
        several = [_grams(one) for one in references]
        logs = 0.0
        for n, grams in enumerate(caption):
            found = sum(min(times, max(one[n][gram] for one in several)) for gram, times in grams.items())
            smooth = n > 0
            if not found + smooth:
                return 0.0
            logs += math.log((found + smooth) / (max(0, length - n) + smooth))
        closest = min((abs(len(one) - length), len(one)) for one in references)[1]
        return math.exp(logs / 4 + min(0.0, 1 - closest / length))
