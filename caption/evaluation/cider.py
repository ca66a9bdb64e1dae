"""CIDEr-D (Vedantam et al., 2015) as COCO's server computes it; times 100, as papers print it."""

from collections.abc import Iterable, Sequence

import numpy as np

from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.ngrams import Counts, NGrams, Words, look_up

SIGMA = 6.0  # of the Gaussian length penalty


def cider_d(references: Sequence[Sequence[Words]], captions: Sequence[Words], ngrams: Iterable[NGrams]) -> Score:
    """Return the similarity of tf-idf vectors of n-grams, averaged over an image's references and n = 1 to 4, times 10.

    Document frequencies come from the references of these very images, so a subset of the images scores differently.
    """
    count = len(captions)
    sizes = np.array([len(texts) for texts in references])
    group = np.repeat(np.arange(count), sizes)  # image of each reference
    # COCO's code measures a caption's length in bigrams.
    length = np.array([max(0, len(caption) - 1) for caption in captions])
    reference_length = np.array([max(0, len(reference) - 1) for texts in references for reference in texts])
    penalty = np.exp(-((length[group] - reference_length) ** 2) / (2 * SIGMA**2))
    similarity = np.zeros(len(group))
    for in_captions, in_references, distinct in ngrams:
        key = group[in_references.text] * distinct + in_references.gram
        seen = np.unique(key)  # pairs of image and n-gram, whatever the number of references
        frequency = np.bincount(seen % distinct if distinct else seen, minlength=distinct)
        idf = np.log(max(1, count)) - np.log(np.maximum(1, frequency))
        h, r = in_captions.times * idf[in_captions.gram], in_references.times * idf[in_references.gram]
        matching = look_up(in_captions.text * distinct + in_captions.gram, h, key)
        product = np.bincount(in_references.text, np.minimum(matching, r) * r, len(group))
        norms = _norm(in_captions, h, count)[group] * _norm(in_references, r, len(group))
        similarity += np.divide(product, norms, out=np.zeros(len(group)), where=norms > 0) * penalty
    return mean_score("CIDEr-D", 10 / 4 * np.bincount(group, similarity, count) / sizes)


def _norm(counts: Counts, weights: np.ndarray, texts: int) -> np.ndarray:
    """Return the Euclidean norm of each text's tf-idf vector [texts]."""
    return np.sqrt(np.bincount(counts.text, weights**2, texts))
