"""The scores of COCO's caption server that need no Java, equal to its own; and how captions are read for them."""

from collections.abc import Sequence
from typing import NamedTuple

from caption.evaluation.bleu import bleu
from caption.evaluation.bootstrap import Score
from caption.evaluation.cider import cider_d
from caption.evaluation.ngrams import Words, count_ngrams
from caption.evaluation.ptb import tokenise
from caption.evaluation.rouge import rouge_l


class Captions(NamedTuple):
    """Captions of some pictures beside their references, in the tokens of the server."""

    hypotheses: list[Words]
    references: list[list[Words]]


def captions_from_text(written: Sequence[str], references: Sequence[Sequence[str]]) -> Captions:
    return Captions([_words(text) for text in written], [[_words(text) for text in texts] for texts in references])


def _words(text: str) -> Words:
    """Tokens parted at every space: a few, such as "1 1/2", have one inside, where the server's scorers cut them."""
    return " ".join(tokenise(text)).split()


def coco_scores(captions: Captions) -> list[Score]:
    """BLEU-1 to 4 (and without brevity penalty, and the length ratio), ROUGE-L, CIDEr-D; from 0 to 100, CIDEr-D to
    1,000."""
    ngrams = list(count_ngrams(captions.references, captions.hypotheses))
    return [
        *bleu(captions.references, captions.hypotheses, ngrams),
        rouge_l(captions.references, captions.hypotheses),
        cider_d(captions.references, captions.hypotheses, ngrams),
    ]
