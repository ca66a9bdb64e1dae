"""Rewards of single captions, fast enough for training: CIDEr-D or BLEU-4 of word numbers.

CIDEr-D is that of `cider`, with document frequencies from the training split. Sentence BLEU-4 is smoothed: for n > 1,
one is added to the matching n-grams and to all n-grams (Lin and Och, 2004), since a caption without a common 4-gram
would score 0 otherwise.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from caption.evaluation.cider import SIGMA

Gram = tuple[int, ...]
Kind = Literal["cider_d", "bleu_4"]


def _grams(caption: Sequence[int]) -> list[Counter[Gram]]:
    """Count the n-grams of a caption for n = 1 to 4."""
    words = tuple(caption)
    return [Counter(words[i : i + n] for i in range(len(words) - n + 1)) for n in (1, 2, 3, 4)]


class Reward:
    """Score captions by CIDEr-D, from 0 to 10, or by BLEU-4, from 0 to 1."""

    def __init__(self, references: Sequence[Sequence[Sequence[int]]], kind: Kind) -> None:
        """Take the references of all images as word numbers, with <end>: otherwise captions would not learn to end."""
        self.references = references
        self.score = self._cider_d if kind == "cider_d" else _bleu_4
        self.log_images = math.log(max(1, len(references)))
        self.frequency: Counter[Gram] = Counter()  # number of images in whose references an n-gram occurs
        if kind == "cider_d":
            for texts in references:
                self.frequency.update({gram for text in texts for grams in _grams(text) for gram in grams})

    def __call__(self, image: int, captions: Sequence[Sequence[int]]) -> list[float]:
        """Return the rewards of captions of an image, given by its number in `references`; 0 if it has none."""
        references = self.references[image]
        return self.score(references, captions) if references else [0.0] * len(captions)

    def _tf_idf(self, grams: Counter[Gram]) -> dict[Gram, float]:
        return {gram: n * (self.log_images - math.log(max(1, self.frequency[gram]))) for gram, n in grams.items()}

    def _cider_d(self, references: Sequence[Sequence[int]], captions: Sequence[Sequence[int]]) -> list[float]:
        # For n = 1 to 4: each n-gram's references with its weight there, and the references' squared norms.
        weights_in: list[dict[Gram, list[tuple[int, float]]]] = [defaultdict(list) for _ in range(4)]
        norms = [[0.0] * len(references) for _ in range(4)]
        for number, reference in enumerate(references):
            for n, grams in enumerate(_grams(reference)):
                for gram, weight in self._tf_idf(grams).items():
                    weights_in[n][gram].append((number, weight))
                    norms[n][number] += weight**2
        scores = []
        for caption in captions:
            penalty = [math.exp(-((len(caption) - len(text)) ** 2) / (2 * SIGMA**2)) for text in references]
            total = 0.0
            for n, grams in enumerate(_grams(caption)):
                weights = self._tf_idf(grams)
                norm = sum(weight**2 for weight in weights.values())
                products = [0.0] * len(references)
                for gram, weight in weights.items():
                    for number, other in weights_in[n].get(gram, ()):
                        products[number] += min(weight, other) * other
                for product, other, factor in zip(products, norms[n], penalty, strict=True):
                    if product:
                        total += factor * product / math.sqrt(norm * other)
            scores.append(10 / 4 * total / len(references))
        return scores


def _bleu_4(references: Sequence[Sequence[int]], captions: Sequence[Sequence[int]]) -> list[float]:
    limits: dict[Gram, int] = {}  # count of an n-gram in the reference that has it most often
    for reference in references:
        for grams in _grams(reference):
            for gram, times in grams.items():
                limits[gram] = max(times, limits.get(gram, 0))
    scores = []
    for caption in captions:
        length, logs = len(caption), 0.0
        for n, grams in enumerate(_grams(caption)):
            matched = sum(min(times, limits.get(gram, 0)) for gram, times in grams.items())
            smooth = n > 0
            if not matched + smooth:
                logs = -math.inf
                break
            logs += math.log((matched + smooth) / (max(0, length - n) + smooth))
        closest = min((abs(len(text) - length), len(text)) for text in references)[1]
        scores.append(math.exp(logs / 4 + min(0.0, 1 - closest / max(1, length))))
    return scores
