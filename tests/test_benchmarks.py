"""What benchmarks compare is what they say."""

from pathlib import Path

import pytest

from benchmarks import estimators, runs
from benchmarks.estimators import ESTIMATORS
from caption.config.presets import PRESETS, parse_preset


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_flags_of_an_estimator_give_the_configuration_that_is_timed(name: str) -> None:
    arguments = ["shapes-hard", "--data", "d", "--output", "o", *estimators.flags(ESTIMATORS[name])]
    expected = estimators.with_estimator(PRESETS["shapes-hard"][1], name)
    assert parse_preset(arguments, "train.py", "").training == expected.training


@pytest.mark.parametrize(("name", "is_biased"), [("to_go_leave_one_out", False), ("straight_through", True)])
def test_the_interval_of_the_bias_begins_above_zero_exactly_where_there_is_one(
    name: str, is_biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a caption is shorter than the others, of which the enumeration repeats paths."""
    monkeypatch.setattr(estimators, "BATCHES", 20)
    bias, radius = estimators.measure_gradient(1, estimators.reinforce_config(name))["bound"]
    assert (bias > radius) == is_biased


def test_a_run_that_has_a_line_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are lines of other keys taken for it."""
    results, trained = tmp_path / "results.jsonl", []
    wanted = [runs.Run({"variant": "soft", "seed": seed}, tmp_path / str(seed), "shapes-soft", []) for seed in (1, 2)]

    def measure(results: Path, run: runs.Run, source: str) -> None:
        trained.append(run.key["seed"])
        runs.keep_line(results, run.key, {"scores": {}})

    monkeypatch.setattr(runs, "_measure", measure)
    runs.keep_line(results, {"variant": "soft", "seed": 2, "epochs": 3}, {})
    runs.keep_line(results, {"variant": "hard", "seed": 1}, {})
    for _ in range(2):
        runs.complete(results, wanted, "data.h5", jobs=1)
    assert trained == [1]
