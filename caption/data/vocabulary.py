"""The vocabulary, which gives every word an index."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from caption.data.words import WORDS, tokenise

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")


class Vocabulary:
    """A list of words, whose first four are the special ones: padding, start, end and unknown (indices 0 to 3)."""

    def __init__(self, words: Sequence[str], word_kind: str = "ptb") -> None:
        """`word_kind` is one of WORDS. Raises ValueError if it is not, the special words are not the first four, a word
        occurs twice, or one is no text."""
        if word_kind not in WORDS:
            raise ValueError(f"words are one of {', '.join(WORDS)}, not {word_kind!r}")
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a vocabulary is a list of words, and of nothing else")
        if tuple(words[:4]) != SPECIALS:
            raise ValueError(f"a vocabulary begins with {SPECIALS}, this one with {tuple(words[:4])}")
        if len(set(words)) != len(words):
            raise ValueError("a word occurs twice in the vocabulary")
        self.words, self.word_kind = list(words), word_kind
        self.word_to_index = {word: index for index, word in enumerate(self.words)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1, word_kind: str = "ptb") -> "Vocabulary":
        """Return the vocabulary of the words counted at least `min_count` times, the most frequent first."""
        frequent = sorted((word for word in counts if counts[word] >= min_count), key=lambda w: (-counts[w], w))
        return cls([*SPECIALS, *frequent], word_kind)

    @classmethod
    def from_checkpoint(cls, content: Mapping[str, Any]) -> "Vocabulary":
        """Return the vocabulary of the model whose checkpoint has this content."""
        return cls(content["vocabulary"], content.get("words", "ptb"))  # older ones know no other kind

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the index of every word, without <start> and <end>."""
        return [self.word_to_index.get(word, UNKNOWN) for word in words]

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Return the word of every index, without padding, <start> and <end>."""
        return [self.words[index] for index in indices if index not in (PAD, START, END)]

    def tokenise(self, text: str) -> list[str]:
        """Return the words of a caption; see `words.tokenise`."""
        return tokenise(text, self.word_kind)

    @property
    def separator(self) -> str:
        """Return what stands between two words of a text: a space, or nothing between characters."""
        return WORDS[self.word_kind].separator

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order: vocabularies with equal digests have equal indices."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
