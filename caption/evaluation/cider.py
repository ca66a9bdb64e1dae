"""CIDEr-D (Vedantam et al., 2015), as COCO's server computes it; times 100, as papers print it."""

from collections.abc import Iterable, Sequence

import numpy as np

from caption.evaluation.bootstrap import Score, mean
from caption.evaluation.ngrams import Counts, NGrams, Words, look_up

SIGMA = 6.0  # n-grams: how much the lengths of caption and reference may differ


def cider_d(references: Sequence[Sequence[Words]], captions: Sequence[Words], ngrams: Iterable[NGrams]) -> Score:
    """Similarity of tf-idf vectors of n-grams, averaged over a picture's references and n = 1 to 4, times 10.

    The weights come from the references of these very pictures: a picture alone, or another choice of pictures, scores
    otherwise.
    """
    count = len(captions)
    sizes = np.array([len(several) for several in references])
    group = np.repeat(np.arange(count), sizes)  # the picture of each reference
    # COCO's code measures a caption's length in bigrams.
    length = np.array([max(0, len(caption) - 1) for caption in captions])
    other = np.array([max(0, len(reference) - 1) for several in references for reference in several])
    penalty = np.exp(-((length[group] - other) ** 2) / (2 * SIGMA**2))
    similar = np.zeros(len(group))
    for written, known, number in ngrams:
        seen = np.unique(group[known.text] * number + known.gram)  # picture and n-gram, however many references
        frequency = np.bincount(seen % number if number else seen, minlength=number)
        idf = np.log(max(1, count)) - np.log(np.maximum(1, frequency))
        h, r = written.times * idf[written.gram], known.times * idf[known.gram]
        partner = look_up(written.text * number + written.gram, h, group[known.text] * number + known.gram)
        product = np.bincount(known.text, np.minimum(partner, r) * r, len(group))
        norms = _norm(written, h, count)[group] * _norm(known, r, len(group))
        similar += np.divide(product, norms, out=np.zeros(len(group)), where=norms > 0) * penalty
    return mean("CIDEr-D", 10 / 4 * np.bincount(group, similar, count) / sizes)


def _norm(counts: Counts, weights: np.ndarray, texts: int) -> np.ndarray:
    return np.sqrt(np.bincount(counts.text, weights**2, texts))
