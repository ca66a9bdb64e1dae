"""ROUGE-L (Lin, 2004), as COCO's server computes it."""

from collections.abc import Sequence

from caption.evaluation.bootstrap import Score, mean
from caption.evaluation.ngrams import Words

BETA = 1.2  # recall counts beta squared times as much as precision


def rouge_l(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Score:
    """The F-measure of the longest common subsequence; best precision and best recall over a picture's references."""
    return mean("ROUGE-L", [_one(several, caption) for several, caption in zip(references, captions, strict=True)])


def _one(references: Sequence[Words], caption: Words) -> float:
    common = _common_lengths(caption, references)
    precision = max(common) / max(1, len(caption))
    recall = max(length / max(1, len(reference)) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_lengths(caption: Words, references: Sequence[Words]) -> list[int]:
    """Length of the longest common subsequence with each reference.

    The caption is a row of bits; a row of the usual table is one integer whose zeros mark where the length grows, and
    a word of the reference moves it on by an addition with carry (Crochemore et al., 2001; Hyyrö, 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(caption):
        places[word] = places.get(word, 0) | 1 << i
    everywhere = (1 << len(caption)) - 1
    lengths = []
    for reference in references:
        row = everywhere
        for word in reference:
            matches = row & places.get(word, 0)
            row = (row + matches) | (row - matches)
        lengths.append(len(caption) - (row & everywhere).bit_count())
    return lengths
