"""The tokeniser, and the vocabulary that gives every word an index."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")

# A possessive 's is a word, as in the Penn Treebank; hyphenated words and contractions are not split.
_WORD = re.compile(r"'s\b|[^\W_]+(?:[-'](?!s\b)[^\W_]+)*")


def tokenise(text: str) -> list[str]:
    """Return the lower-case words of a caption, without punctuation.

    >>> tokenise("A man's T-shirt, 2 dogs.")
    ['a', 'man', "'s", 't-shirt', '2', 'dogs']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


class Vocabulary:
    """A list of words, whose first four are the special ones: padding, start, end and unknown (indices 0 to 3)."""

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ValueError if the special words are not the first four, a word occurs twice, or one is no text."""
        if not all(isinstance(word, str) for word in words):
            raise ValueError("a vocabulary is a list of words, and of nothing else")
        if tuple(words[:4]) != SPECIALS:
            raise ValueError(f"a vocabulary begins with {SPECIALS}, this one with {tuple(words[:4])}")
        if len(set(words)) != len(words):
            raise ValueError("a word occurs twice in the vocabulary")
        self.words = list(words)
        self.word_to_index = {word: index for index, word in enumerate(self.words)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1) -> "Vocabulary":
        """Return the vocabulary of the words counted at least `min_count` times, the most frequent first."""
        frequent = sorted((word for word in counts if counts[word] >= min_count), key=lambda w: (-counts[w], w))
        return cls([*SPECIALS, *frequent])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the index of every word, without <start> and <end>."""
        return [self.word_to_index.get(word, UNKNOWN) for word in words]

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Return the word of every index, without padding, <start> and <end>."""
        return [self.words[index] for index in indices if index not in (PAD, START, END)]

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order: vocabularies with equal digests have equal indices."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
