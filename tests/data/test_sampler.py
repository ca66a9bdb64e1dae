"""Batches of similar length: reproducible, mixed anew in every epoch, and with little padding."""

from pathlib import Path

import numpy as np

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


def test_a_curriculum_begins_with_the_shortest_captions(shapes: Path) -> None:
    """In its epochs alone; every image comes once in each."""
    data = CaptionDataset(shapes, "train")
    _, batches = training_batches(data, "images", 4, seed=1, curriculum_epochs=2)
    _, shuffled = training_batches(data, "images", 4, seed=1)
    longest = np.array([max(map(len, data.captions(index))) for index in range(len(data))])
    for epoch in (1, 2, 3):
        batches.set_epoch(epoch)
        shuffled.set_epoch(epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(len(data)))
        lengths = [int(longest[batch].max()) for batch in batches]
        assert (lengths == sorted(lengths)) == (epoch < 3)
        assert {frozenset(batch) for batch in batches} == {frozenset(batch) for batch in shuffled}
        assert (list(batches) == list(shuffled)) == (epoch == 3)
    batches.set_epoch(2, skip=3)
    resumed = list(batches)
    batches.set_epoch(2)
    assert resumed == list(batches)[3:]


def test_bucketing_halves_the_padding() -> None:
    """Steps run over steps needed: bucketed batches waste less than half of what random ones do."""
    generator = np.random.default_rng(0)
    lengths = -np.sort(-generator.poisson(9, (4000, 5)) - 3, axis=1)  # falling, like COCO's

    def waste(batches: list[list[int]]) -> float:
        steps = sum(len(batch) * lengths[batch].max(0).sum() for batch in batches)
        return steps / lengths.sum() - 1

    bucketed = waste(list(BucketSampler(-lengths, 16, seed=1)))
    assert bucketed < 0.5 * waste(sequential_batches(4000, 16))
