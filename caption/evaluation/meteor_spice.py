"""METEOR (Denkowski and Lavie, 2014) and SPICE (Anderson et al., 2016) by the official programs, which need Java."""

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score, mean_score
from caption.evaluation.ngrams import Words

INSTALL = "install Java (Debian: default-jre-headless) and `pip install pycocoevalcap`"

# METEOR 1.5's parameters for English ranking: weights of exact, stem, synonym and paraphrase matches; the weight of
# recall, the exponent and the weight of fragmentation, and the weight of content words against function words.
STAGES = (1.0, 0.6, 0.8, 0.6)
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75


class Unavailable(Exception):
    """A score cannot be computed here; the message says why and what to install."""


def meteor(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Score:
    """Return METEOR of tokenised captions. Raises Unavailable without its program."""
    module = _official("meteor")
    known = [[" ".join(reference) for reference in texts] for texts in references]
    try:
        program = module.Meteor()
        lines = [program._stat(" ".join(caption), texts) for caption, texts in zip(captions, known, strict=True)]
        return Score("METEOR", _statistics([[float(x) for x in line.split()] for line in lines]), _meteor)
    except (OSError, ValueError) as error:
        raise Unavailable(f"METEOR is left out: its program failed ({error}); {INSTALL}") from None


def spice(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> Score:
    """Return SPICE of tokenised captions. Raises Unavailable without its program or its parser's models."""
    module = _official("spice")
    folder = Path(module.__file__).parent / "lib"
    if not all((folder / f"stanford-corenlp-3.6.0{suffix}.jar").is_file() for suffix in ("", "-models")):
        raise Unavailable(
            "SPICE is left out: it needs the two jars of Stanford CoreNLP 3.6.0 (400 MB); take them out of "
            f"https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip and put them into {folder}"
        )
    known = {i: [" ".join(reference) for reference in texts] for i, texts in enumerate(references)}
    written = {i: [" ".join(caption)] for i, caption in enumerate(captions)}
    try:
        results = module.Spice().compute_score(known, written)[1]
        return mean_score("SPICE", np.nan_to_num([result["All"]["f"] for result in results]))
    except Exception as error:  # its program may fail in any way
        raise Unavailable(f"SPICE is left out: its program failed ({error}); it wants Java 8") from None


def _official(score: str) -> Any:
    """Return pycocoevalcap's module of a score. Raises Unavailable, with the same message for both scores, without Java
    or pycocoevalcap."""
    if shutil.which("java") is None:
        raise Unavailable(f"METEOR and SPICE are left out: there is no java here; {INSTALL}")
    try:
        return importlib.import_module(f"pycocoevalcap.{score}.{score}")
    except ImportError:
        raise Unavailable(f"METEOR and SPICE are left out: pycocoevalcap is not installed; {INSTALL}") from None


def _statistics(counts: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return the program's 23 counts of each image [N, 23]; a caption equal to its reference has no fragmentation.
    Raises ValueError when there are not 23."""
    table = np.array(counts, np.float64).reshape(len(counts), 23)
    equal = (table[:, 20] == 1) & (table[:, 21] == table[:, 0]) & (table[:, 22] == table[:, 1])
    table[equal, 20] = 0
    return table


def _meteor(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return METEOR in percent from sums of counts [..., 23].

    The counts are, in this order: words of caption and reference; function words of both; for each stage the matched
    content words of both and the matched function words of both; chunks; matched words of both. The program uses the
    same formula but prints only the scores of all images and of each; the bootstrap needs it for any sums.
    """
    sides = []
    for side in (0, 1):  # caption: precision; reference: recall
        matched = sum(
            weight * (DELTA * sums[..., 4 + 4 * k + side] + (1 - DELTA) * sums[..., 6 + 4 * k + side])
            for k, weight in enumerate(STAGES)
        )
        function = sums[..., 2 + side]
        sides.append(matched / np.maximum(DELTA * (sums[..., side] - function) + (1 - DELTA) * function, 1e-9))
    precision, recall = sides
    harmonic = precision * recall / np.maximum(ALPHA * precision + (1 - ALPHA) * recall, 1e-9)
    fragmentation = 2 * sums[..., 20] / np.maximum(sums[..., 21] + sums[..., 22], 1e-9)
    return np.asarray(100 * (1 - GAMMA * fragmentation**BETA) * harmonic)
