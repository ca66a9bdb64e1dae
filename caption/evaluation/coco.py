"""Tokenise captions for the scores: as COCO's caption server does before it computes BLEU, METEOR, ROUGE-L, CIDEr-D and
SPICE, or as the vocabulary does where its words are not made for English."""

import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from caption.data.vocabulary import SPECIALS, UNKNOWN
from caption.data.words import normalise
from caption.data.words import tokenise as split_words
from caption.evaluation.ngrams import Words
from caption.evaluation.ptb import tokenise


class TokenisedCaptions(NamedTuple):
    """The tokens of N images' references and of one caption for each."""

    references: list[list[Words]]
    captions: list[Words]


def tokenise_captions(
    references: Sequence[Sequence[str]], captions: Sequence[str], word_kind: str = "ptb"
) -> TokenisedCaptions:
    """Tokenise the references of each image and the caption written for it; `word_kind` is one of WORDS."""
    split = partial(_split, word_kind=word_kind)
    return TokenisedCaptions([[split(text) for text in texts] for texts in references], [split(c) for c in captions])


def _split(text: str, word_kind: str) -> Words:
    """Return the server's tokens of a text, in the spelling in which a model writes it, split at every space: a few,
    such as "1 1/2", contain one, and the server's scorers split them. Of words that are not ptb, return the
    vocabulary's, and <unknown> as the one token that it is to the server."""
    if word_kind != "ptb":
        parts = re.split(f"({SPECIALS[UNKNOWN]})", text)
        return [word for i, part in enumerate(parts) for word in ([part] if i % 2 else split_words(part, word_kind))]
    return " ".join(tokenise(normalise(text))).split()
