"""Calibration of probabilities: of all events to which a model gives the probability p, a fraction p should happen."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caption.evaluation.bootstrap import Interval, Score

Values = NDArray[np.float64]

BINS = 10  # of equal width, from 0 to 1
Z = 1.959964  # of a 95 % interval
SIMULATIONS = 1000
MAX_TEMPERATURE = 100.0


class Forecasts(NamedTuple):
    """The probabilities of N events, and what happened."""

    probability: Values  # [N], in [0, 1]
    happened: Values  # [N], 0 or 1
    image: NDArray[np.int64]  # [N], the image of each event; those of one image are resampled together


class ReliabilityBin(NamedTuple):
    """The events whose probabilities fall into one bin."""

    probability: float  # their mean
    fraction: float  # of them that happened
    interval: Interval  # of that fraction
    size: int  # their number


def assign_bins(probability: Values) -> NDArray[np.int64]:
    """Return the bin of each probability [N], from 0 to BINS - 1; the last one contains 1."""
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)


def calibration_error(forecasts: Forecasts, name: str = "ECE") -> Score:
    """Return the expected calibration error in percent (Naeini et al., 2015; Guo et al., 2017): the mean over events of
    |mean probability - fraction that happened| in the event's bin.

    It is never negative, and that of a calibrated model is above 0 by chance alone (`error_if_calibrated`).
    """
    images, image = np.unique(forecasts.image, return_inverse=True)
    gap = np.bincount(
        image * BINS + assign_bins(forecasts.probability),
        forecasts.probability - forecasts.happened,
        len(images) * BINS,
    )
    table = np.concatenate([gap.reshape(-1, BINS), np.bincount(image)[:, None]], 1)  # [images, BINS + 1]
    return Score(name, table, _error)


def _error(sums: Values) -> Values:
    """Return the error in percent from sums [..., BINS + 1]: of p - y in each bin, and of the events."""
    return np.asarray(100 * np.abs(sums[..., :-1]).sum(-1) / np.maximum(sums[..., -1], 1))


def error_if_calibrated(probability: Values, seed: int = 1) -> Interval:
    """Return between which errors 95 % of calibrated models with these probabilities [N] would have: events are
    sampled to happen with just their probability (consistency resampling; Bröcker and Smith, 2007)."""
    generator, bins = np.random.default_rng(seed), assign_bins(probability)
    errors = []
    for _ in range(SIMULATIONS):
        happened = generator.random(len(probability)) < probability
        errors.append(float(_error(np.append(np.bincount(bins, probability - happened, BINS), len(probability)))))
    low, high = np.percentile(errors, (2.5, 97.5))
    return float(low), float(high)


def reliability(forecasts: Forecasts) -> list[ReliabilityBin]:
    """Return the bins that are not empty, by rising probability."""
    bins = assign_bins(forecasts.probability)
    found = []
    for number in np.unique(bins):
        inside = bins == number
        count, happened = int(inside.sum()), float(forecasts.happened[inside].sum())
        mean = float(forecasts.probability[inside].mean())
        found.append(ReliabilityBin(mean, happened / count, wilson_interval(happened, count), count))
    return found


def wilson_interval(happened: float, count: int) -> Interval:
    """Return the 95 % interval of a fraction, of which `happened` of `count` were seen (Wilson, 1927). Unlike a
    bootstrap interval it is not a point where all happened."""
    fraction, spread = happened / count, Z**2 / count
    middle = fraction + spread / 2
    half = Z * np.sqrt(fraction * (1 - fraction) / count + spread / (4 * count))
    return float((middle - half) / (1 + spread)), float((middle + half) / (1 + spread))


def scale(logits: Values, temperature: float) -> Values:
    """Return log-probabilities [..., V] of logits [..., V] divided by a temperature."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(-1, keepdims=True)))


def negative_log_likelihood(logits: Values, targets: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Return the mean over N words of -log p(target), in nats; logits [N, V], targets [N]."""
    return float(-np.take_along_axis(scale(logits, temperature), targets[:, None], -1).mean())


def fit_temperature(logits: Values, targets: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the mean negative log-likelihood of targets [N] under logits [N, V] (Guo et
    al., 2017), between 1 / MAX_TEMPERATURE and MAX_TEMPERATURE.

    The loss is convex in b = 1 / temperature, with the derivative mean(sum_v p_v z_v - z_target): its root is bisected.
    """
    right = np.take_along_axis(logits, targets[:, None], -1).mean()
    low, high = -np.log(MAX_TEMPERATURE), np.log(MAX_TEMPERATURE)  # of log b
    while high - low > 1e-6:
        middle = (low + high) / 2
        expected = (np.exp(scale(logits, float(np.exp(-middle)))) * logits).sum(-1).mean()
        low, high = (middle, high) if expected < right else (low, middle)
    return float(np.exp(-(low + high) / 2))
