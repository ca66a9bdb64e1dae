"""The three ways to keep pictures in the data file: their pixels, JPEG files, or the features of a frozen encoder.

A store works in a folder beside the final file until that is whole. Picture n of the listing has a place of its own
from the beginning, so it does not matter in which order, and after how many interruptions, the places are filled.
HDF5 lays the places out first and is closed; it adds everything else in the end. In between, no byte of its own
changes: a process that is killed leaves nothing half-changed behind.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import RECORDS, Extent, extents
from caption.data.images import encode_jpeg
from preprocess.journal import DATA

CHECKSUM, START, LENGTH = range(3)  # columns of the table of rows


class Maker(Protocol):
    """What a worker makes of a picture uint8 [3, S, S] whose place in the file is `place`, in bytes."""

    def __call__(self, picture: NDArray[np.uint8], place: int) -> Any: ...


class Store:
    """Common to all: a table of rows with the checksum of each picture's record."""

    kind: str

    def __init__(self, folder: Path, counts: dict[str, int]) -> None:
        """`counts`: pictures of each split, in their order."""
        self.folder, self.counts = folder, counts
        self.path = folder / DATA
        ends = np.cumsum([0, *counts.values()])
        self.ranges = dict(zip(counts, pairwise(ends.tolist()), strict=True))  # numbers of each split's pictures
        self.rows: NDArray[np.int64]

    def begin(self, fresh: bool) -> None:
        """Lay everything out; or find it as it was left."""
        total = sum(self.counts.values())
        self.rows = np.memmap(self.folder / "rows", np.int64, "w+" if fresh else "r+", shape=(total, 3))

    def sync(self) -> None:
        """All that was kept is on the disk."""
        self.rows.flush()  # type: ignore[attr-defined]

    def places(self, numbers: Sequence[int]) -> list[int]:
        """Where the pictures' records begin, for the worker that makes them."""
        return [0] * len(numbers)


class Fixed(Store):
    """Records of one size."""

    def __init__(self, folder: Path, counts: dict[str, int], shape: tuple[int, ...], dtype: str) -> None:
        super().__init__(folder, counts)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.length = self.dtype.itemsize * int(np.prod(shape))
        self.bytes = self.length * sum(counts.values())
        self.told = f"{sum(counts.values())} pictures will take {format_size(self.bytes)}"

    def begin(self, fresh: bool) -> None:
        super().begin(fresh)
        blank = self.path if fresh else self.folder / "blank.h5"
        found = self._lay_out(blank)
        if not fresh:
            _restore(self.path, blank, [(p.offset, p.offset + p.length * self.length) for p in found.values()])
            blank.unlink()
        self._offsets = np.zeros(len(self.rows), np.int64)
        for split, piece in found.items():
            first, end = self.ranges[split]
            self._offsets[first:end] = piece.offset + self.length * np.arange(piece.length)

    def _lay_out(self, path: Path) -> dict[str, Extent]:
        """An HDF5 file with a place for every record and nothing else; where they are."""
        found = {}
        with h5py.File(path, "w") as file:
            for split, count in self.counts.items():
                group = file.create_group(split)
                plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                plan.set_obj_track_times(False)
                space = h5py.h5s.create_simple((count, *self.shape))
                kind = h5py.h5t.py_create(self.dtype, logical=True)
                h5py.h5d.create(group.id, RECORDS[self.kind].encode(), kind, space, plan)
                if count:
                    (found[split],) = extents(group[RECORDS[self.kind]])
        return found

    def places(self, numbers: Sequence[int]) -> list[int]:
        places: list[int] = self._offsets[list(numbers)].tolist()
        return places

    def sync(self) -> None:
        _flush(self.path)
        super().sync()

    def open(self) -> h5py.File:
        """The file, to be finished."""
        return h5py.File(self.path, "r+")

    def finish(self, file: h5py.File, split: str, members: NDArray[np.int64]) -> None:
        """Leave only the numbers `members` of a split; a virtual data set passes over the gaps."""
        group, name, (first, end) = file[split], RECORDS[self.kind], self.ranges[split]
        group["checksums"] = self.rows[members, CHECKSUM].astype(np.uint32)
        if len(members) == end - first:
            return
        file.require_group("stored")
        file.move(f"{split}/{name}", f"stored/{split}")
        if not len(members):
            group.create_dataset(name, (0, *self.shape), self.dtype)
            return
        stored = h5py.VirtualSource(".", f"/stored/{split}", (end - first, *self.shape), self.dtype)
        layout = h5py.VirtualLayout((len(members), *self.shape), self.dtype)
        at = 0
        for a, b in _stretches(members - first):
            layout[at : at + b - a] = stored[a:b]
            at += b - a
        layout.dcpl.set_obj_track_times(False)  # or the file would hold the time of its making
        group.create_virtual_dataset(name, layout)


class Pixels(Fixed):
    """uint8 [3, S, S]. The workers themselves write them: to hand 150 kB to another process, only for it to do that,
    would slow them down."""

    kind = "pixels"

    def __init__(self, folder: Path, counts: dict[str, int], size: int) -> None:
        super().__init__(folder, counts, (3, size, size), "uint8")
        self.make: Maker = WriteRow(str(self.path))

    def keep(self, numbers: Sequence[int], made: Sequence[Any]) -> None:
        """Note what the workers made of pictures."""
        self.rows[list(numbers), CHECKSUM] = made


class WriteRow:
    """Write a record at its place; its checksum."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "file": None}

    def __call__(self, picture: NDArray[Any], place: int) -> int:
        if self.file is None:
            self.file = open(self.path, "r+b", buffering=0)  # noqa: PTH123, SIM115
        record = memoryview(picture.data).cast("B")
        self.file.seek(place)
        if self.file.write(record) != len(record):
            raise OSError(28, "no space left on the disk", self.path)
        return zlib.crc32(record)


class Features(Fixed):
    """float16 [L, D] of a frozen encoder, made in the main process, on the GPU where there is one.

    Always so many pictures at a time, the missing ones empty, so that a picture's features do not depend on its
    company.
    """

    kind = "features"

    def __init__(self, folder: Path, counts: dict[str, int], encode: Any, shape: tuple[int, ...], batch: int) -> None:
        super().__init__(folder, counts, shape, "float16")
        self.encode, self.batch = encode, batch
        self.write = WriteRow(str(self.path))

    @staticmethod
    def make(picture: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
        return picture

    def keep(self, numbers: Sequence[int], made: Sequence[NDArray[np.uint8]]) -> None:
        pictures = np.zeros((self.batch, *made[0].shape), np.uint8)
        pictures[: len(made)] = made
        features = self.encode(pictures)
        for number, place, record in zip(numbers, self.places(numbers), features, strict=False):
            self.rows[number, CHECKSUM] = self.write(record, place)


class Jpegs(Store):
    """JPEG files of S x S pixels. Their lengths differ, so they wait in a file of their own."""

    kind = "jpeg"

    def __init__(self, folder: Path, counts: dict[str, int], quality: int, mean_length: float) -> None:
        super().__init__(folder, counts)
        self.make: Maker = MakeJpeg(quality)
        self.waiting = folder / "jpegs"
        total = mean_length * sum(counts.values())
        self.bytes = int(2 * total)  # they stand twice while the file is finished
        self.told = f"{sum(counts.values())} pictures will take about {format_size(total)}, and twice that for a while"

    def begin(self, fresh: bool) -> None:
        super().begin(fresh)
        self.file = self.waiting.open("w+b" if fresh else "r+b", buffering=0)
        self.end = int((self.rows[:, START] + self.rows[:, LENGTH]).max(initial=0))

    def keep(self, numbers: Sequence[int], made: Sequence[bytes]) -> None:
        self.file.seek(self.end)
        content = b"".join(made)
        if self.file.write(content) != len(content):
            raise OSError(28, "no space left on the disk", str(self.waiting))
        for number, each in zip(numbers, made, strict=True):
            self.rows[number] = zlib.crc32(each), self.end, len(each)
            self.end += len(each)

    def sync(self) -> None:
        os.fsync(self.file.fileno())
        if self.path.exists():
            _flush(self.path)
        super().sync()

    def open(self) -> h5py.File:
        return h5py.File(self.path, "w")

    def finish(self, file: h5py.File, split: str, members: NDArray[np.int64]) -> None:
        group, rows = file.require_group(split), self.rows[members]
        group["checksums"] = rows[:, CHECKSUM].astype(np.uint32)
        starts = np.cumsum([0, *rows[:, LENGTH]])
        group["jpeg_starts"] = starts
        jpegs = group.create_dataset("jpegs", starts[-1:], np.uint8)
        step = 256
        for i in range(0, len(rows), step):
            found = b"".join(self._read(row) for row in rows[i : i + step])
            jpegs[starts[i] : starts[i] + len(found)] = np.frombuffer(found, np.uint8)

    def _read(self, row: NDArray[np.int64]) -> bytes:
        self.file.seek(int(row[START]))
        return self.file.read(int(row[LENGTH]))


class MakeJpeg:
    """A picture as a JPEG file."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def __call__(self, picture: NDArray[np.uint8], place: int) -> bytes:
        return encode_jpeg(picture, self.quality)


def _flush(path: Path) -> None:
    """All that any process wrote into a file reaches the disk, and need not stay in memory: COCO would fill it."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def format_size(count: float) -> str:
    """So many bytes, for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _restore(path: Path, blank: Path, records: Sequence[tuple[int, int]]) -> None:
    """Undo what HDF5 may have begun to add to a file: all but the records, given by first and last byte, is blank."""
    with blank.open("rb") as source, path.open("r+b") as target:
        size = source.seek(0, os.SEEK_END)
        target.truncate(size)
        at = 0
        for start, end in [*sorted(records), (size, size)]:
            source.seek(at)
            target.seek(at)
            target.write(source.read(start - at))
            at = end


def _stretches(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rising numbers -> their unbroken stretches: first, one beyond the last."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for stretch in np.split(numbers, breaks):
        if len(stretch):
            yield int(stretch[0]), int(stretch[-1]) + 1
