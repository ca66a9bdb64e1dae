"""Words and their numbers."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")

# A possessive 's stands alone, as in the Penn Treebank; a hyphenated word and a contraction stay whole.
_WORD = re.compile(r"'s\b|[^\W_]+(?:[-'](?!s\b)[^\W_]+)*")


def tokenise(text: str) -> list[str]:
    """Lower-case words of a caption, without punctuation.

    >>> tokenise("A man's T-shirt, 2 dogs.")
    ['a', 'man', "'s", 't-shirt', '2', 'dogs']
    """
    return _WORD.findall(text.lower().replace("’", "'"))


class Vocabulary:
    """A list of words, the four special ones first: padding, start, end and unknown have the numbers 0 to 3."""

    def __init__(self, words: Sequence[str]) -> None:
        if tuple(words[:4]) != SPECIALS:
            raise ValueError(f"a vocabulary begins with {SPECIALS}, this one with {tuple(words[:4])}")
        if len(set(words)) != len(words):
            raise ValueError("a word stands twice in the vocabulary")
        self.words = list(words)
        self.numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def count(cls, counts: Mapping[str, int], min_count: int = 1) -> "Vocabulary":
        """The words that were counted at least `min_count` times, the most frequent first."""
        kept = sorted((word for word in counts if counts[word] >= min_count), key=lambda w: (-counts[w], w))
        return cls([*SPECIALS, *kept])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        """Numbers of words, without start and end."""
        return [self.numbers.get(word, UNKNOWN) for word in words]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Words of numbers; padding, start and end are left out."""
        return [self.words[number] for number in numbers if number not in (PAD, START, END)]

    @property
    def digest(self) -> str:
        """SHA-256 of the words in order: equal digests, equal numbering."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
