"""Batches of similar length: reproducible, mixed anew in every epoch, and with little padding."""

from pathlib import Path

import numpy as np
import pytest

from caption.data.dataset import CaptionDataset, training_batches
from caption.data.sampler import BucketSampler, sequential_batches


def test_batches_differ_between_epochs_and_repeat_for_the_same_epoch(shapes: Path) -> None:
    _, batches = training_batches(CaptionDataset(shapes, "train"), "images", 4, seed=1)
    epochs = []
    for epoch in (1, 2, 1):
        batches.set_epoch(epoch)
        epochs.append(list(batches))
    assert epochs[0] == epochs[2]
    assert len({frozenset(batch) for batch in epochs[0]} & {frozenset(batch) for batch in epochs[1]}) <= 1
    batches.set_epoch(1, skip=3)
    assert list(batches) == epochs[0][3:] and len(batches) == len(epochs[0]) - 3


@pytest.mark.parametrize("batch_by", ["images", "mixed", "lengths"])
def test_a_curriculum_begins_with_the_shortest_captions(shapes: Path, batch_by: str) -> None:
    """Its epochs go from stage to stage and are shuffled within one; later epochs are as without it."""
    data = CaptionDataset(shapes, "train")
    _, batches = training_batches(data, batch_by, 4, seed=1, curriculum_epochs=2)
    _, shuffled = training_batches(data, batch_by, 4, seed=1)
    for epoch in (1, 2, 3):
        batches.set_epoch(epoch)
        shuffled.set_epoch(epoch)
        assert sorted(item for batch in batches for item in batch) == list(range(len(batches.keys)))
        longest = [int(batches.keys[batch, 0].max()) for batch in batches]
        stages = [length // 5 for length in longest]
        assert (stages == sorted(stages)) == (epoch < 3) and len(set(stages)) > 2
        assert longest != sorted(longest)
        assert (list(batches) == list(shuffled)) == (epoch == 3)
    batches.set_epoch(2, skip=3)
    resumed = list(batches)
    batches.set_epoch(2)
    assert resumed == list(batches)[3:]


def test_mixed_batches_hold_captions_of_any_length(shapes: Path) -> None:
    data = CaptionDataset(shapes, "train")
    spread = {}
    for batch_by in ("images", "mixed"):
        _, batches = training_batches(data, batch_by, 4, seed=1)
        spread[batch_by] = np.mean([np.ptp(batches.keys[batch, 0]) for batch in batches])
    assert spread["mixed"] > 1.3 * spread["images"]  # pools are small: there are 40 images


def test_bucketing_halves_the_padding() -> None:
    """Steps run over steps needed: bucketed batches waste less than half of what random ones do."""
    generator = np.random.default_rng(0)
    lengths = -np.sort(-generator.poisson(9, (4000, 5)) - 3, axis=1)  # falling, like COCO's

    def waste(batches: list[list[int]]) -> float:
        steps = sum(len(batch) * lengths[batch].max(0).sum() for batch in batches)
        return steps / lengths.sum() - 1

    bucketed = waste(list(BucketSampler(-lengths, 16, seed=1)))
    assert bucketed < 0.5 * waste(sequential_batches(4000, 16))
