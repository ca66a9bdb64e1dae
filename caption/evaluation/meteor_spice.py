"""METEOR (Denkowski and Lavie, 2014) and SPICE (Anderson et al., 2016) by the official programs, if Java is there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score, mean
from caption.evaluation.ngrams import Words

INSTALL = "install Java (Debian: default-jre-headless) and `pip install pycocoevalcap`"

# METEOR 1.5's parameters for English ranking: weights of exact, stem, synonym and paraphrase matches; of recall; the
# exponent and the weight of fragmentation; of content words against function words.
STAGES = (1.0, 0.6, 0.8, 0.6)
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75


def meteor_spice(references: Sequence[Sequence[Words]], captions: Sequence[Words]) -> tuple[list[Score], list[str]]:
    """METEOR and SPICE of tokenised captions, as they can be had, and a line for each that cannot, with the remedy."""
    scores: list[Score] = []
    if shutil.which("java") is None:
        return scores, [f"METEOR and SPICE are left out: there is no java here; {INSTALL}"]
    try:
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.spice import spice
    except ImportError:
        return scores, [f"METEOR and SPICE are left out: pycocoevalcap is not installed; {INSTALL}"]
    known = {i: [" ".join(reference) for reference in several] for i, several in enumerate(references)}
    written = {i: [" ".join(caption)] for i, caption in enumerate(captions)}
    missing = []
    try:
        program = Meteor()
        counts = [[float(x) for x in program._stat(written[i][0], known[i]).split()] for i in known]
        scores.append(Score("METEOR", _meteor_parts(counts), _meteor))
    except (OSError, ValueError) as error:
        missing.append(f"METEOR is left out: its program failed ({error}); {INSTALL}")
    folder = Path(spice.__file__).parent / "lib"
    if not all((folder / f"stanford-corenlp-3.6.0{part}.jar").is_file() for part in ("", "-models")):
        return scores, [
            *missing,
            "SPICE is left out: it needs the two jars of Stanford CoreNLP 3.6.0 (400 MB); take them out of "
            f"https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip and put them into {folder}",
        ]
    try:
        each = spice.Spice().compute_score(known, written)[1]
        scores.append(mean("SPICE", np.nan_to_num([picture["All"]["f"] for picture in each])))
    except Exception as error:  # whatever its program says
        missing.append(f"SPICE is left out: its program failed ({error}); it wants Java 8")
    return scores, missing


def _meteor_parts(counts: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The program's 23 counts of each picture [N, 23]; a caption equal to its reference counts as unbroken. Raises
    ValueError when it told something else."""
    parts = np.array(counts, np.float64).reshape(len(counts), 23)
    equal = (parts[:, 20] == 1) & (parts[:, 21] == parts[:, 0]) & (parts[:, 22] == parts[:, 1])
    parts[equal, 20] = 0
    return parts


def _meteor(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of counts [..., 23] -> METEOR in percent.

    In their order: words of caption and reference; function words of both; for each stage matched content words of
    both and matched function words of both; chunks; matched words of both. The program has the same formula, but tells
    only the score of all pictures and of each; here it serves the bootstrap, too.
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
    fragments = 2 * sums[..., 20] / np.maximum(sums[..., 21] + sums[..., 22], 1e-9)
    return np.asarray(100 * (1 - GAMMA * fragments**BETA) * harmonic)
