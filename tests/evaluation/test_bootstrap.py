"""Confidence intervals and tests are calibrated."""

import math

import numpy as np
import pytest

from caption.evaluation.bootstrap import Score, compare, intervals, mean_score, ratio


def test_a_score_is_a_function_of_sums_over_images() -> None:
    score = mean_score("m", [0.2, 0.4, 0.9])
    assert score.value == pytest.approx(50) and score.per_image.tolist() == pytest.approx([20, 40, 90])
    fraction = Score("s", np.array([[1, 2], [0, 0], [3, 6.0]]))  # an image without words has none
    assert fraction.value == pytest.approx(50) and np.isnan(fraction.per_image[1])
    assert Score("q", np.array([[3, 2.0]]), ratio).value == pytest.approx(1.5)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = intervals([mean_score("m", values)])[0]
    error = 100 * values.std() / np.sqrt(400)
    assert low == pytest.approx(100 * values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(100 * values.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_depend_on_the_seed_alone() -> None:
    scores = [
        mean_score("m", np.random.default_rng(0).random(50)),
        mean_score("n", np.random.default_rng(1).random(50)),
    ]
    assert intervals(scores, seed=3) == intervals(scores, seed=3) != intervals(scores, seed=4)
    assert intervals(scores[:1], seed=3) == intervals(scores, seed=3)[:1]  # the same images for all scores


def test_p_is_1_for_equal_models_and_small_for_different_ones() -> None:
    chance = np.random.default_rng(0)
    a = chance.random(200)
    same = compare([mean_score("m", a)], [mean_score("m", a)])[0]
    assert (same.p, same.low, same.high) == (1, 0, 0)
    better = compare([mean_score("m", a)], [mean_score("m", a + 0.2)])[0]
    assert better.p < 0.001 and better.low == pytest.approx(20) and better.value == pytest.approx(20)
    # Pairing: a small but constant gain is real, though the intervals of the two overlap widely.
    gain = compare([mean_score("m", a)], [mean_score("m", a + 0.02 + 0.01 * chance.standard_normal(200))])[0]
    assert gain.p < 0.001 and gain.low > 0
    assert compare([mean_score("m", a + 0.2)], [mean_score("m", a)])[0].value == pytest.approx(-better.value)


def test_p_is_exact_for_few_images() -> None:
    """Three images, each better by the same: 2 of the 8 ways to exchange them make as large a difference."""
    difference = compare([mean_score("m", [0.1, 0.1, 0.1])], [mean_score("m", [0.3, 0.3, 0.3])])[0]
    assert difference.p == pytest.approx(0.25, abs=0.02)


@pytest.mark.slow
def test_one_false_alarm_in_twenty() -> None:
    """Two models that differ by chance alone, a ratio of sums of unequal sizes: p below 0.05 in 5 % of the cases."""
    chance, alarms = np.random.default_rng(0), 0
    for trial in range(300):
        sizes = chance.integers(5, 20, 60)
        a, b = (Score("s", np.stack([chance.binomial(sizes, 0.4), sizes], 1).astype(float)) for _ in range(2))
        alarms += compare([a], [b], trial)[0].p < 0.05
    assert 5 <= alarms <= 28  # 15 expected, standard deviation 3.8


def test_a_score_of_nan_is_no_difference() -> None:
    empty, full = Score("s", np.zeros((6, 2))), Score("s", np.ones((6, 2)))
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert np.isnan(compare([pair[0]], [pair[1]])[0].p)
    rare = Score("s", np.array([[1.0, 1], *[[0, 0]] * 5]))  # half of the exchanges leave one model without data
    other = Score("s", np.array([[0.0, 1], *[[0, 0]] * 5]))
    assert compare([rare], [other])[0].p == 1


def test_scores_of_unequal_numbers_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 images"):
        compare([mean_score("m", [0.1, 0.2])], [mean_score("m", [0.1, 0.2, 0.3])])[0]


def test_a_score_without_data_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    empty = Score("pointing", np.zeros((3, 2)))
    assert math.isnan(empty.value) and all(map(math.isnan, intervals([empty])[0])) and not list(recwarn)
