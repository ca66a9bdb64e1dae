"""The tokeniser, and the vocabulary that gives every word an index."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")

# Scripts written without spaces between words: name, letters, and a mean length of words that is one of phrases.
UNSPACED = (
    ("Chinese or Japanese", "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff", 4),
    ("Thai", "\u0e01-\u0e3a\u0e40-\u0e4e", 12),
    ("Lao", "\u0e81-\u0ece", 12),
    ("Burmese", "\u1000-\u103f\u1050-\u108f", 12),
    ("Khmer", "\u1780-\u17d3", 12),
)

# One spelling of a hyphen and of Turkish İ, which Python lowers to i and a dot; and no punctuation that the tokeniser
# of the scores, made for English, counts as words.
_SPELLING = str.maketrans(
    {"İ": "i", "\u2010": "-", "\u2011": "-"}
    | dict.fromkeys("¿¡„‚‟、。・", " ")
    | {chr(code): " " for code in range(0xFF01, 0xFF66) if not chr(code).isalnum()}
)
# Zero-width characters; of the joiners those after Latin, Greek and Cyrillic, since elsewhere they are spelling.
_ZERO_WIDTH = re.compile(
    "[\xad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]|(?<=[\0-\u052f])[\u200c\u200d]"
)
_WORD_BREAK = re.compile(f"(?<=[{''.join(letters for _, letters, _ in UNSPACED)}])\u200b")  # in place of a space
_APOSTROPHE = re.compile(r"(?<=\w)’(?=\w)")


def normalise(text: str) -> str:
    """Return the one spelling of a text by which words are compared, in NFC; text in ASCII stays as it is."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", _ZERO_WIDTH.sub("", _WORD_BREAK.sub(" ", text)))
    return _APOSTROPHE.sub("'", text.translate(_SPELLING).replace("i\u0307", "i"))


class _Shapes(dict[int, str]):
    """Map each mark, such as a vowel sign, to U+0301 and other characters to themselves: `re` has no class of marks."""

    def __missing__(self, code: int) -> str:
        self[code] = shape = "\u0301" if unicodedata.category(chr(code))[0] == "M" else chr(code)
        return shape


_SHAPES = _Shapes()
# Marks belong to their letter, and joiners to the word. A possessive 's is a word, as in the Penn Treebank; hyphenated
# words and contractions are not split.
_WORD = re.compile("'s\\b|[^\\W_](?:[^\\W_]|\u0301)*(?:[-'\u200c\u200d](?!s\\b)(?:[^\\W_]|\u0301)+)*")


def tokenise(text: str) -> list[str]:
    """Return the lower-case words of a caption, in one spelling (`normalise`) and without punctuation.

    >>> tokenise("A man's T-shirt, 2 dogs.")
    ['a', 'man', "'s", 't-shirt', '2', 'dogs']
    """
    text = normalise(text).lower().replace("’", "'")
    if text.isascii():
        return _WORD.findall(text)
    return [text[word.start() : word.end()] for word in _WORD.finditer(text.translate(_SHAPES))]


def unspaced_notice(texts: Iterable[str]) -> str:
    """Return a line on captions in a script without spaces whose words are whole phrases, "" if there are none."""
    words = [word for text in texts if not text.isascii() for word in tokenise(text)]
    for script, letters, longest in UNSPACED:
        lengths = [len(word) for word in words if re.search(f"[{letters}]", word)]
        if lengths and (mean := sum(lengths) / len(lengths)) >= longest:
            return (
                f"notice: captions in {script} lack spaces, so that a whole phrase counts as one word (of {mean:.0f} "
                "characters, on average), in the vocabulary and in every score; put a space between any two words, "
                "with a segmenter of that language, and preprocess again"
            )
    return ""


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
