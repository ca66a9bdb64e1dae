"""The HDF5 data file: its layout, and where in the file each image's record lies. This module needs no PyTorch.

Layout (written by `preprocess`) of a split with N images, C captions and W words:

    attributes                       format, manifest (JSON: the settings that the file was made with)
    vocabulary [V]                   words, the four special ones first
    <split>/image_ids [N]            int64
    <split>/file_names [N]           text
    <split>/references [C]           raw captions; those of an image are adjacent
    <split>/caption_offsets [N + 1]  image n has the captions caption_offsets[n] to caption_offsets[n + 1]
    <split>/words [W]                int32, the encoded captions one after another, without <start> and <end>
    <split>/word_offsets [C + 1]     caption c has the words word_offsets[c] to word_offsets[c + 1]
    <split>/checksums [N]            uint32, CRC-32 of each image's record

and the records, depending on the manifest's `store`:

    pixels    <split>/images [N, 3, S, S]     uint8
    jpeg      <split>/jpegs [bytes]           uint8, JPEG files of S x S pixels one after another
              <split>/jpeg_offsets [N + 1]    image n has the bytes jpeg_offsets[n] to jpeg_offsets[n + 1]
    features  <split>/features [N, L, D]      float16, of a frozen encoder

Records are contiguous and uncompressed. If images were left out, or shards were merged, the data set of the records is
a virtual one over /stored/<split> or over the shards' files.
"""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.config import ImageConfig
from caption.data.images import decode_jpeg
from caption.data.vocabulary import Vocabulary
from caption.errors import UserError

FORMAT = "show-attend-and-tell data 3"
SPLITS = ("train", "val", "test")
RECORDS = {"pixels": "images", "jpeg": "jpegs", "features": "features"}  # store -> name of the records' data set


def open_file(path: str | Path) -> h5py.File:
    """Open a data file for reading. Raises UserError if it is not a data file of this format."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such data file; make it with python -m preprocess")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or cut off; make it with python -m preprocess")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: cut off or damaged ({error}); make it again with python -m preprocess") from None
    found_format = file.attrs.get("format")
    if found_format != FORMAT:
        raise UserError(
            f"{path}: its format is {found_format!r}, but must be {FORMAT!r}; make it again with python -m preprocess"
        )
    return file


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Return the vocabulary of a data file."""
    with open_file(path) as file:
        return Vocabulary(file["vocabulary"].asstr()[:].tolist())


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the settings that a data file was made with."""
    with open_file(path) as file:
        return json.loads(file.attrs["manifest"])


def read_digests(path: str | Path) -> dict[str, str]:
    """Return the digests of what is trained on: vocabulary, captions, and the checksums of all images."""
    digests: dict[str, str] = read_manifest(path)["digests"]
    return {name: digest for name, digest in digests.items() if name.startswith(("vocabulary", "train/", "val/"))}


def read_image_config(path: str | Path) -> ImageConfig:
    """Return how the images of a data file were fitted into squares."""
    manifest = read_manifest(path)
    return ImageConfig(manifest["size"], manifest["fit"])


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
    if data.is_virtual:
        result = []
        for mapping in data.virtual_sources():
            first, last = (int(bound[0]) for bound in mapping.vspace.get_select_bounds())
            selects_all = mapping.src_space.get_select_type() == h5py.h5s.SEL_ALL  # which has no bounds
            start = 0 if selects_all else int(mapping.src_space.get_select_bounds()[0][0])
            end = start + last - first + 1
            # A relative name starts at the folder of the file that holds it; "." is that file.
            source = path if mapping.file_name == "." else path.parent / mapping.file_name
            with open_file(source) as file:
                for extent in extents(file[mapping.dset_name]):
                    a, b = max(start, extent.first), min(end, extent.first + extent.length)
                    if a < b:
                        offset = extent.offset + (a - extent.first) * row_bytes
                        result.append(Extent(first + a - start, b - a, extent.path, offset))
        return sorted(result)
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
            manifest = json.loads(file.attrs["manifest"])
            self.store: str = manifest["store"]
            data = file[split][RECORDS[self.store]]
            self.extents = extents(data)
            self.shape: tuple[int, ...] = data.shape[1:]
            self.dtype: np.dtype[Any] = data.dtype
            if self.store == "jpeg":
                self.shape = (3, manifest["size"], manifest["size"])
                starts: NDArray[np.int64] = file[split]["jpeg_offsets"][:]
            else:
                starts = np.arange(len(data) + 1)
        # Of each record: the file that holds it, its first byte there, and its length in bytes.
        unit = 1 if self.store == "jpeg" else self.dtype.itemsize * int(np.prod(self.shape))
        spans = self.extents or [Extent(0, 0, self.path, 0)]
        firsts, offsets = (np.array([getattr(extent, name) for extent in spans]) for name in ("first", "offset"))
        self._paths = [extent.path for extent in spans]
        self._files = np.searchsorted(firsts, starts[:-1], "right") - 1
        self._offsets = offsets[self._files] + (starts[:-1] - firsts[self._files]) * unit
        self._lengths = np.diff(starts) * unit
        self._handles: dict[tuple[int, int], BinaryIO] = {}  # by thread and file
        self._versions = {path: version(path.stat()) for path in (self.path, *self._paths)}

    def __len__(self) -> int:
        return len(self._offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def read_bytes(self, index: int) -> bytearray:
        """Return the record as it is stored, for checksums."""
        buffer = bytearray(int(self._lengths[index]))
        self._read_into([index], [buffer])
        return buffer

    def read(self, indices: Sequence[int], out: NDArray[Any]) -> None:
        """Read images uint8 [B, 3, S, S], or features float16 [B, L, D], into `out`."""
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
        for buffer, file, offset in zip(buffers, files, offsets, strict=True):
            handle = self._handles.get((thread, file)) or self._open(thread, file)
            handle.seek(offset)
            if handle.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                raise UserError(f"{self._paths[file]}: is cut off; make it again with python -m preprocess")

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
