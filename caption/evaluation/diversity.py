"""How varied captions are, and how new: what similarity to references does not tell."""

from collections.abc import Iterable, Sequence

from caption.evaluation.ngrams import Words


def diversity(captions: Sequence[Words], training: Iterable[Words] | None) -> dict[str, float]:
    """Tokenised captions -> words used, mean length, and in percent of the captions: those that are different, those
    that no training caption equals (left out without training captions)."""
    texts = [tuple(caption) for caption in captions]
    found: dict[str, float] = {
        "distinct captions": 100 * len(set(texts)) / max(1, len(texts)),
        "vocabulary used": len({word for text in texts for word in text}),
        "mean length": sum(map(len, texts)) / max(1, len(texts)),
    }
    if training is not None:
        known = {tuple(caption) for caption in training}
        found["not in training"] = 100 * sum(text not in known for text in texts) / max(1, len(texts))
    return found
