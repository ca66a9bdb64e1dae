"""Split captions into words, by one of several tokenisers that a vocabulary may have, and know how to join them."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

# Scripts written without spaces between words: name, letters, and a mean length of words that is one of phrases.
UNSPACED = (
    ("Chinese or Japanese", "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff", 4),
    ("Thai", "\u0e01-\u0e3a\u0e40-\u0e4e", 12),
    ("Lao", "\u0e81-\u0ece", 12),
    ("Burmese", "\u1000-\u103f\u1050-\u108f", 12),
    ("Khmer", "\u1780-\u17d3", 12),
)

_UNSPACED = "".join(letters for _, letters, _ in UNSPACED)

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
_WORD_BREAK = re.compile(f"(?<=[{_UNSPACED}])\u200b")  # in place of a space
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


def _fold(text: str) -> str:
    return normalise(text).lower().replace("’", "'")


def _ptb(text: str) -> list[str]:
    text = _fold(text)
    if text.isascii():
        return _WORD.findall(text)
    return [text[word.start() : word.end()] for word in _WORD.finditer(text.translate(_SHAPES))]


def _unicode(text: str) -> list[str]:
    """Split a text at the default word boundaries of Unicode (UAX #29).

    Scripts without spaces need a dictionary, as that annex says, and have no boundary between two letters here: text
    that was segmented keeps its words.
    """
    return _find("unicode", text)


def _characters(text: str) -> list[str]:
    """Split a text into its grapheme clusters (UAX #29): letters and digits, each with all marks on it."""
    return _find("characters", text)


def _find(word_kind: str, text: str) -> list[str]:
    find = _patterns()[word_kind].findall
    return [part for chunk in _fold(text).split() for part in find(chunk) if any(map(str.isalnum, part))]


@cache
def _patterns() -> dict[str, Any]:
    """Return the patterns of the tokenisers that follow Unicode; English does without `regex`."""
    import regex

    unspaced = f"[[{_UNSPACED}]--\\p{{M}}]"
    after = r"(?<={}[\p{{M}}\u200c\u200d]*)"  # a letter with what is on it
    letter = r"[\p{L}\p{N}]"
    inside = f"{after.format(unspaced)}(?={letter})|{after.format(letter)}(?={unspaced})"
    flags = regex.VERSION1 | regex.DOTALL
    return {
        # Marks of no letter are apart, which older versions of regex join to the next word.
        "unicode": regex.compile(rf"\p{{M}}+|.+?\b(?!{inside})", flags | regex.WORD),
        "characters": regex.compile(r"\X\p{M}*", flags),  # a few marks of Burmese are clusters of their own
    }


class Words(NamedTuple):
    """A tokeniser, and the separator that joins its words to a text."""

    tokenise: Callable[[str], list[str]]
    separator: str  # between two words of a text


WORDS = {"ptb": Words(_ptb, " "), "unicode": Words(_unicode, " "), "characters": Words(_characters, "")}


def tokenise(text: str, word_kind: str = "ptb") -> list[str]:
    """Return the lower-case words of a caption, in one spelling (`normalise`) and without punctuation; `word_kind` is
    one of WORDS.

    >>> tokenise("A man's T-shirt, 2 dogs.")
    ['a', 'man', "'s", 't-shirt', '2', 'dogs']
    >>> tokenise("A man's T-shirt, 2 dogs.", "unicode")
    ['a', "man's", 't', 'shirt', '2', 'dogs']
    >>> tokenise("狗跑。", "characters")
    ['狗', '跑']
    """
    return WORDS[word_kind].tokenise(text)


def unspaced_notice(texts: Iterable[str], word_kind: str) -> str:
    """Return a line on captions in a script without spaces whose words are whole phrases, "" if there are none."""
    if word_kind == "characters":
        return ""
    words = [word for text in texts if not text.isascii() for word in tokenise(text, word_kind)]
    for script, letters, longest in UNSPACED:
        lengths = [len(word) for word in words if re.search(f"[{letters}]", word)]
        if lengths and (mean := sum(lengths) / len(lengths)) >= longest:
            return (
                f"notice: captions in {script} lack spaces, so that a whole phrase counts as one word (of {mean:.0f} "
                "characters, on average), in the vocabulary and in every score; preprocess with --words characters, or "
                "put a space between any two words first, with a segmenter of that language"
            )
    return ""
