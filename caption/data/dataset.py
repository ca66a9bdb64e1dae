"""A split of the data file -> batches of images with their captions."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from caption.data.hdf5 import Records, open_file
from caption.data.vocabulary import END, PAD
from caption.device import to_device


class Batch(NamedTuple):
    """Images with their captions, those of an image by falling length and the images by their longest."""

    indices: list[int]  # of the images in their split
    images: Tensor  # uint8 [B, 3, S, S], or stored features float16 [B, L, D]
    captions: Tensor  # int64 [B, Q, T], each ended by <end>, then padding
    lengths: Tensor  # int64 [B, Q] with <end>; 0: no such caption


class CaptionData(Dataset[Batch]):
    """One split of a data file: images with all their captions.

    The arrays of captions are read once; pictures are read when they are asked for, a batch at a time.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        self.path, self.split = str(path), split
        self.records = Records(path, split)
        with open_file(path) as file:
            group = file[split]
            self.image_ids: list[int] = group["image_ids"][:].tolist()
            self.file_names: list[str] = group["file_names"].asstr()[:].tolist()
            self.image_captions: NDArray[np.int64] = group["image_captions"][:]
            self.caption_words: NDArray[np.int64] = group["caption_words"][:]
            self.words: NDArray[np.int32] = group["words"][:]
        self.resident: Tensor | None = None  # all images, where `keep_on` put them
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of every caption [C], with <end>."""
        return np.diff(self.caption_words) + 1

    def references(self) -> list[list[str]]:
        """The raw captions of every image, in the file's order."""
        with open_file(self.path) as file:
            texts = file[self.split]["references"].asstr()[:].tolist()
        return [texts[a:b] for a, b in zip(self.image_captions[:-1], self.image_captions[1:], strict=True)]

    def caption(self, number: int) -> NDArray[np.int32]:
        """Encoded caption c of the split, without start and end."""
        return self.words[self.caption_words[number] : self.caption_words[number + 1]]

    def captions(self, index: int) -> list[NDArray[np.int32]]:
        """All encoded captions of an image."""
        return [self.caption(number) for number in range(self.image_captions[index], self.image_captions[index + 1])]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Pictures uint8 [B, 3, S, S], or features float16 [B, L, D], each read straight into its place."""
        if self.resident is not None:
            return self.resident.index_select(0, to_device(torch.tensor(indices), self.resident.device))
        if self._process != os.getpid():
            self.records.after_fork()
            self._process = os.getpid()
        images = np.empty((len(indices), *self.records.shape), self.records.dtype)
        self.records.read(indices, images)
        return torch.from_numpy(images)

    def keep_on(self, device: torch.device) -> None:
        """Read all images once and keep them there: no batch is read, or brought to a GPU, any more. The loader must
        then have no workers: they could not hand over what is there."""
        images = torch.from_numpy(np.empty(0, self.records.dtype)).new_empty(
            (len(self), *self.records.shape), device=device
        )
        for some in in_order(len(self), 256):
            images[some[0] : some[-1] + 1] = self.images(some)
        self.resident = images

    @property
    def size(self) -> int:
        """Bytes of all its images, as `images` gives them."""
        return len(self) * math.prod(self.records.shape) * self.records.dtype.itemsize

    @property
    def features(self) -> bool:
        return self.records.store == "features"

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images with all their captions, as one batch."""
        return collate(indices, [self.captions(index) for index in indices], self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])


class SingleCaptions(Dataset[Batch]):
    """The same split, one caption a row: item c is caption c with its image."""

    def __init__(self, data: CaptionData) -> None:
        self.data = data
        self.image_of = np.repeat(np.arange(len(data)), np.diff(data.image_captions))

    def __len__(self) -> int:
        return len(self.image_of)

    def __getitems__(self, numbers: list[int]) -> Batch:
        captions = [[self.data.caption(number)] for number in numbers]
        return collate(self.image_of[numbers].tolist(), captions, self.data.images)

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])


def collate(
    indices: Sequence[int],
    captions: Sequence[Sequence[NDArray[np.int32]]],
    read: Callable[[list[int]], Tensor],
) -> Batch:
    """Images, each with some captions -> one padded batch, sorted so that the decoder's steps shrink early; `read`
    gives the images of indices."""
    rows = [sorted(([*words, END] for words in several), key=len, reverse=True) for several in captions]
    order = sorted(range(len(rows)), key=lambda b: -len(rows[b][0]) if rows[b] else 0)
    sorted_indices = [indices[place] for place in order]
    return Batch(sorted_indices, read(sorted_indices), *pad_captions([rows[place] for place in order]))


def pad_captions(captions: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Captions of B images, any number each -> int64 [B, Q, T] with padding after each, and their lengths [B, Q]."""
    most = max(1, max(len(several) for several in captions))
    longest = max((len(words) for several in captions for words in several), default=1)
    padded = np.full((len(captions), most, longest), PAD, dtype=np.int64)
    lengths = np.zeros((len(captions), most), dtype=np.int64)
    for b, several in enumerate(captions):
        for q, words in enumerate(several):
            padded[b, q, : len(words)] = words
            lengths[b, q] = len(words)
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def whole(batch: Any) -> Batch:
    """For the loader: the data set itself makes batches."""
    return batch  # type: ignore[no-any-return]


class BucketSampler(Sampler[list[int]]):
    """Batches of items of like length, in other company every epoch.

    `keys` has a row of sort keys for every item, the first most important. All items are shuffled and cut into pools
    of `pool()` batches; a pool is sorted by keys and cut into batches; the batches are shuffled. With `pure`, a batch
    holds only items with equal keys. The epoch alone decides the order, so that training can resume at any batch.
    """

    POOL = 50

    def __init__(self, keys: NDArray[np.int64], batch_size: int, seed: int, pure: bool = False) -> None:
        self.keys, self.batch_size, self.seed, self.pure = keys, batch_size, seed, pure
        self.epoch, self.skip = 1, 0
        self._made: tuple[int, list[list[int]]] | None = None

    def start(self, epoch: int, skip: int = 0) -> None:
        """The next iteration is over this epoch, without its first `skip` batches."""
        self.epoch, self.skip = epoch, skip

    def batches(self) -> list[list[int]]:
        """All batches of the epoch."""
        if self._made is None or self._made[0] != self.epoch:
            self._made = self.epoch, self._make()
        return self._made[1]

    def pool(self) -> int:
        """Batches in a pool: a quarter of a small data set, or sorting would always seat the same items together."""
        return max(1, min(self.POOL, len(self.keys) // self.batch_size // 4))

    def _make(self) -> list[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.keys))
        pool = len(order) if self.pure else self.batch_size * self.pool()
        batches: list[list[int]] = []
        for begin in range(0, len(order), pool):
            members = order[begin : begin + pool]
            members = members[np.lexsort(self.keys[members].T[::-1])]
            keys = self.keys[members]
            changes: Any = np.flatnonzero((keys[1:] != keys[:-1]).any(1)) + 1 if self.pure else []
            for run in np.split(members, changes):
                batches += [run[i : i + self.batch_size].tolist() for i in range(0, len(run), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def __len__(self) -> int:
        return len(self.batches()) - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches()[self.skip :])


def training_batches(
    data: CaptionData, batching: str, batch_size: int, seed: int
) -> tuple[Dataset[Batch], BucketSampler]:
    """The data set and its batches: "images" with all their captions, or captions of equal "lengths"."""
    lengths = data.lengths
    if batching == "lengths":
        return SingleCaptions(data), BucketSampler(lengths[:, None], batch_size, seed, pure=True)
    most = int(np.diff(data.image_captions).max())
    keys = np.zeros((len(data), most), dtype=np.int64)  # falling lengths of each image's captions
    for index, (a, b) in enumerate(zip(data.image_captions[:-1], data.image_captions[1:], strict=True)):
        keys[index, : b - a] = -np.sort(-lengths[a:b])
    return data, BucketSampler(keys, batch_size, seed)


def make_loader(
    data: Dataset[Batch], batches: Sampler[list[int]] | Sequence[list[int]], workers: int = 0, pin: bool = False
) -> DataLoader[Batch]:
    """Batches in the sampler's order. Its generator is its own: reading data draws nothing from the global one."""
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=whole,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupt,
    )


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, reach every process; the main one decides, and needs its workers till then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def in_order(count: int, batch_size: int) -> list[list[int]]:
    """Batches of neighbours: every image once, in file order."""
    return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]
