"""A score that is a function of sums over pictures: its value, its value for one picture, its uncertainty.

Corpus BLEU is such a function, of n-gram counts; a mean over pictures is one, of values and ones; a share of words is
one, of hits and words. So intervals and comparisons are written once, for all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000
ENTRIES = 2_500_000  # pictures times resamples in memory at a time


def ratio(sums: Values) -> Values:
    """[..., 2] -> 100 times the first over the second; not a number where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Values = 100 * sums[..., 0] / sums[..., 1]
    return shares


class Score(NamedTuple):
    """One score of N pictures."""

    name: str
    parts: Values  # [N, K], what each picture adds
    combine: Callable[[Values], Values] = ratio  # sums [..., K] -> the score [...]

    @property
    def value(self) -> float:
        return float(self.combine(self.parts.sum(0)))

    @property
    def per_image(self) -> Values:
        """The score of every picture alone [N]."""
        return self.combine(self.parts)


def quotient(sums: Values) -> Values:
    """[..., 2] -> the first over the second, not in percent."""
    return ratio(sums) / 100


def mean(name: str, values: Sequence[float] | Values) -> Score:
    """The mean of a value in [0, 1] a picture, times 100."""
    column = np.asarray(values, np.float64)
    return Score(name, np.stack([column, np.ones_like(column)], 1))


def intervals(scores: Sequence[Score], seed: int = 1) -> list[tuple[float, float]]:
    """95 % confidence interval of each score by the percentile bootstrap (Efron, 1979; for BLEU Koehn, 2004).

    Pictures are drawn with replacement, the same for all scores; what varies is the choice of pictures, and not the
    training of the model.
    """
    return [_range(values) for values in _resample(scores, seed)]


class Difference(NamedTuple):
    """Of two models on the same pictures, the second minus the first."""

    name: str
    first: float
    second: float
    low: float  # 95 % confidence interval of the difference
    high: float
    p: float  # how often chance alone makes at least such a difference

    @property
    def value(self) -> float:
        return self.second - self.first


def compare(first: Sequence[Score], second: Sequence[Score], seed: int = 1) -> list[Difference]:
    """Are the differences between two models real? The paired bootstrap for intervals, approximate randomisation for
    p: the two models' results are exchanged picture by picture with a chance of one half (Noreen, 1989; Riezler and
    Maxwell, 2005).

    The two hold the same scores in the same order. Raises ValueError when they are not of as many pictures.
    """
    sizes = {len(score.parts) for score in (*first, *second)}
    if len(sizes) > 1:
        raise ValueError(f"scores of {' and '.join(map(str, sorted(sizes)))} pictures cannot be paired")
    drawn = _resample([*first, *second], seed)
    exchanged = _exchange(first, second, seed)
    found = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        low, high = _range(drawn[len(first) + i] - drawn[i])
        chances = exchanged[i][np.isfinite(exchanged[i])]
        extreme = int((np.abs(chances) >= abs(b.value - a.value) - 1e-9).sum())
        p = (extreme + 1) / (len(chances) + 1) if math.isfinite(b.value - a.value) else math.nan
        found.append(Difference(a.name, a.value, b.value, low, high, p))
    return found


def _range(values: Values) -> tuple[float, float]:
    if np.isnan(values).all():  # of no word at all
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _resample(scores: Sequence[Score], seed: int) -> list[Values]:
    """The scores [R] of R samples of the pictures, each as large as the set itself."""
    generator, count = np.random.default_rng(seed), len(scores[0].parts)
    tables = {id(score.parts): score.parts for score in scores}  # BLEU's are all one
    results: list[list[Values]] = [[] for _ in scores]
    for chunk in _chunks(count):
        drawn = generator.integers(count, size=(chunk, count)) + count * np.arange(chunk)[:, None]
        times = np.bincount(drawn.ravel(), minlength=chunk * count).reshape(chunk, count).astype(np.float64)
        sums = {key: times @ table for key, table in tables.items()}  # how often each picture is drawn, times its part
        for result, score in zip(results, scores, strict=True):
            result.append(score.combine(sums[id(score.parts)]))
    return [np.concatenate(result) for result in results]


def _exchange(first: Sequence[Score], second: Sequence[Score], seed: int) -> list[Values]:
    """Differences [R] of every score after R random exchanges of pictures between the two models."""
    generator, count = np.random.default_rng(seed), len(first[0].parts)
    pairs = {id(a.parts): (a.parts, b.parts) for a, b in zip(first, second, strict=True)}
    results: list[list[Values]] = [[] for _ in first]
    for chunk in _chunks(count):
        swapped = (generator.random((chunk, count)) < 0.5).astype(np.float64)
        gained = {key: swapped @ (b - a) for key, (a, b) in pairs.items()}  # by the first; the second loses it
        for result, a, b in zip(results, first, second, strict=True):
            gain = gained[id(a.parts)]
            result.append(b.combine(b.parts.sum(0) - gain) - a.combine(a.parts.sum(0) + gain))
    return [np.concatenate(result) for result in results]


def _chunks(pictures: int) -> list[int]:
    """All resamples, as many at a time as memory is set aside for."""
    size = min(RESAMPLES, max(1, ENTRIES // pictures))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
