"""Diversity and novelty of captions, which similarity to references does not measure."""

from collections.abc import Iterable, Sequence

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_manifest
from caption.data.words import tokenise
from caption.evaluation.ngrams import Words

# English words with which no caption ends (the list of Luo's self-critical training, 2018).
BAD_ENDINGS = frozenset("a an the in for at of with before after on upon near to is are am".split())


def diversity(captions: Sequence[Words], training: Iterable[Words] | None, english: bool = True) -> dict[str, float]:
    """Return the number of different words, the mean length, and in percent of the captions: those that differ from one
    another, those that end in the middle ("a man with a"; left out unless `english`), and those that equal no training
    caption (left out when `training` is None)."""
    texts = [tuple(caption) for caption in captions]
    values: dict[str, float] = {
        "distinct captions": 100 * len(set(texts)) / max(1, len(texts)),
        "vocabulary used": len({word for text in texts for word in text}),
        "mean length": sum(map(len, texts)) / max(1, len(texts)),
    }
    if english:
        values["ends badly"] = 100 * sum(text[-1] in BAD_ENDINGS for text in texts if text) / max(1, len(texts))
    if training is not None:
        known = {tuple(caption) for caption in training}
        values["not in training"] = 100 * sum(text not in known for text in texts) / max(1, len(texts))
    return values


def read_training_captions(path: str) -> list[list[str]] | None:
    """Return the words of all captions of a data file's training split, or None if it has no such split."""
    if "train" not in read_manifest(path)["splits"]:
        return None
    train = CaptionDataset(path, "train")
    return [tokenise(text, train.word_kind) for texts in train.references() for text in texts] or None
