"""Batches: complete, in other company every epoch, the same in every process."""

import multiprocessing
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from caption.data.dataset import (
    CaptionDataset,
    build_loader,
    collate,
    training_batches,
)
from caption.data.hdf5 import read_manifest, read_vocabulary
from caption.data.sampler import BucketSampler, sequential_batches
from caption.data.vocabulary import END, PAD, tokenise
from caption.errors import UserError


def captions_of(batch) -> list[tuple[int, ...]]:
    """Index of the image and words of every caption of a batch."""
    return [
        (batch.indices[b], *batch.captions[b, q, : batch.lengths[b, q]].tolist())
        for b in range(len(batch.indices))
        for q in range(batch.lengths.shape[1])
        if batch.lengths[b, q]
    ]


@pytest.mark.parametrize("batching", ["images", "lengths"])
def test_an_epoch_has_every_caption_once(shapes: Path, batching: str) -> None:
    data = CaptionDataset(shapes, "train")
    rows, batches = training_batches(data, batching, 8, seed=1)
    batches.set_epoch(3)
    seen = Counter(caption for batch in build_loader(rows, batches) for caption in captions_of(batch))
    vocabulary = read_vocabulary(shapes)
    expected = Counter(
        (index, *vocabulary.encode(tokenise(text)), END)
        for index, texts in enumerate(data.references())
        for text in texts
    )
    assert seen == expected and sum(seen.values()) == 200


def test_batches_of_one_length_have_no_padding(shapes: Path) -> None:
    rows, batches = training_batches(CaptionDataset(shapes, "train"), "lengths", 8, seed=1)
    for batch in build_loader(rows, batches):
        assert len(set(batch.lengths.flatten().tolist())) == 1 and (batch.captions != PAD).all()


def test_other_company_every_epoch_and_the_same_when_repeated(shapes: Path) -> None:
    _, batches = training_batches(CaptionDataset(shapes, "train"), "images", 4, seed=1)
    epochs = []
    for epoch in (1, 2, 1):
        batches.set_epoch(epoch)
        epochs.append(list(batches))
    assert epochs[0] == epochs[2]
    assert len({frozenset(batch) for batch in epochs[0]} & {frozenset(batch) for batch in epochs[1]}) <= 1
    batches.set_epoch(1, skip=3)
    assert list(batches) == epochs[0][3:] and len(batches) == len(epochs[0]) - 3


def test_grouping_saves_padding() -> None:
    """Steps run over steps needed: the grouped batches waste less than half of what random ones do."""
    generator = np.random.default_rng(0)
    lengths = -np.sort(-generator.poisson(9, (4000, 5)) - 3, axis=1)  # falling, like COCO's

    def waste(batches: list[list[int]]) -> float:
        run = sum(len(batch) * lengths[batch].max(0).sum() for batch in batches)
        return run / lengths.sum() - 1

    grouped = waste(list(BucketSampler(-lengths, 16, seed=1)))
    assert grouped < 0.5 * waste(sequential_batches(4000, 16))


def test_collate_sorts_and_pads() -> None:
    words = [np.array(w, np.int32) for w in ([4], [5, 6], [7, 8, 9], [])]
    batch = collate([10, 11], [[words[0], words[1]], [words[2], words[3], words[0]]], torch.tensor)
    assert batch.indices == [11, 10] and batch.images.tolist() == [11, 10]
    assert batch.lengths.tolist() == [[4, 2, 1], [3, 2, 0]]
    assert batch.captions[0].tolist() == [[7, 8, 9, END], [4, END, PAD, PAD], [END, PAD, PAD, PAD]]
    assert batch.captions[1].tolist() == [[5, 6, END, PAD], [4, END, PAD, PAD], [PAD] * 4]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_two_workers(shapes: Path, start: str) -> None:
    """An open file in the parent must neither be inherited nor pickled."""
    data = CaptionDataset(shapes, "test")
    data.read_images([0])
    alone = list(build_loader(data, sequential_batches(10, 4)))
    loader = build_loader(data, sequential_batches(10, 4), workers=2)
    loader.multiprocessing_context = multiprocessing.get_context(start)
    for one, two in zip(alone, loader, strict=True):
        assert one.indices == two.indices and torch.equal(one.images, two.images)


@pytest.mark.parametrize("batching", ["images", "lengths"])
def test_images_that_are_kept(shapes: Path, batching: str) -> None:
    """The same batches, and the file is not read any more."""
    data, kept = CaptionDataset(shapes, "train"), CaptionDataset(shapes, "train")
    kept.cache_on(torch.device("cpu"))
    assert kept.cached is not None and kept.cached.nbytes == kept.nbytes
    kept.records = None  # type: ignore[assignment]
    loaders = [build_loader(*training_batches(each, batching, 8, seed=1)) for each in (data, kept)]
    for one, other in zip(*loaders, strict=True):
        assert one.indices == other.indices and one.images.dtype == other.images.dtype
        assert torch.equal(one.images, other.images) and torch.equal(one.captions, other.captions)


def test_pickles_without_the_open_file(shapes: Path) -> None:
    data = CaptionDataset(shapes, "val")
    data.read_images([0])
    copy = pickle.loads(pickle.dumps(data))
    assert not copy.records._handles and torch.equal(copy.read_images([3]), data.read_images([3]))


def test_reading_draws_nothing_from_the_global_generator(shapes: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(build_loader(CaptionDataset(shapes, "val"), sequential_batches(10, 4)))
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_no_data_file_is_refused(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    for path, message in ((tmp_path / "none.h5", "no such data file"), (tmp_path / "text.h5", "not an HDF5 file")):
        with pytest.raises(UserError, match=message):
            read_manifest(path)
    with pytest.raises(UserError, match="has no split 'dev'; it has train, val, test"):
        CaptionDataset(shapes, "dev")
