"""A split of the data file as a PyTorch data set: batches of images with their captions."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from caption.data.hdf5 import manifest_of, open_file, read_checked, read_texts
from caption.data.records import Records
from caption.data.sampler import BucketSampler, sequential_batches
from caption.data.vocabulary import END, PAD
from caption.device import to_device
from caption.errors import UserError

CACHE_BATCH = 64  # images that a thread reads at a time into the cache


class Batch(NamedTuple):
    """Images with their captions: the captions of an image longest first, the images by their longest caption."""

    indices: list[int]  # of the images in their split
    images: Tensor  # uint8 [B, 3, S, S], or stored features float16 [B, L, D]
    captions: Tensor  # int64 [B, Q, T], each ended by <end> and padded
    lengths: Tensor  # int64 [B, Q], <end> included; 0 where an image has fewer than Q captions


class CaptionDataset(Dataset[Batch]):
    """One split of a data file; item n is image n with all its captions. The captions are read once, when the data set
    is made. Images are read on demand, a batch at a time."""

    def __init__(self, path: str | Path, split: str) -> None:
        """Raises UserError if the file is not a data file or lacks the split."""
        self.path, self.split = str(path), split
        self.records = Records(path, split)
        with open_file(path) as file:
            self.word_kind: str = manifest_of(file)["words"]  # one of WORDS
            self.image_ids: list[int] = read_checked(file, f"{split}/image_ids").tolist()
            self.file_names = read_texts(file, f"{split}/file_names")
            self.caption_offsets: NDArray[np.int64] = read_checked(file, f"{split}/caption_offsets")
            self.word_offsets: NDArray[np.int64] = read_checked(file, f"{split}/word_offsets")
            self.words: NDArray[np.int32] = read_checked(file, f"{split}/words")
        self._references: list[str] | None = None
        self.cached: Tensor | None = None  # all images of the split, after `cache_on`

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of words of every caption, <end> included, shape [C]."""
        return np.diff(self.word_offsets) + 1

    @property
    def nbytes(self) -> int:
        """Size in bytes of all images, as `read_images` returns them."""
        return len(self) * int(np.prod(self.records.shape)) * self.records.dtype.itemsize

    @property
    def stores_features(self) -> bool:
        """True if the file holds features of a frozen encoder instead of pixels."""
        return self.records.store == "features"

    def references(self) -> list[list[str]]:
        """Return the raw captions of every image, in the file's order. They are read at the first call and held."""
        if self._references is None:
            self.records.check_unchanged(self.records.path, self.records.path.stat())
            with open_file(self.path) as file:
                self._references = read_texts(file, f"{self.split}/references")
        texts = self._references
        return [texts[a:b] for a, b in zip(self.caption_offsets[:-1], self.caption_offsets[1:], strict=True)]

    def check_captioned(self, remedy: str) -> None:
        """Raise UserError, which ends with the remedy, if an image of the split has no caption."""
        uncaptioned = np.flatnonzero(np.diff(self.caption_offsets) == 0)
        if len(uncaptioned):
            first = self.file_names[uncaptioned[0]]
            raise UserError(
                f"{self.path}, {self.split}: {len(uncaptioned)} of {len(self)} images have no captions, the first is "
                f"{first}; {remedy}"
            )

    def caption(self, number: int) -> NDArray[np.int32]:
        """Return an encoded caption of the split, without <start> and <end>."""
        return self.words[self.word_offsets[number] : self.word_offsets[number + 1]]

    def captions(self, index: int) -> list[NDArray[np.int32]]:
        """Return all encoded captions of an image."""
        return [self.caption(number) for number in range(self.caption_offsets[index], self.caption_offsets[index + 1])]

    def read_images(self, indices: Sequence[int]) -> Tensor:
        """Return images uint8 [B, 3, S, S], or features float16 [B, L, D]."""
        if self.cached is not None:
            return self.cached.index_select(0, to_device(torch.tensor(indices), self.cached.device))
        images = np.empty((len(indices), *self.records.shape), self.records.dtype)
        self.records.read(indices, images)
        return torch.from_numpy(images)

    def cache_on(self, device: torch.device) -> None:
        """Read all images once, by a thread for each core, and keep them on `device`. The loader must then run without
        worker processes, which cannot share a cache."""
        dtype = torch.float16 if self.stores_features else torch.uint8
        images = torch.empty((len(self), *self.records.shape), dtype=dtype, device=device)

        def fill(batch: list[int]) -> None:
            images[batch[0] : batch[-1] + 1] = self.read_images(batch)

        with ThreadPoolExecutor() as threads:  # reading, decoding JPEG and copying release Python's lock
            list(threads.map(fill, sequential_batches(len(self), CACHE_BATCH)))  # raises what they raised
        self.cached = images

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images with all their captions, as one batch."""
        return collate(indices, [self.captions(index) for index in indices], self.read_images)


class SingleCaptionDataset(Dataset[Batch]):
    """The same split with one caption per item: item c is caption c with its image."""

    def __init__(self, data: CaptionDataset) -> None:
        self.data = data
        self.image_of_caption = np.repeat(np.arange(len(data)), np.diff(data.caption_offsets))

    def __len__(self) -> int:
        return len(self.image_of_caption)

    def __getitems__(self, numbers: list[int]) -> Batch:
        """Return captions with their images, as one batch with Q = 1."""
        captions = [[self.data.caption(number)] for number in numbers]
        return collate(self.image_of_caption[numbers].tolist(), captions, self.data.read_images)


def collate(
    indices: Sequence[int],
    captions: Sequence[Sequence[NDArray[np.int32]]],
    read_images: Callable[[list[int]], Tensor],
) -> Batch:
    """Return images with their encoded captions as one padded batch.

    Captions and images are sorted by falling length, so that the decoder can drop finished rows early. `read_images`
    returns the images with the indices it is called with.
    """
    rows = [sorted(([*words, END] for words in image_captions), key=len, reverse=True) for image_captions in captions]
    order = sorted(range(len(rows)), key=lambda b: -len(rows[b][0]) if rows[b] else 0)
    sorted_indices = [indices[b] for b in order]
    return Batch(sorted_indices, read_images(sorted_indices), *pad_captions([rows[b] for b in order]))


def pad_captions(captions: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return the captions of B images, padded to int64 [B, Q, T], and their lengths int64 [B, Q]."""
    max_captions = max(1, max(len(rows) for rows in captions))
    max_length = max((len(words) for rows in captions for words in rows), default=1)
    padded = np.full((len(captions), max_captions, max_length), PAD, dtype=np.int64)
    lengths = np.zeros((len(captions), max_captions), dtype=np.int64)
    for b, rows in enumerate(captions):
        for q, words in enumerate(rows):
            padded[b, q, : len(words)] = words
            lengths[b, q] = len(words)
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def training_batches(
    data: CaptionDataset, batch_by: str, batch_size: int, seed: int, curriculum_epochs: int = 0
) -> tuple[Dataset[Batch], BucketSampler]:
    """Return the data set to train on and the sampler of its batches.

    With `batch_by` "images" or "mixed" an item is an image with all its captions, beside images with captions of
    similar or of any length; with "lengths" an item is one caption, and a batch holds captions of equal length. In the
    first `curriculum_epochs`, items come by the length of their (longest) caption.
    """
    lengths = data.lengths
    if batch_by == "lengths":
        single = SingleCaptionDataset(data)
        exact = BucketSampler(lengths[:, None], batch_size, seed, True, curriculum_epochs=curriculum_epochs)
        return single, exact
    max_captions = int(np.diff(data.caption_offsets).max())
    keys = np.zeros((len(data), max_captions), dtype=np.int64)  # falling lengths of each image's captions
    for index, (a, b) in enumerate(zip(data.caption_offsets[:-1], data.caption_offsets[1:], strict=True)):
        keys[index, : b - a] = -np.sort(-lengths[a:b])
    pool_size = 1 if batch_by == "mixed" else BucketSampler.MAX_POOL_SIZE
    return data, BucketSampler(keys, batch_size, seed, max_pool_size=pool_size, curriculum_epochs=curriculum_epochs)


class _Loader(DataLoader[Batch]):
    """A loader whose workers start with Ctrl-C and SIGTERM blocked.

    Both reach every process, also one that is starting and cannot ignore them yet; the main one gets them afterwards.
    """

    def __iter__(self) -> Any:
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return super().__iter__()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def build_loader(
    data: Dataset[Batch], batches: Sampler[list[int]] | Sequence[list[int]], workers: int = 0, pin: bool = False
) -> DataLoader[Batch]:
    """Return a loader of the batches in their order. It uses nothing of the global random generator."""
    if workers:
        atexit.register(_kill_workers)
    return _Loader(
        data,
        batch_sampler=batches,
        collate_fn=identity,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupt,
    )


def identity(batch: Any) -> Batch:
    """Return the batch unchanged: `__getitems__` has collated it. A lambda could not be pickled for the workers."""
    return batch  # type: ignore[no-any-return]


def _ignore_interrupt(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach every process: the main one needs its workers until it stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _kill_workers() -> None:
    """End the workers that an error left alive; Python would ask them by SIGTERM, which they ignore, and wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would take their end for an error
    for worker in multiprocessing.active_children():
        worker.kill()
