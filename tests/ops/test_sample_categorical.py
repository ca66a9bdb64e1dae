"""Samples by the Gumbel-max trick: exactly the distribution asked for, in any precision, and the same for one seed."""

import pytest
import torch
from torch import Tensor

from caption.ops import sample_categorical

COUNT = 200_000


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("shift", [0.0, 7.0])  # logarithms up to a constant
def test_frequencies_equal_the_probabilities(dtype: torch.dtype, shift: float) -> None:
    """Within four standard deviations each, from a half to a thousandth; what is impossible never comes."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.009, 0.001, 0.0], dtype=torch.double)
    logarithms = (probabilities.log() + shift).to(dtype)
    torch.manual_seed(0)
    samples = sample_categorical(logarithms.expand(2, COUNT // 2, -1))
    assert samples.shape == (2, COUNT // 2)
    frequencies = samples.flatten().bincount(minlength=7) / COUNT
    deviation = (probabilities * (1 - probabilities) / COUNT).sqrt()
    assert ((frequencies - probabilities).abs() <= 4 * deviation).all()


def test_samples_of_half_precision_are_as_fine_as_those_of_float32() -> None:
    """Noise in bfloat16 would have many equal values, and the first of them would win."""
    torch.manual_seed(0)
    samples = sample_categorical(torch.zeros(2000, 1000, dtype=torch.bfloat16))
    assert samples.float().mean().item() == pytest.approx(499.5, abs=4 * 1000 / 12**0.5 / 2000**0.5)
    assert samples.unique().numel() > 800  # 865 are expected


def test_a_zero_of_the_generator_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a probability of e^-100, whose turn it never is."""
    monkeypatch.setattr(Tensor, "exponential_", lambda values: values.copy_(torch.tensor([0.0, 1.0])))
    assert sample_categorical(torch.tensor([-100.0, 0.0])) == 1


def test_a_seed_gives_the_same_samples_again() -> None:
    logarithms = torch.randn(50, 20)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(sample_categorical(logarithms))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
