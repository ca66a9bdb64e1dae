"""Tokenise captions as the COCO caption server does, without Java.

The server runs the PTBTokenizer of Stanford CoreNLP 3.4.1 with -preserveLines and -lowerCase and then drops the
punctuation marks listed in pycocoevalcap. `tokenise` gives the same tokens: `" ".join(tokenise(caption))` is the string
that is scored. The rules were found by watching what that program prints, not by reading it;
tests/evaluation/test_ptb.py compares both on all captions of Flickr8k and on thousands of lines of stress text.

At each position all rules are tried. The one that reaches farthest wins, including the text that it requires after its
token; among equals, the first.
"""

import re
from functools import lru_cache

from caption.evaluation.ptb_rules import SHAPES, rules

# What pycocoevalcap drops. It compares lower-cased tokens with capital brackets, so that -lrb- and the like survive.
DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def _next_tokens(text: str, shape: str, start: int) -> tuple[list[str], int]:
    """Return the tokens that begin at `start`, mostly one, and where they end."""
    reach, stop, spell = start, start + 1, None
    for pattern, spelling in rules():
        match = pattern.match(shape, start)
        if match and match.end() > reach:
            reach, stop, spell = match.end(), match.end(1), spelling
    words = spell(text[start:stop]).split(" ") if spell else []
    return [word for word in words if word and word not in DROPPED], stop


_BLANK = re.compile("[ \t\n][ \t\n\xa0\u2000]*")
# Text up to the next space that no rule joins with what follows, so that its tokens can be cached.
_INDEPENDENT = re.compile(r"[A-Za-z,'\"!?;:/-]+(?= |$)|[A-Za-z,'\"!?;:/-]*\.$")


@lru_cache(1 << 16)
def _tokenise_independent(text: str) -> tuple[str, ...]:
    tokens: list[str] = []
    position = 0
    while position < len(text):
        new, position = _next_tokens(text, text + "\n", position)
        tokens += new
    return tuple(tokens)


def tokenise(text: str) -> list[str]:
    """Return the tokens of one caption.

    They do not depend on the next caption of a file. The program looks across the end of a line in one case: "plan b."
    loses its full stop where the next caption begins with a word like "A" or "The".

    >>> tokenise("A man's hat, and/or 2 U.S. flags (don't ask).")
    ['a', 'man', "'s", 'hat', 'and/or', '2', 'u.s.', 'flags', '-lrb-', 'do', "n't", 'ask', '-rrb-']
    """
    # A line feed is a space to pycocoevalcap; other line separators end a line here, too.
    text = re.sub("[\v\f\r\u2028\u2029]", "\n", text.replace("\n", " "))
    shape = (text if text.isascii() else text.translate(SHAPES)) + "\n"
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if blank := _BLANK.match(shape, position):
            position = blank.end()
        elif chunk := _INDEPENDENT.match(shape, position):
            tokens += _tokenise_independent(chunk[0])
            position = chunk.end()
        else:
            new, position = _next_tokens(text, shape, position)
            tokens += new
    return tokens
