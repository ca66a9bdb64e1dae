"""Learning rates and the rate of scheduled sampling, step by step."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from caption.captioner import Captioner
from caption.config import SelfCriticalConfig, TrainingConfig
from caption.data.dataset import CaptionDataset
from caption.training import loop, schedule
from caption.training.schedule import rate_factor
from caption.training.self_critical import CaptionSampler
from caption.training.state import TrainState


def test_the_rate_warms_up_and_then_follows_its_schedule() -> None:
    cosine = TrainingConfig(warmup_steps=10, schedule="cosine")
    factors = [rate_factor(cosine, step, 110, 0) for step in range(110)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and 0 < factors[-1] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    plateau = TrainingConfig(schedule="plateau")
    assert [rate_factor(plateau, 99, 110, n) for n in (0, 1, 3)] == [1.0, 0.5, 0.125]
    assert rate_factor(TrainingConfig(schedule="constant"), 99, 110, 3) == 1.0


def test_self_critical_epochs_restart_the_schedule_and_inverse_sqrt_is_the_paper_s() -> None:
    """Without a second warm-up; inverse_sqrt equals the formula of Vaswani et al., 2017."""
    config = TrainingConfig(
        epochs=4, warmup_steps=10, learning_rate=1e-3, self_critical=SelfCriticalConfig(3, learning_rate=1e-4)
    )
    rates = [rate_factor(config, step, 400, 0) for step in range(400)]
    assert rates[9] == 1 and rates[199] < 0.001 and rates[200] == 1 and rates[399] < 0.001
    assert rates[:200] == [
        rate_factor(dataclasses.replace(config, epochs=2, self_critical=SelfCriticalConfig()), s, 200, 0)
        for s in range(200)
    ]
    noam = TrainingConfig(schedule="inverse_sqrt", warmup_steps=40, learning_rate=(512 * 40) ** -0.5)
    for step in (1, 20, 40, 41, 400):  # from 1, as in the paper
        wanted = 512**-0.5 * min(step**-0.5, step * 40**-1.5)
        assert noam.learning_rate * rate_factor(noam, step - 1, 1000, 0) == pytest.approx(wanted)


def test_self_critical_epochs_lower_the_rates_of_decoder_and_encoder_in_proportion(
    captioner: Captioner, shapes: Path
) -> None:
    data = CaptionDataset(shapes, "train")
    critical = SelfCriticalConfig(2, learning_rate=1e-4, samples=2)
    config = TrainingConfig(
        epochs=2, learning_rate=1e-3, encoder_learning_rate=1e-5, self_critical=critical, schedule="constant"
    )
    optimizer = schedule.build_optimizer(captioner, config)
    loader = [data.__getitems__([0, 1])]
    for sampler, rate in ((None, 1e-3), (CaptionSampler(critical, data, 4), 1e-4)):
        progress = TrainState(epoch=2 if sampler else 1)
        loop.train_epoch(captioner, loader, optimizer, config, progress, 2, caption_sampler=sampler)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate / 100])


def test_the_sampling_rate_rises_evenly_to_the_last_epoch_of_cross_entropy(
    captioner: Captioner, shapes: Path, monkeypatch
) -> None:
    loader, rates = [CaptionDataset(shapes, "train").__getitems__([0, 1])], []
    forward = captioner.forward
    monkeypatch.setattr(captioner, "forward", lambda *arguments: rates.append(arguments[5]) or forward(*arguments))

    def train_epochs(epochs: int, count: int, critical: SelfCriticalConfig) -> list[float]:
        rates.clear()
        config = TrainingConfig(epochs=epochs, scheduled_sampling=0.6, self_critical=critical)
        optimizer = schedule.build_optimizer(captioner, config)
        for epoch in range(1, count + 1):
            loop.train_epoch(captioner, loader, optimizer, config, TrainState(epoch=epoch), 9)
        return rates

    assert train_epochs(3, 3, SelfCriticalConfig()) == pytest.approx([0, 0.3, 0.6])
    assert train_epochs(5, 2, SelfCriticalConfig(3)) == pytest.approx([0, 0.6])
    assert train_epochs(1, 1, SelfCriticalConfig()) == [0.6]
