"""Scores that are functions of sums over images: value, value per image, confidence interval, paired test.

Corpus BLEU is a function of summed n-gram counts, a mean over images one of summed values and ones, a fraction of words
one of summed hits and words. Intervals and comparisons are therefore implemented once for all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 10_000
MAX_ENTRIES = 2_500_000  # images times resamples in memory at a time


def percentage(sums: Values) -> Values:
    """Return 100 times the first sum over the second, [..., 2] -> [...]; NaN where the second is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * sums[..., 0] / sums[..., 1])


def ratio(sums: Values) -> Values:
    """Return the first sum over the second, [..., 2] -> [...], not in percent."""
    return percentage(sums) / 100


class Score(NamedTuple):
    """A score of N images."""

    name: str
    statistics: Values  # [N, K], what each image contributes to the K sums
    formula: Callable[[Values], Values] = percentage  # sums [..., K] -> scores [...]

    @property
    def value(self) -> float:
        """The score of all images."""
        return float(self.formula(self.statistics.sum(0)))

    @property
    def per_image(self) -> Values:
        """The score of each image alone [N]."""
        return self.formula(self.statistics)


def mean_score(name: str, values: Sequence[float] | Values) -> Score:
    """Return the mean of one value in [0, 1] per image, in percent, as a score."""
    column = np.asarray(values, np.float64)
    return Score(name, np.stack([column, np.ones_like(column)], 1))


def intervals(scores: Sequence[Score], seed: int = 1) -> list[Interval]:
    """Return 95 % confidence intervals of the scores by the percentile bootstrap (Efron, 1979; for BLEU Koehn, 2004).

    Images are sampled with replacement, the same for all scores. The interval covers the choice of images, not the
    randomness of training.
    """
    return [_interval(values) for values in _resample(scores, seed)]


class Difference(NamedTuple):
    """A score of two models on the same images."""

    name: str
    first: float
    second: float
    low: float  # 95 % confidence interval of second - first
    high: float
    p: float  # probability of a difference at least this large if the models were exchangeable

    @property
    def value(self) -> float:
        return self.second - self.first


def compare(first: Sequence[Score], second: Sequence[Score], seed: int = 1) -> list[Difference]:
    """Compare two models' scores, given in the same order.

    Intervals come from the paired bootstrap. p comes from approximate randomisation: the two models' results are
    exchanged for each image with probability one half (Noreen, 1989; Riezler and Maxwell, 2005). Raises ValueError when
    the numbers of images differ.
    """
    sizes = {len(score.statistics) for score in (*first, *second)}
    if len(sizes) > 1:
        raise ValueError(f"scores of {' and '.join(map(str, sorted(sizes)))} images cannot be paired")
    paired = difference_intervals(first, second, seed)
    exchanged = _exchange(first, second, seed)
    differences = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        low, high = paired[i]
        by_chance = exchanged[i][np.isfinite(exchanged[i])]
        extreme = int((np.abs(by_chance) >= abs(b.value - a.value) - 1e-9).sum())
        p = (extreme + 1) / (len(by_chance) + 1) if math.isfinite(b.value - a.value) else math.nan
        differences.append(Difference(a.name, a.value, b.value, low, high, p))
    return differences


def difference_intervals(first: Sequence[Score], second: Sequence[Score], seed: int = 1) -> list[Interval]:
    """Return 95 % confidence intervals of second - first by the paired bootstrap: both scores on the same samples of
    images. The two scores of a pair may have different formulas."""
    resampled = _resample([*first, *second], seed)
    return [_interval(b - a) for a, b in zip(resampled[: len(first)], resampled[len(first) :], strict=True)]


def _interval(values: Values) -> Interval:
    if np.isnan(values).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def _resample(scores: Sequence[Score], seed: int) -> list[Values]:
    """Return each score [R] on R bootstrap samples of the N images, each of N images."""
    generator, count = np.random.default_rng(seed), len(scores[0].statistics)
    tables = {id(score.statistics): score.statistics for score in scores}  # BLEU-1 to 4 share one table
    results = []
    for chunk in _chunks(count):
        sampled = generator.integers(count, size=(chunk, count)) + count * np.arange(chunk)[:, None]
        times = np.bincount(sampled.ravel(), minlength=chunk * count).reshape(chunk, count).astype(np.float64)
        sums = {key: times @ table for key, table in tables.items()}  # weighted by how often each image is sampled
        results.append([score.formula(sums[id(score.statistics)]) for score in scores])
    return [np.concatenate(values) for values in zip(*results, strict=True)]


def _exchange(first: Sequence[Score], second: Sequence[Score], seed: int) -> list[Values]:
    """Return the difference of each score [R] after R random exchanges of images between the two models."""
    generator, count = np.random.default_rng(seed), len(first[0].statistics)
    pairs = {id(a.statistics): (a.statistics, b.statistics) for a, b in zip(first, second, strict=True)}
    results: list[list[Values]] = [[] for _ in first]
    for chunk in _chunks(count):
        swapped = (generator.random((chunk, count)) < 0.5).astype(np.float64)
        gains = {key: swapped @ (b - a) for key, (a, b) in pairs.items()}  # the first model's; the second loses them
        for result, a, b in zip(results, first, second, strict=True):
            gain = gains[id(a.statistics)]
            result.append(b.formula(b.statistics.sum(0) - gain) - a.formula(a.statistics.sum(0) + gain))
    return [np.concatenate(result) for result in results]


def _chunks(images: int) -> list[int]:
    """Return the number of resamples to compute at a time, RESAMPLES in all, within MAX_ENTRIES."""
    size = min(RESAMPLES, max(1, MAX_ENTRIES // images))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
