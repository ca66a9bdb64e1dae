"""Batches of images and captions: complete, and the same in every process."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caption.data import dataset
from caption.data.dataset import CaptionDataset, build_loader, collate, training_batches
from caption.data.hdf5 import read_manifest, read_vocabulary
from caption.data.sampler import sequential_batches
from caption.data.vocabulary import END, PAD
from caption.data.words import tokenise
from caption.errors import UserError


def captions_of(batch) -> list[tuple[int, ...]]:
    """Return the index of the image and the words of every caption of a batch."""
    return [
        (batch.indices[b], *batch.captions[b, q, : batch.lengths[b, q]].tolist())
        for b in range(len(batch.indices))
        for q in range(batch.lengths.shape[1])
        if batch.lengths[b, q]
    ]


@pytest.mark.parametrize("batch_by", ["images", "mixed", "lengths"])
def test_an_epoch_has_every_caption_once(shapes: Path, batch_by: str) -> None:
    data = CaptionDataset(shapes, "train")
    rows, batches = training_batches(data, batch_by, 8, seed=1)
    batches.set_epoch(3)
    counts = Counter(caption for batch in build_loader(rows, batches) for caption in captions_of(batch))
    vocabulary = read_vocabulary(shapes)
    expected = Counter(
        (index, *vocabulary.encode(tokenise(text)), END)
        for index, texts in enumerate(data.references())
        for text in texts
    )
    assert counts == expected and sum(counts.values()) == 3 * 40


def test_batches_of_one_length_have_no_padding(shapes: Path) -> None:
    rows, batches = training_batches(CaptionDataset(shapes, "train"), "lengths", 8, seed=1)
    for batch in build_loader(rows, batches):
        assert len(set(batch.lengths.flatten().tolist())) == 1 and (batch.captions != PAD).all()


def test_collate_sorts_and_pads() -> None:
    words = [np.array(w, np.int32) for w in ([4], [5, 6], [7, 8, 9], [])]
    batch = collate([10, 11], [[words[0], words[1]], [words[2], words[3], words[0]]], torch.tensor)
    assert batch.indices == [11, 10] and batch.images.tolist() == [11, 10]
    assert batch.lengths.tolist() == [[4, 2, 1], [3, 2, 0]]
    assert batch.captions[0].tolist() == [[7, 8, 9, END], [4, END, PAD, PAD], [END, PAD, PAD, PAD]]
    assert batch.captions[1].tolist() == [[5, 6, END, PAD], [4, END, PAD, PAD], [PAD] * 4]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_give_the_same_batches(shapes: Path, start: str) -> None:
    """The parent's open file must be neither inherited nor pickled."""
    data = CaptionDataset(shapes, "test")
    data.read_images([0])
    expected = list(build_loader(data, sequential_batches(10, 4)))
    loader = build_loader(data, sequential_batches(10, 4), workers=2)
    loader.multiprocessing_context = multiprocessing.get_context(start)
    for one, two in zip(expected, loader, strict=True):
        assert one.indices == two.indices and torch.equal(one.images, two.images)


@pytest.mark.parametrize("batch_by", ["images", "mixed", "lengths"])
def test_cached_images_give_the_same_batches(shapes: Path, batch_by: str) -> None:
    """The cached data set does not read the file any more."""
    data, cached = CaptionDataset(shapes, "train"), CaptionDataset(shapes, "train")
    cached.cache_on(torch.device("cpu"))
    assert cached.cached is not None and cached.cached.nbytes == cached.nbytes
    cached.records = None  # type: ignore[assignment]
    loaders = [build_loader(*training_batches(split, batch_by, 8, seed=1)) for split in (data, cached)]
    for one, other in zip(*loaders, strict=True):
        assert one.indices == other.indices and one.images.dtype == other.images.dtype
        assert torch.equal(one.images, other.images) and torch.equal(one.captions, other.captions)


def test_threads_fill_the_cache_together(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a file handle of its own: a shared one would have one position."""
    data, together = CaptionDataset(shapes, "train"), threading.Barrier(2, timeout=10)
    read, expected = data.records.read, data.read_images(range(40))

    def wait_and_read(*arguments: Any) -> None:
        together.wait()  # until two threads are here
        read(*arguments)

    monkeypatch.setattr(data.records, "read", wait_and_read)
    monkeypatch.setattr(dataset, "CACHE_BATCH", 10)
    data.cache_on(torch.device("cpu"))
    assert torch.equal(data.cached, expected) and len(data.records._handles) >= 3  # and this thread's


def test_a_pickled_data_set_has_no_open_file(shapes: Path) -> None:
    data = CaptionDataset(shapes, "val")
    data.read_images([0])
    copy = pickle.loads(pickle.dumps(data))
    assert not copy.records._handles and torch.equal(copy.read_images([3]), data.read_images([3]))


def test_loading_does_not_use_the_global_generator(shapes: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(build_loader(CaptionDataset(shapes, "val"), sequential_batches(10, 4)))
    assert torch.equal(before, torch.get_rng_state())


def test_other_files_and_unknown_splits_are_refused(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no")
    for path, message in ((tmp_path / "none.h5", "no such data file"), (tmp_path / "text.h5", "not an HDF5 file")):
        with pytest.raises(UserError, match=message):
            read_manifest(path)
    with pytest.raises(UserError, match="has no split 'dev'; it has train, val, test"):
        CaptionDataset(shapes, "dev")


def test_older_formats_are_refused_with_the_remedy(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    path.write_bytes(shapes.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "show-attend-and-tell data 2"
    with pytest.raises(UserError, match=r"its format is '.* data 2', but must be '.* data 4'; make it again"):
        read_manifest(path)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_a_worker_that_gets_a_signal_while_it_starts_goes_on(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun and schedulers signal every process, and workers start anew at every validation."""
    monkeypatch.setattr(dataset, "_ignore_interrupt", lambda worker: os.kill(os.getpid(), signal.SIGTERM))
    loader = dataset.build_loader(CaptionDataset(shapes, "val"), [[0, 1], [2]], workers=1)
    assert [len(batch.indices) for batch in loader] == [2, 1]


def test_an_error_ends_a_program_whose_workers_wait(shapes: Path) -> None:
    """Workers ignore the SIGTERM by which Python would end them, and it would wait for them for ever."""
    program = (
        "import sys; from caption.data.dataset import CaptionDataset, build_loader\n"
        "batches = iter(build_loader(CaptionDataset(sys.argv[1], 'train'), [[0], [1], [2]], workers=1))\n"
        "next(batches); 1 / 0"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(shapes)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
    )
    try:
        errors = child.communicate(timeout=30)[1]
    finally:
        child.kill()
    assert child.returncode == 1 and errors.splitlines()[-1] == "ZeroDivisionError: division by zero"
