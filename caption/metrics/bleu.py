"""Corpus BLEU (Papineni et al., 2002), from 0 to 100."""

import warnings
from collections.abc import Sequence

from nltk.translate.bleu_score import brevity_penalty, closest_ref_length, corpus_bleu

WEIGHTS = [tuple([1 / n] * n) for n in (1, 2, 3, 4)]


def bleu(references: Sequence[Sequence[Sequence[str]]], captions: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to 4 of tokenised captions against all references of their picture.

    "BLEU-n" has the brevity penalty, "BLEU-n without BP" has not (the paper reports the latter); "length ratio" is
    words written over words of the references closest in length.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns when no n-gram matches; the score is then 0 to any digit shown
        scores = corpus_bleu(references, captions, weights=WEIGHTS)
    written = sum(map(len, captions))
    wanted = sum(closest_ref_length(group, len(caption)) for group, caption in zip(references, captions, strict=True))
    penalty = brevity_penalty(wanted, written) or 1.0
    return {
        **{f"BLEU-{n}": 100 * score for n, score in enumerate(scores, 1)},
        **{f"BLEU-{n} without BP": 100 * score / penalty for n, score in enumerate(scores, 1)},
        "length ratio": written / wanted,
    }
