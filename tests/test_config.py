"""Settings are checked where they are made, and unknown ones are errors."""

import dataclasses
import itertools

import pytest

from caption.config import Config, DecoderConfig, ReinforceConfig, SearchConfig, TrainingConfig
from caption.config.presets import PRESETS
from caption.config.validation import from_dict
from caption.errors import UserError
from caption.training.schedule import rate_factor


def test_round_trip() -> None:
    for _, config in PRESETS.values():
        config = dataclasses.replace(config, data="d", output="o")
        assert from_dict(Config, dataclasses.asdict(config)) == config


def test_fields_added_later_take_their_default() -> None:
    """So that older checkpoints can be read."""
    older = dataclasses.asdict(DecoderConfig(hidden_dim=3))
    del older["attention"]
    assert from_dict(DecoderConfig, older) == DecoderConfig(hidden_dim=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecoderConfig(hidden_dim=0), "decoder.hidden_dim is 0, but must be positive"),
        (lambda: DecoderConfig(dropout=1.0), "decoder.dropout is 1.0, but must be at least 0 and below 1"),
        (lambda: TrainingConfig(epochs=0), "training.epochs is 0, but must be at least 1"),
        (lambda: TrainingConfig(learning_rate=-1), "training.learning_rate is -1"),
        (lambda: SearchConfig(beam_size=0), "search.beam_size is 0"),
        (lambda: SearchConfig(min_length=9, max_length=5), "search.min_length is 9, but must be at most max_length"),
        (lambda: from_dict(Config, {"data": "x"}), "Config lacks the field 'output'"),
        (lambda: ReinforceConfig(soft_probability=1.5), "reinforce.soft_probability is 1.5, but must be in"),
        (
            lambda: ReinforceConfig(baseline="leave_one_out"),
            "samples is 1, but must be at least 2 for baseline leave_one",
        ),
        (
            lambda: from_dict(DecoderConfig, {"hiden_dim": 3}),
            "DecoderConfig has no field 'hiden_dim'; it has kind, embedding_dim, hidden_dim",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_learning_rate() -> None:
    cosine = TrainingConfig(warmup_steps=10, schedule="cosine")
    factors = [rate_factor(cosine, step, 110, 0) for step in range(110)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and 0 < factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    plateau = TrainingConfig(schedule="plateau")
    assert [rate_factor(plateau, 99, 110, n) for n in (0, 1, 3)] == [1.0, 0.5, 0.125]
    assert rate_factor(TrainingConfig(schedule="constant"), 99, 110, 3) == 1.0
