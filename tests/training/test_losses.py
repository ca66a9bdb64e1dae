"""The declared terms of the loss (their values are tested with the decoders)."""

import inspect

import pytest
import torch
from conftest import make_kind

from caption.config import TrainingConfig
from caption.training import losses
from caption.training.losses import TERMS, LossInputs


def inputs() -> LossInputs:
    decoder = make_kind("soft")
    regions = torch.randn(2, 6, 6, dtype=torch.double)
    return LossInputs(decoder(decoder.prepare(regions), torch.full((2, 1, 3), 5), torch.full((2, 1), 3)))


def test_the_arguments_of_every_term_are_fields_of_its_inputs() -> None:
    for term in TERMS.values():
        assert set(inspect.signature(term.function).parameters) <= set(LossInputs._fields)


def test_an_undeclared_term_is_refused() -> None:
    terms = losses.compute_terms(inputs(), TrainingConfig())
    assert set(terms) == {"cross_entropy", "doubly_stochastic"}
    with pytest.raises(ValueError, match="loss term 'reward' is not in TERMS, so it has no weight"):
        losses.total_loss({**terms, "reward": torch.zeros(())}, TrainingConfig())


def test_terms_with_a_weight_of_zero_are_left_out() -> None:
    terms = losses.compute_terms(inputs(), TrainingConfig(label_smoothing=0.1, doubly_stochastic=0.0))
    assert set(terms) == {"cross_entropy", "smoothing"}
    assert set(losses.compute_terms(LossInputs(), TrainingConfig())) == set()


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    config = TrainingConfig(label_smoothing=0.1, doubly_stochastic=0.3)
    terms = losses.compute_terms(inputs(), config)
    expected = 0.9 * terms["cross_entropy"] + 0.1 * terms["smoothing"] + 0.3 * terms["doubly_stochastic"]
    torch.testing.assert_close(losses.total_loss(terms, config), expected)
