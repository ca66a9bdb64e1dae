"""Tokenise captions as COCO's caption server does before it computes BLEU, METEOR, ROUGE-L, CIDEr-D and SPICE."""

from collections.abc import Sequence
from typing import NamedTuple

from caption.data.vocabulary import normalise
from caption.evaluation.ngrams import Words
from caption.evaluation.ptb import tokenise


class TokenisedCaptions(NamedTuple):
    """The server's tokens of N images' references and of one caption for each."""

    references: list[list[Words]]
    captions: list[Words]


def tokenise_captions(references: Sequence[Sequence[str]], captions: Sequence[str]) -> TokenisedCaptions:
    """Tokenise the references of each image and the caption written for it."""
    return TokenisedCaptions([[_split(text) for text in texts] for texts in references], [_split(c) for c in captions])


def _split(text: str) -> Words:
    """Return the server's tokens of a text, in the spelling in which a model writes it, split at every space: a few,
    such as "1 1/2", contain one, and the server's scorers split them."""
    return " ".join(tokenise(normalise(text))).split()
