"""Intervals that hold what they say, and a test that cries wolf as often as it should."""

import numpy as np
import pytest

from caption.evaluation.bootstrap import Score, compare, intervals, mean, quotient


def test_a_mean_and_a_share() -> None:
    score = mean("m", [0.2, 0.4, 0.9])
    assert score.value == pytest.approx(50) and score.per_image.tolist() == pytest.approx([20, 40, 90])
    share = Score("s", np.array([[1, 2], [0, 0], [3, 6.0]]))  # a picture without words has no share
    assert share.value == pytest.approx(50) and np.isnan(share.per_image[1])
    assert Score("q", np.array([[3, 2.0]]), quotient).value == pytest.approx(1.5)


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = intervals([mean("m", values)])[0]
    error = 100 * values.std() / np.sqrt(400)
    assert low == pytest.approx(100 * values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(100 * values.mean() + 1.96 * error, abs=0.1 * error)


def test_intervals_depend_on_the_seed_alone() -> None:
    scores = [mean("m", np.random.default_rng(0).random(50)), mean("n", np.random.default_rng(1).random(50))]
    assert intervals(scores, seed=3) == intervals(scores, seed=3) != intervals(scores, seed=4)
    assert intervals(scores[:1], seed=3) == intervals(scores, seed=3)[:1]  # the same pictures for all scores


def test_p_of_equal_and_of_different_models() -> None:
    chance = np.random.default_rng(0)
    a = chance.random(200)
    same = compare([mean("m", a)], [mean("m", a)])[0]
    assert (same.p, same.low, same.high) == (1, 0, 0)
    better = compare([mean("m", a)], [mean("m", a + 0.2)])[0]
    assert better.p < 0.001 and better.low == pytest.approx(20) and better.value == pytest.approx(20)
    # Pairing: a small but constant gain is real, though the intervals of the two overlap widely.
    gain = compare([mean("m", a)], [mean("m", a + 0.02 + 0.01 * chance.standard_normal(200))])[0]
    assert gain.p < 0.001 and gain.low > 0
    assert compare([mean("m", a + 0.2)], [mean("m", a)])[0].value == pytest.approx(-better.value)


def test_p_is_exact_for_few_pictures() -> None:
    """Three pictures, each better by the same: of the 8 ways to exchange them, 2 make as large a difference."""
    found = compare([mean("m", [0.1, 0.1, 0.1])], [mean("m", [0.3, 0.3, 0.3])])[0]
    assert found.p == pytest.approx(0.25, abs=0.02)


@pytest.mark.slow
def test_false_alarms_are_one_in_twenty() -> None:
    """Two models that differ by chance alone, a ratio of sums of unequal sizes: p below 0.05 in 5 % of the cases."""
    chance, alarms = np.random.default_rng(0), 0
    for trial in range(300):
        sizes = chance.integers(5, 20, 60)
        a, b = (Score("s", np.stack([chance.binomial(sizes, 0.4), sizes], 1).astype(float)) for _ in range(2))
        alarms += compare([a], [b], trial)[0].p < 0.05
    assert 5 <= alarms <= 28  # 15 expected, standard deviation 3.8


def test_what_is_not_a_number_is_no_difference() -> None:
    nothing, some = Score("s", np.zeros((6, 2))), Score("s", np.ones((6, 2)))
    for pair in ((nothing, some), (some, nothing), (nothing, nothing)):
        assert np.isnan(compare([pair[0]], [pair[1]])[0].p)
    rare = Score("s", np.array([[1.0, 1], *[[0, 0]] * 5]))  # half of the exchanges leave one model nothing
    other = Score("s", np.array([[0.0, 1], *[[0, 0]] * 5]))
    assert compare([rare], [other])[0].p == 1


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 3 pictures"):
        compare([mean("m", [0.1, 0.2])], [mean("m", [0.1, 0.2, 0.3])])[0]
