"""One HDF5 file -> batches of images with their captions.

Layout of the file (written by `preprocess`):

    attributes                       format, manifest (JSON: what made it)
    vocabulary [V]                   words, the four special ones first
    <split>/images [N, 3, S, S]      uint8
    <split>/image_ids [N]            int64
    <split>/file_names [N]           text
    <split>/references [C]           raw captions, those of an image side by side
    <split>/image_captions [N + 1]   image n has the captions image_captions[n] to image_captions[n + 1]
    <split>/words [W]                int32, all encoded captions in a row, without start and end
    <split>/caption_words [C + 1]    caption c has the words caption_words[c] to caption_words[c + 1]
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from caption.config import ImageConfig
from caption.errors import UserError
from caption.vocabulary import END, PAD, Vocabulary

FORMAT = "show-attend-and-tell data 1"
SPLITS = ("train", "val", "test")


class Item(NamedTuple):
    """An image with some of its encoded captions."""

    number: int  # of the image in its split
    image: NDArray[np.uint8]  # [3, S, S]
    captions: list[NDArray[np.int32]]


class Batch(NamedTuple):
    """Images with their captions, those of an image by falling length and the images by their longest."""

    indices: list[int]  # of the images in their split
    images: Tensor  # uint8 [B, 3, S, S]
    captions: Tensor  # int64 [B, Q, T], each ended by <end>, then padding
    lengths: Tensor  # int64 [B, Q] with <end>; 0: no such caption


def open_file(path: str | Path) -> h5py.File:
    """The data file, for reading. Raises UserError when it is none."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such data file; make it with python -m preprocess")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or cut off; make it with python -m preprocess")
    file = h5py.File(path, "r")
    if file.attrs.get("format") != FORMAT:
        raise UserError(f"{path}: not a data file of this program ({FORMAT}); make it with python -m preprocess")
    return file


def read_vocabulary(path: str | Path) -> Vocabulary:
    with open_file(path) as file:
        return Vocabulary(file["vocabulary"].asstr()[:].tolist())


def read_manifest(path: str | Path) -> dict[str, Any]:
    with open_file(path) as file:
        manifest: dict[str, Any] = json.loads(file.attrs["manifest"])
        return manifest


def read_image_config(path: str | Path) -> ImageConfig:
    manifest = read_manifest(path)
    return ImageConfig(manifest["size"], manifest["fit"])


def check_fits(path: str | Path, vocabulary: Vocabulary, image: ImageConfig) -> None:
    """Raises UserError when the file numbers words, or brings pictures into a square, differently from the model."""
    own = read_vocabulary(path)
    if own.digest != vocabulary.digest:
        raise UserError(
            f"{path}: its vocabulary ({len(own)} words, digest {own.digest[:8]}) is not the model's ({len(vocabulary)} "
            f"words, {vocabulary.digest[:8]}); make the file again with --vocabulary and the model's training data"
        )
    found = read_image_config(path)
    if found != image:
        raise UserError(
            f"{path}: its pictures have size {found.size} ({found.fit}), the model's {image.size} ({image.fit}); make "
            f"the file again with --size {image.size} --fit {image.fit}"
        )


class CaptionData(Dataset[Item]):
    """One split of a data file: images with all their captions.

    The arrays of captions are read once; the file is opened anew in each process that reads pictures, because an HDF5
    handle does not survive a fork, nor pickling.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        self.path, self.split = str(path), split
        with open_file(path) as file:
            if split not in file:
                there = ", ".join(name for name in SPLITS if name in file)
                raise UserError(f"{path}: has no split {split!r}; it has {there}")
            group = file[split]
            self.image_ids: list[int] = group["image_ids"][:].tolist()
            self.file_names: list[str] = group["file_names"].asstr()[:].tolist()
            self.image_captions: NDArray[np.int64] = group["image_captions"][:]
            self.caption_words: NDArray[np.int64] = group["caption_words"][:]
            self.words: NDArray[np.int32] = group["words"][:]
        self._file: h5py.File | None = None
        self._process = -1

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": -1}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of every caption [C], with <end>."""
        return np.diff(self.caption_words) + 1

    def group(self) -> h5py.Group:
        """The split's group, its file opened in this process."""
        if self._file is None or self._process != os.getpid():
            self._file, self._process = open_file(self.path), os.getpid()
        return self._file[self.split]

    def references(self) -> list[list[str]]:
        """The raw captions of every image, in the file's order."""
        with open_file(self.path) as file:
            texts = file[self.split]["references"].asstr()[:].tolist()
        return [texts[a:b] for a, b in zip(self.image_captions[:-1], self.image_captions[1:], strict=True)]

    def caption(self, number: int) -> NDArray[np.int32]:
        """Encoded caption c of the split, without start and end."""
        return self.words[self.caption_words[number] : self.caption_words[number + 1]]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Picture uint8 [3, S, S]."""
        picture: NDArray[np.uint8] = self.group()["images"][index]
        return picture

    def __getitem__(self, index: int) -> Item:
        """An image and all its captions."""
        numbers = range(self.image_captions[index], self.image_captions[index + 1])
        return Item(index, self.image(index), [self.caption(number) for number in numbers])


class SingleCaptions(Dataset[Item]):
    """The same split, one caption a row: item c is caption c with its image."""

    def __init__(self, data: CaptionData) -> None:
        self.data = data
        self.image_of = np.repeat(np.arange(len(data)), np.diff(data.image_captions))

    def __len__(self) -> int:
        return len(self.image_of)

    def __getitem__(self, number: int) -> Item:
        index = int(self.image_of[number])
        return Item(index, self.data.image(index), [self.data.caption(number)])


def collate(items: Sequence[Item]) -> Batch:
    """Items -> one padded batch, sorted so that the decoder's steps shrink early."""
    rows = [sorted(item.captions, key=len, reverse=True) for item in items]
    order = sorted(range(len(items)), key=lambda b: -len(rows[b][0]) if rows[b] else 0)
    most = max(1, max(len(row) for row in rows))
    longest = max((len(row[0]) + 1 for row in rows if row), default=1)
    captions = np.full((len(items), most, longest), PAD, dtype=np.int64)
    lengths = np.zeros((len(items), most), dtype=np.int64)
    for b, place in enumerate(order):
        for q, words in enumerate(rows[place]):
            captions[b, q, : len(words)] = words
            captions[b, q, len(words)] = END
            lengths[b, q] = len(words) + 1
    return Batch(
        [items[place].number for place in order],
        torch.from_numpy(np.stack([items[place].image for place in order])),
        torch.from_numpy(captions),
        torch.from_numpy(lengths),
    )


class GroupedBatches(Sampler[list[int]]):
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
) -> tuple[Dataset[Item], GroupedBatches]:
    """The data set and its batches: "images" with all their captions, or captions of equal "lengths"."""
    lengths = data.lengths
    if batching == "lengths":
        return SingleCaptions(data), GroupedBatches(lengths[:, None], batch_size, seed, pure=True)
    most = int(np.diff(data.image_captions).max())
    keys = np.zeros((len(data), most), dtype=np.int64)  # falling lengths of each image's captions
    for index, (a, b) in enumerate(zip(data.image_captions[:-1], data.image_captions[1:], strict=True)):
        keys[index, : b - a] = -np.sort(-lengths[a:b])
    return data, GroupedBatches(keys, batch_size, seed)


def make_loader(
    data: Dataset[Item], batches: Sampler[list[int]] | Sequence[list[int]], workers: int = 0, pin: bool = False
) -> DataLoader[Item]:
    """Batches in the sampler's order. Its generator is its own: reading data draws nothing from the global one."""
    return DataLoader(
        data,
        batch_sampler=batches,
        collate_fn=collate,
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
