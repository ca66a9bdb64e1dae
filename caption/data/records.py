"""The stored records of images: where in its files a data file keeps them, and their bytes."""

import os
import threading
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import RECORDS, SPLITS, manifest_of, open_file, read_checked
from caption.data.images import decode_jpeg
from caption.errors import UserError


def version(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes if a file is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Extent(NamedTuple):
    """A run of elements of a data set that is contiguous in a file; an element is a row, or a byte in one dimension."""

    first: int  # element of the data set
    length: int
    path: Path
    offset: int  # of the first element in the file, in bytes


def extents(data: h5py.Dataset) -> list[Extent]:
    """Return where the elements of a data set lie, in their order. Raises UserError if a file of a virtual data set is
    missing, or the data set is stored in chunks."""
    path, row_bytes = Path(data.file.filename).resolve(), data.dtype.itemsize * int(np.prod(data.shape[1:]))
    if not data.is_virtual:
        return _stored_extent(data, path)
    result = []
    with ExitStack() as stack:
        # A relative name starts at the folder of the file that holds it; "." is that file.
        mappings = data.virtual_sources()
        names = {mapping.file_name for mapping in mappings} - {"."}
        files = {name: stack.enter_context(open_file(path.parent / name)) for name in names} | {".": data.file}
        for mapping in mappings:
            first, last = (int(bound[0]) for bound in mapping.vspace.get_select_bounds())
            selects_all = mapping.src_space.get_select_type() == h5py.h5s.SEL_ALL  # which has no bounds
            start = 0 if selects_all else int(mapping.src_space.get_select_bounds()[0][0])
            end = start + last - first + 1
            for extent in extents(files[mapping.file_name][mapping.dset_name]):
                a, b = max(start, extent.first), min(end, extent.first + extent.length)
                if a < b:
                    offset = extent.offset + (a - extent.first) * row_bytes
                    result.append(Extent(first + a - start, b - a, extent.path, offset))
    return sorted(result)


def _stored_extent(data: h5py.Dataset, path: Path) -> list[Extent]:
    if not len(data):
        return []
    offset = data.id.get_offset()
    if offset is None:
        raise UserError(
            f"{path}: {data.name} is stored in chunks, but must be contiguous; convert it with h5repack -l CONTI, or "
            "make the file again with python -m preprocess"
        )
    return [Extent(0, len(data), path, offset)]


class Records:
    """The stored records of the images of a split, read directly from their positions in the file.

    HDF5 only says where the bytes lie; every thread then reads them through a file handle of its own, as a shared one,
    or one inherited by a fork, has one position for all. An HDF5 handle survives neither a fork nor pickling, and
    reading a row through it takes longer than copying the row.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        """Raises UserError if the file is not a data file or lacks the split."""
        self.path = Path(path)
        with open_file(path) as file:
            if split not in file:
                splits = ", ".join(name for name in SPLITS if name in file)
                raise UserError(f"{path}: has no split {split!r}; it has {splits}")
            manifest = manifest_of(file)
            self.store: str = manifest["store"]
            data = file[split][RECORDS[self.store]]
            self.extents = extents(data)
            self.shape: tuple[int, ...] = data.shape[1:]
            self.dtype: np.dtype[Any] = data.dtype
            if self.store == "jpeg":
                self.shape = (3, manifest["size"], manifest["size"])
                starts: NDArray[np.int64] = read_checked(file, f"{split}/jpeg_offsets")
            else:
                starts = np.arange(len(data) + 1)
            self.checksums: NDArray[np.uint32] = read_checked(file, f"{split}/checksums")
        # Of each record: the file that holds it, its first byte there, and its length in bytes.
        unit = 1 if self.store == "jpeg" else self.dtype.itemsize * int(np.prod(self.shape))
        spans = self.extents or [Extent(0, 0, self.path, 0)]
        firsts, offsets = (np.array([getattr(extent, name) for extent in spans]) for name in ("first", "offset"))
        self._paths = [extent.path for extent in spans]
        self._files = np.searchsorted(firsts, starts[:-1], "right") - 1
        self._offsets = offsets[self._files] + (starts[:-1] - firsts[self._files]) * unit
        self._lengths = np.diff(starts) * unit
        self._checked = np.zeros(len(self), bool)  # a checksum takes 1 % of the time to train on an image
        self._handles: dict[tuple[int, int], BinaryIO] = {}  # by thread and file
        self._versions = {path: version(path.stat()) for path in (self.path, *self._paths)}

    def __len__(self) -> int:
        return len(self._offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def read_bytes(self, index: int) -> bytearray:
        """Return the record as it is stored. Raises UserError if it differs from its checksum."""
        buffer = bytearray(int(self._lengths[index]))
        self._read_into([index], [buffer])
        return buffer

    def read(self, indices: Sequence[int], out: NDArray[Any]) -> None:
        """Read images uint8 [B, 3, S, S], or features float16 [B, L, D], into `out`. Raises UserError if a record
        differs from its checksum when it is read for the first time."""
        if self.store == "jpeg":
            for image, index in zip(out, indices, strict=True):
                decode_jpeg(self.read_bytes(index), image)
        else:
            rows = memoryview(out.data).cast("B")
            length = len(rows) // max(1, len(indices))
            self._read_into(indices, [rows[i : i + length] for i in range(0, len(rows), length)])

    def _read_into(self, indices: Sequence[int], buffers: Sequence[bytearray | memoryview]) -> None:
        selected = np.asarray(indices, np.int64)
        files, offsets = self._files[selected].tolist(), self._offsets[selected].tolist()
        thread = threading.get_native_id()  # another one in each process
        for index, buffer, file, offset in zip(indices, buffers, files, offsets, strict=True):
            handle = self._handles.get((thread, file)) or self._open(thread, file)
            handle.seek(offset)
            if handle.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                raise UserError(f"{self._paths[file]}: is cut off; make it again with python -m preprocess")
            if not self._checked[index]:
                if zlib.crc32(buffer) != self.checksums[index]:
                    raise UserError(
                        f"{self._paths[file]}: image {index} is damaged, it does not match its checksum; python -m "
                        f"preprocess verify {self.path} names all that are; make it again with python -m preprocess"
                    )
                self._checked[index] = True

    def _open(self, thread: int, file: int) -> BinaryIO:
        path = self._paths[file]
        try:
            handle = self._handles[thread, file] = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {self.path} needs it") from None
        self.check_unchanged(path, os.fstat(handle.fileno()))
        return handle

    def check_unchanged(self, path: Path, status: os.stat_result) -> None:
        """Raise UserError if a file, whose status is now this, was replaced: positions read before are not its."""
        if version(status) != self._versions[path]:
            raise UserError(
                f"{path}: was replaced or changed while it was in use; run the command again, with the file that it "
                "began with"
            )
