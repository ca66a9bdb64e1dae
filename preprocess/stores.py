"""The stores of images in a data file: pixels, features of a frozen encoder, or JPEG files.

A store works in a folder beside the final file until that is complete. Every image has its position from the start, so
the order in which the records are written does not matter, nor does the number of interruptions. HDF5 allocates the
records first and is closed; everything else is added at the end. In between, none of HDF5's own bytes change, so a
process that is killed leaves the file intact.
"""

import errno
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import RECORDS
from caption.data.images import encode_jpeg
from caption.data.records import Extent, extents
from caption.files import naming
from preprocess.hdf5_output import write_hdf5
from preprocess.journal import DATA
from preprocess.report import format_size

CHUNK = 32  # images per job
CHECKSUM, START, LENGTH = range(3)  # columns of a store's table
COPY_RECORDS = 256  # JPEG files that are copied at a time


# Runs in a worker: encodes an image uint8 [3, S, S] whose record has this offset in the file, in bytes.
RecordEncoder = Callable[[NDArray[np.uint8], int], Any]


class Store:
    """The common part: a table with the checksum of each image's record."""

    chunk = CHUNK  # images that are added at a time

    def __init__(self, folder: Path, counts: dict[str, int]) -> None:
        """`counts` is the number of images of each split, in the order of the splits."""
        self.folder, self.counts = folder, counts
        self.path = folder / DATA
        # Image numbers of each split: the first, and one more than the last.
        self.ranges = dict(zip(counts, pairwise(accumulate(counts.values(), initial=0)), strict=True))

    def allocate(self, fresh: bool) -> None:
        """Allocate everything, or reopen what an interrupted run has left."""
        total = sum(self.counts.values())
        if fresh:  # on the disk: a page that a full one has no room for would end the process with a signal
            with naming(self.folder / "rows"):
                (self.folder / "rows").write_bytes(bytes(24 * total))
        self.table = np.memmap(self.folder / "rows", np.int64, "r+", shape=(total, 3))

    def sync(self) -> None:
        """Write everything that any process added to the disk."""
        if self.path.exists():  # JPEG files come into it at the end
            with naming(self.path), self.path.open("r+b") as file:
                os.fsync(file.fileno())
                if hasattr(os, "posix_fadvise"):  # drop it from the cache, which COCO would fill
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.table.flush()

    def offsets(self, numbers: Sequence[int]) -> list[int]:
        """Return the positions of the images' records in bytes, for the workers that write them."""
        return [0] * len(numbers)


class FixedSizeStore(Store):
    """A store whose records have one size."""

    kind: str

    def __init__(self, folder: Path, counts: dict[str, int], shape: tuple[int, ...], dtype: str) -> None:
        super().__init__(folder, counts)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.length = self.dtype.itemsize * int(np.prod(shape))
        self.nbytes = self.length * sum(counts.values())
        self.estimate = f"{sum(counts.values())} images will take {format_size(self.nbytes)}"

    def allocate(self, fresh: bool) -> None:
        super().allocate(fresh)
        blank = self.path if fresh else self.folder / "blank.h5"
        layout = self._write_layout(blank)
        if not fresh:
            _restore(self.path, blank, [(e.offset, e.offset + e.length * self.length) for e in layout])
            blank.unlink()
        self._offsets = [extent.offset + i * self.length for extent in layout for i in range(extent.length)]

    def _write_layout(self, path: Path) -> list[Extent]:
        """Write an HDF5 file that only allocates the records; return where they lie, split by split."""
        layout = []
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with write_hdf5(path, "w") as file:
            for split, count in self.counts.items():
                name, shape = f"{split}/{RECORDS[self.kind]}", (count, *self.shape)
                layout += extents(file.create_dataset(name, shape, self.dtype, dcpl=properties))
        return layout

    def offsets(self, numbers: Sequence[int]) -> list[int]:
        return [self._offsets[number] for number in numbers]

    def open(self) -> AbstractContextManager[h5py.File]:
        """Open the file to complete it."""
        return write_hdf5(self.path, "r+")

    def complete_split(self, file: h5py.File, split: str, numbers: NDArray[np.int64]) -> None:
        """Keep only the images with these numbers in a split; a virtual data set skips the others."""
        group, name, (first, end) = file[split], RECORDS[self.kind], self.ranges[split]
        group["checksums"] = self.table[numbers, CHECKSUM].astype(np.uint32)
        if len(numbers) == end - first:
            return
        file.require_group("stored")
        file.move(f"{split}/{name}", f"stored/{split}")
        if not len(numbers):
            group.create_dataset(name, (0, *self.shape), self.dtype)
            return
        stored = h5py.VirtualSource(".", f"/stored/{split}", (end - first, *self.shape), self.dtype)
        layout = h5py.VirtualLayout((len(numbers), *self.shape), self.dtype)
        gaps = np.flatnonzero(np.diff(numbers) != 1) + 1
        for position, run in zip([0, *gaps], np.split(numbers - first, gaps), strict=True):
            layout[position : position + len(run)] = stored[run[0] : run[-1] + 1]
        layout.dcpl.set_obj_track_times(False)  # otherwise the file would contain the time of its creation
        group.create_virtual_dataset(name, layout)


class PixelStore(FixedSizeStore):
    """Pixels uint8 [3, S, S], written by the workers: passing 150 kB per image to another process would be slower."""

    kind = "pixels"

    def __init__(self, folder: Path, counts: dict[str, int], size: int) -> None:
        super().__init__(folder, counts, (3, size, size), "uint8")
        self.encode_record: RecordEncoder = RecordWriter(str(self.path))

    def add(self, numbers: Sequence[int], checksums: Sequence[int]) -> None:
        """Keep what the workers returned for images."""
        self.table[list(numbers), CHECKSUM] = checksums


class RecordWriter:
    """Write a record at its offset in the file and return its checksum. Every worker opens the file for itself."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: Any = None

    def __call__(self, image: NDArray[Any], offset: int) -> int:
        if self.file is None:
            self.file = open(self.path, "r+b", buffering=0)  # noqa: PTH123, SIM115
        record = memoryview(image.data).cast("B")
        with naming(Path(self.path)):
            self.file.seek(offset)
            if self.file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return zlib.crc32(record)


class FeatureStore(FixedSizeStore):
    """Features float16 [L, D] of a frozen encoder, computed in the main process, on the GPU if there is one.

    The batch size is constant, with blank images for missing ones, so that an image's features do not depend on the
    other images of its batch.
    """

    kind = "features"

    def __init__(
        self, folder: Path, counts: dict[str, int], encoder: Any, shape: tuple[int, ...], batch_size: int
    ) -> None:
        super().__init__(folder, counts, shape, "float16")
        self.encoder, self.chunk = encoder, batch_size
        self.write = RecordWriter(str(self.path))

    @staticmethod
    def encode_record(image: NDArray[np.uint8], offset: int) -> NDArray[np.uint8]:
        return image

    def add(self, numbers: Sequence[int], images: Sequence[NDArray[np.uint8]]) -> None:
        batch = np.zeros((self.chunk, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        features = self.encoder(batch)
        for number, offset, record in zip(numbers, self.offsets(numbers), features, strict=False):
            self.table[number, CHECKSUM] = self.write(record, offset)


class JpegStore(Store):
    """JPEG files of S x S pixels. Since their lengths differ, they are collected in a file of their own first."""

    def __init__(self, folder: Path, counts: dict[str, int], quality: int, mean_length: float) -> None:
        super().__init__(folder, counts)
        self.encode_record: RecordEncoder = partial(_encode, quality=quality)
        self.collected = folder / "jpegs"
        total = mean_length * sum(counts.values())
        self.nbytes = int(2 * total)  # both files exist while the data file is completed
        self.estimate = f"{sum(counts.values())} images will take about {format_size(total)}, and twice that at the end"

    def allocate(self, fresh: bool) -> None:
        super().allocate(fresh)
        self.file = self.collected.open("w+b" if fresh else "r+b", buffering=0)
        self.end = int((self.table[:, START] + self.table[:, LENGTH]).max(initial=0))

    def add(self, numbers: Sequence[int], jpegs: Sequence[bytes]) -> None:
        self.file.seek(self.end)
        content = b"".join(jpegs)
        with naming(self.collected):
            if self.file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for number, jpeg in zip(numbers, jpegs, strict=True):
            self.table[number] = zlib.crc32(jpeg), self.end, len(jpeg)
            self.end += len(jpeg)

    def sync(self) -> None:
        with naming(self.collected):
            os.fsync(self.file.fileno())
        super().sync()

    def open(self) -> AbstractContextManager[h5py.File]:
        return write_hdf5(self.path, "w")

    def complete_split(self, file: h5py.File, split: str, numbers: NDArray[np.int64]) -> None:
        group, rows = file.require_group(split), self.table[numbers]
        group["checksums"] = rows[:, CHECKSUM].astype(np.uint32)
        offsets = np.cumsum([0, *rows[:, LENGTH]])
        group["jpeg_offsets"] = offsets
        jpegs = group.create_dataset("jpegs", offsets[-1:], np.uint8)
        for i in range(0, len(rows), COPY_RECORDS):
            content = b"".join(self._read(row) for row in rows[i : i + COPY_RECORDS])
            jpegs[offsets[i] : offsets[i] + len(content)] = np.frombuffer(content, np.uint8)

    def _read(self, row: NDArray[np.int64]) -> bytes:
        self.file.seek(int(row[START]))
        return self.file.read(int(row[LENGTH]))


def _encode(image: NDArray[np.uint8], offset: int, quality: int) -> bytes:
    return encode_jpeg(image, quality)


def _restore(path: Path, blank: Path, records: Sequence[tuple[int, int]]) -> None:
    """Undo what HDF5 may have begun to add to a file: copy all bytes but the records' (first, end) from `blank`."""
    with blank.open("rb") as source, path.open("r+b") as target:
        size = source.seek(0, os.SEEK_END)
        target.truncate(size)
        position = 0
        for first, end in [*sorted(records), (size, size)]:
            source.seek(position)
            target.seek(position)
            target.write(source.read(first - position))
            position = end
