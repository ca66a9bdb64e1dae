"""Calibrated forecasts have the error of chance, others the planted one; temperature scaling finds what was planted."""

import numpy as np
import pytest

from caption.evaluation.bootstrap import intervals
from caption.evaluation.calibration import (
    BINS,
    MAX_TEMPERATURE,
    Forecasts,
    calibration_error,
    error_if_calibrated,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scale,
    wilson_interval,
)


def forecast(shift: float, seed: int = 0, count: int = 10_000) -> Forecasts:
    """Events, ten an image, that happen less often than their probability says, by `shift`."""
    generator = np.random.default_rng(seed)
    probability = generator.uniform(0.3, 0.95, count)
    happened = (generator.random(count) < probability - shift).astype(float)
    return Forecasts(probability, happened, np.arange(count) // 10)


def words(temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, V] of a model, and words sampled from its distribution at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (20_000, 12))
    noise = generator.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(-1)


def test_a_calibrated_forecaster_has_the_error_of_chance() -> None:
    """In 19 of 20 cases, as its interval says."""
    inside = 0
    for seed in range(30):
        forecasts = forecast(0, seed, 500)
        low, high = error_if_calibrated(forecasts.probability, seed)
        inside += low <= calibration_error(forecasts).value <= high
    assert 26 <= inside <= 30
    low, high = error_if_calibrated(forecast(0).probability)
    assert 0 < low < high < 2


@pytest.mark.parametrize("shift", [0.1, 0.25, -0.04])
def test_the_error_of_a_wrong_forecaster_is_how_far_it_is_off(shift: float) -> None:
    """Overconfident or underconfident; far above what a calibrated one would have by chance."""
    forecasts = forecast(shift)
    error = calibration_error(forecasts)
    ((low, high),) = intervals([error])
    assert low < error.value < high and error.value == pytest.approx(100 * abs(shift), abs=1)
    assert low > error_if_calibrated(forecasts.probability)[1]


def test_errors_of_opposite_sign_in_different_bins_do_not_cancel() -> None:
    forecasts = Forecasts(np.array([0.75, 0.75, 0.25, 0.25]), np.array([1.0, 1, 0, 0]), np.arange(4))
    assert calibration_error(forecasts).value == pytest.approx(25)
    together = Forecasts(np.array([0.25, 0.25]), np.array([1.0, 0]), np.array([7, 7]))
    assert calibration_error(together).value == pytest.approx(25)  # in one bin, half of them happen


def test_images_are_resampled_whole() -> None:
    """Events of one image that are all alike say no more than one of them."""
    once = forecast(0.1, count=400)
    alone = Forecasts(once.probability, once.happened, np.arange(400))
    copied = Forecasts(*(np.repeat(values, 5) for values in alone))
    assert calibration_error(copied).value == pytest.approx(calibration_error(alone).value)
    (first,), (second,) = (intervals([calibration_error(forecasts)]) for forecasts in (copied, alone))
    assert first == pytest.approx(second)


def test_a_reliability_curve_follows_the_truth() -> None:
    for point in reliability(forecast(0.1)):
        assert point.interval[0] < point.fraction < point.interval[1]
        assert point.fraction == pytest.approx(point.probability - 0.1, abs=0.04)
    points = reliability(Forecasts(np.array([0.0, 0.05, 1.0]), np.array([0.0, 1, 1]), np.arange(3)))
    assert [point.size for point in points] == [2, 1] and points[-1].probability == 1  # 1 lies in the last bin
    assert len(reliability(forecast(0))) == 7 < BINS


def test_an_interval_of_a_fraction_is_that_of_the_literature() -> None:
    """Newcombe (1998): 81 of 263, 15 of 148 and 0 of 20 by the score method."""
    for hits, count, low, high in ((81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11)):
        interval = [100 * bound for bound in wilson_interval(hits, count)]
        assert interval == pytest.approx((low, high), abs=0.01)


def test_wilson_intervals_cover_the_fraction() -> None:
    generator = np.random.default_rng(0)
    for fraction in (0.02, 0.5, 0.97):
        seen = generator.binomial(60, fraction, 2000)
        covered = np.mean([low <= fraction <= high for low, high in (wilson_interval(n, 60) for n in seen)])
        assert 0.91 < covered < 0.99
    low, high = wilson_interval(50, 50)
    assert 0.9 < low < 0.95 and high == pytest.approx(1)


def test_temperature_1_leaves_all_as_is() -> None:
    logits, targets = words(1)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.allclose(np.exp(scale(logits, 1)), probabilities)
    assert negative_log_likelihood(logits, targets) == pytest.approx(
        -np.log(probabilities[np.arange(len(targets)), targets]).mean()
    )
    assert (scale(logits, 7).argmax(-1) == logits.argmax(-1)).all()
    assert np.isfinite(scale(1e4 * logits, 1)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_recovered(temperature: float) -> None:
    """It repairs the calibration of the most probable word, and no temperature near it has a lower loss."""
    logits, targets = words(temperature)
    fitted = fit_temperature(logits, targets)
    assert fitted == pytest.approx(temperature, rel=0.03)
    best = negative_log_likelihood(logits, targets, fitted)
    assert all(best < negative_log_likelihood(logits, targets, fitted * factor) for factor in (0.98, 1.02))
    chosen = logits.argmax(-1)
    happened, rows = (chosen == targets).astype(float), np.arange(len(chosen))
    before, after = (np.exp(scale(logits, t))[rows, chosen] for t in (1.0, fitted))
    errors = [calibration_error(Forecasts(p, happened, rows)).value for p in (before, after)]
    assert errors[1] < error_if_calibrated(after)[1] * 1.5 and (errors[0] > 5 or temperature == 1)


def test_the_temperature_stays_within_its_limits() -> None:
    logits = np.array([[0.1, 0.0]])
    assert fit_temperature(logits, np.array([0])) == pytest.approx(1 / MAX_TEMPERATURE, rel=1e-3)
    assert fit_temperature(logits, np.array([1])) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)
