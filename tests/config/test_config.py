"""Configurations are validated where they are made, unknown keys are errors, and choices equal their registries."""

import dataclasses
import inspect
import itertools
import math
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from caption.attention import GLIMPSES, SCORES, SELECTIONS, WINDOWS
from caption.config import (
    STOCHASTIC,
    Config,
    DecoderConfig,
    EncoderConfig,
    ReinforceConfig,
    SearchConfig,
    SelfCriticalConfig,
    TrainingConfig,
)
from caption.config.cli import parse
from caption.config.inference import CaptioningConfig, ComparisonConfig, EvaluationConfig
from caption.config.presets import PRESETS, parse_preset
from caption.config.validation import from_dict
from caption.decoders import DECODERS
from caption.encoders.cnn import NETWORKS
from caption.errors import UserError
from caption.evaluation import reward


def test_every_preset_survives_a_round_trip_through_plain_values() -> None:
    for _, config in PRESETS.values():
        config = dataclasses.replace(config, data="d", output="o")
        assert from_dict(Config, dataclasses.asdict(config)) == config


def test_every_field_of_a_preset_holds_a_value_of_its_type() -> None:
    """Presets are plain values, whose types and choices no type checker sees."""

    def check_types(config: Any) -> None:
        for name, kind in get_type_hints(type(config)).items():
            value = getattr(config, name)
            if dataclasses.is_dataclass(kind):
                check_types(value)
            elif get_origin(kind) is Literal:
                assert value in get_args(kind), name
            else:
                assert type(value) is kind, name

    for _, config in PRESETS.values():
        check_types(dataclasses.replace(config, data="d", output="o"))


def test_missing_fields_take_their_default() -> None:
    """So that checkpoints of the same format stay readable when a field is added."""
    older = dataclasses.asdict(DecoderConfig(hidden_dim=3))
    del older["attention"]
    assert from_dict(DecoderConfig, older) == DecoderConfig(hidden_dim=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecoderConfig(hidden_dim=0), "decoder.hidden_dim is 0, but must be positive"),
        (lambda: DecoderConfig(dropout=1.0), r"decoder.dropout is 1.0, but must be in \[0, 1\)"),
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
            lambda: ReinforceConfig("straight_through", reward="to_go"),
            "reward is to_go, but the estimator straight_through .* --training.reinforce.reward caption",
        ),
        (
            lambda: ReinforceConfig("gumbel_softmax", baseline="none"),
            "baseline is none, but the estimator gumbel_softmax",
        ),
        (lambda: ReinforceConfig("gumbel_softmax", weight=0.5), "weight is 0.5, but the estimator gumbel_softmax"),
        (lambda: ReinforceConfig(gumbel_temperature=0.5), "gumbel_temperature is 0.5, but the estimator reinforce"),
        (
            lambda: Config(
                "a",
                "b",
                decoder=DecoderConfig(attention="retina"),
                training=TrainingConfig(reinforce=ReinforceConfig("straight_through")),
            ),
            "estimator is straight_through, but decoder.attention retina samples a place",
        ),
        (
            lambda: from_dict(DecoderConfig, {"hiden_dim": 3}),
            "DecoderConfig has no field 'hiden_dim'; it has name, embedding_dim, hidden_dim",
        ),
        (
            lambda: TrainingConfig(self_critical=SelfCriticalConfig(samples=3)),
            "self_critical is set, but its first_epoch is 0",
        ),
        (lambda: SelfCriticalConfig(1, samples=1), "samples is 1, but must be at least 2 for leave_one_out"),
        (
            lambda: TrainingConfig(epochs=3, self_critical=SelfCriticalConfig(4)),
            "first_epoch is 4, but must be at most training.epochs, 3",
        ),
        (
            lambda: Config("a", "b", init_from="c.pt", decoder=DecoderConfig(pretrained_embeddings="d.txt")),
            "decoder.pretrained_embeddings is set, but init_from has embeddings already",
        ),
        (lambda: TrainingConfig(schedule="inverse_sqrt"), "warmup_steps is 0, but must be at least 1"),
        (lambda: TrainingConfig(scheduled_sampling=1.5), r"scheduled_sampling is 1.5, but must be in \[0, 1\]"),
        (
            lambda: Config(
                "a",
                "b",
                decoder=DecoderConfig(attention="hard"),
                training=TrainingConfig(self_critical=SelfCriticalConfig(1)),
            ),
            "self_critical is set, but decoder.attention is hard",
        ),
    ],
)
def test_mistakes_are_refused_with_value_and_rule(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "field", "registry"),
    [
        (DecoderConfig, "window", {"global", *WINDOWS}),
        (DecoderConfig, "attention", {*SELECTIONS, *GLIMPSES}),
        (SelfCriticalConfig, "reward", set(get_args(reward.Kind))),
    ],
)
def test_the_choices_of_a_flag_equal_its_registry(config: type, field: str, registry: set[str]) -> None:
    assert set(get_args(get_type_hints(config)[field])) == registry


def test_stochastic_names_the_attentions_that_sample_locations() -> None:
    attentions = {**SELECTIONS, **GLIMPSES}
    assert {name for name, attention in attentions.items() if attention.stochastic} == set(STOCHASTIC)


def test_the_help_names_every_decoder_and_score(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_preset(["shapes-soft", "--help"], "train.py", "")
    output = capsys.readouterr().out
    assert all(name in output for name in (*DECODERS, *SCORES, "multi_head"))


def test_the_encoder_s_help_names_every_cnn(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_preset(["shapes-soft", "--help"], "train.py", "")
    output = capsys.readouterr().out
    assert all(name in output for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_recurrence_steps_are_allowed_exactly_where_they_change_the_network(name: str) -> None:
    images = torch.rand(1, 3, 32, 32)
    one, two = (NETWORKS[name](steps).eval() for steps in (1, 2))
    two.load_state_dict(one.state_dict())  # the steps share their weights
    if torch.equal(one(images), two(images)):
        with pytest.raises(UserError, match=f"recurrence_steps is 2, but {name} has none"):
            EncoderConfig(name=name, recurrence_steps=2)
    else:
        EncoderConfig(name=name, recurrence_steps=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"Config is \[\], but must be an object"),
        ({"training": 3}, "TrainingConfig is 3, but must be an object"),
        ({"training": {"epochs": "3"}}, "training.epochs is '3', but must be of type int"),
        ({"training": {"epochs": True}}, "training.epochs is True, but must be of type int"),
        ({"training": {"learning_rate": None}}, "training.learning_rate is None, but must be of type float"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer is 'sgd', but must be one of adam, rmsprop"),
        ({"training": {"optimizer": ["adam"]}}, "training.optimizer is ..adam.., but must be one of"),
        ({"search": {"suppress_unknown": "no"}}, "search.suppress_unknown is 'no', but must be of type bool"),
        ({"device": 0}, "device is 0, but must be of type str"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(values: Any, message: str) -> None:
    if isinstance(values, dict):
        values = {"data": "d", "output": "o", **values}
    with pytest.raises(UserError, match=message):
        from_dict(Config, values)


NUMBERS = [
    (config, name)
    for config in (EncoderConfig, DecoderConfig, TrainingConfig, ReinforceConfig, SelfCriticalConfig, SearchConfig)
    for name, kind in get_type_hints(config).items()
    if kind in (int, float)
]


@pytest.mark.parametrize(("config", "name"), NUMBERS)
def test_no_number_may_be_infinite_or_absurd(config: type, name: str) -> None:
    absurd = [10**20, -(10**20)] + (
        [math.inf, -math.inf, math.nan, 1e300] if get_type_hints(config)[name] is float else []
    )
    for value in absurd:
        with pytest.raises(UserError, match=re.escape(f"{name} is {value}, but must be")):
            config(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length-penalty", "inf"], "length_penalty is inf, but must be"),
        (["--length-penalty", "400"], r"length_penalty is 400.0, but must be in \[0, 10\]"),
        (["--top-p", "0.9"], "search.top_p is 0.9, but search.method is beam, which samples no words"),
        (["--method", "sample", "--top-p", "0"], r"top_p is 0.0, but must be in \(0, 1\]"),
        (["--temperature", "1e-30"], r"temperature is 1e-30, but must be in \[0.001, 1000\]"),
        (["--seed", "-1"], r"seed is -1, but must be a seed, in \[0, 2\*\*32\)"),
        (["--seed", str(2**32)], "seed is 4294967296, but must be"),
        (["--batch-size", "0"], "batch_size is 0, but must be at least 1"),
        (["--workers", "-1"], "workers is -1, but must be 0 or more"),
    ],
)
def test_options_of_an_evaluation_are_within_bounds(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(EvaluationConfig, ["--checkpoint", "c", "--data", "d", *arguments], "evaluate.py")


@pytest.mark.parametrize(
    ("config", "arguments"),
    [(ComparisonConfig, ["--compare", "a", "b"]), (CaptioningConfig, ["--checkpoint", "c", "--image", "i"])],
)
def test_every_seed_is_within_bounds(config: type, arguments: list[str]) -> None:
    with pytest.raises(UserError, match="seed is -1, but must be a seed"):
        parse(config, [*arguments, "--seed", "-1"], "program")
    assert parse(config, [*arguments, "--seed", str(2**32 - 1)], "program").seed == 2**32 - 1


def test_every_preset_is_a_subcommand() -> None:
    for name in PRESETS:
        config = parse_preset([name, "--data", "d", "--output", "o"], "train.py", "")
        assert config == dataclasses.replace(PRESETS[name][1], data="d", output="o")
    with pytest.raises(UserError, match=f"unknown preset 'x'; known: {', '.join(PRESETS)}"):
        parse_preset(["x"], "train.py", "")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--training.epochs", "0", "training: training.epochs is 0, but must be at least 1"),
        ("--decoder.transformer.layers", "0", "decoder.transformer: decoder.transformer.layers is 0, but must be"),
    ],
)
def test_the_error_of_a_nested_flag_names_the_flag_alone(flag: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^Error parsing {message}"):
        parse_preset(["shapes-soft", "--data", "d", "--output", "o", flag, value], "train.py", "")


def test_every_flag_has_a_help_text() -> None:
    """A docstring below the field, which tyro shows."""

    def undocumented(config: Any) -> list[str]:
        lines = [line.strip() for line in inspect.getsource(config).splitlines()]
        names = [item.name for item in dataclasses.fields(config) if not dataclasses.is_dataclass(item.default_factory)]
        return [
            name
            for name in names
            if not any(
                line.startswith(f"{name}: ") and following.startswith('"""')
                for line, following in itertools.pairwise(lines)
            )
        ]

    for config in (Config, EncoderConfig, DecoderConfig, TrainingConfig, ReinforceConfig, SelfCriticalConfig):
        assert not undocumented(config), config
