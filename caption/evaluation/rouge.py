"""ROUGE-L (Lin, 2004) as COCO's server computes it."""

from collections.abc import Sequence

from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.ngrams import Words

BETA = 1.2  # recall counts beta squared times as much as precision


def rouge_l(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Score:
    """Return the F-measure of the longest common subsequence, with the best precision and the best recall over an
    image's references."""
    return mean_score("ROUGE-L", [_f_measure(*pair) for pair in zip(references, captions, strict=True)])


def _f_measure(references: Sequence[Words], caption: Words) -> float:
    common = _common_lengths(caption, references)
    precision = max(common) / max(1, len(caption))
    recall = max(length / max(1, len(reference)) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_lengths(caption: Words, references: Sequence[Words]) -> list[int]:
    """Return the length of the longest common subsequence with each reference.

    A row of the usual dynamic-programming table is one integer with a bit per word of the caption; its zero bits mark
    where the length grows. A word of the reference updates it by one addition with carry (Crochemore et al., 2001;
    Hyyrö, 2004).
    """
    positions: dict[str, int] = {}
    for i, word in enumerate(caption):
        positions[word] = positions.get(word, 0) | 1 << i
    all_bits = (1 << len(caption)) - 1
    lengths = []
    for reference in references:
        row = all_bits
        for word in reference:
            matches = row & positions.get(word, 0)
            row = (row + matches) | (row - matches)
        lengths.append(len(caption) - (row & all_bits).bit_count())
    return lengths
