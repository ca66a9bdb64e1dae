"""The entropy of attention."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Score, ratio


def attention_entropy(weights: Sequence[NDArray[np.floating]]) -> Score:
    """Return the mean entropy of the attention [T, L] of each caption, in nats per word."""
    logs = [np.log(w, where=w > 0, out=np.zeros_like(w)) for w in weights]
    sums = [[-float((w * log).sum()), len(w)] for w, log in zip(weights, logs, strict=True)]
    return Score("attention entropy", np.array(sums), ratio)
