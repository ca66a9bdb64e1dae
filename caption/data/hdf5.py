"""The HDF5 data file, without PyTorch: its layout, and where in it the record of each picture lies.

Layout (written by `preprocess`); N pictures, C captions and W words in a split:

    attributes                       format, manifest (JSON: what made it)
    vocabulary [V]                   words, the four special ones first
    <split>/image_ids [N]            int64
    <split>/file_names [N]           text
    <split>/references [C]           raw captions, those of an image side by side
    <split>/image_captions [N + 1]   image n has the captions image_captions[n] to image_captions[n + 1]
    <split>/words [W]                int32, all encoded captions in a row, without start and end
    <split>/caption_words [C + 1]    caption c has the words caption_words[c] to caption_words[c + 1]
    <split>/checksums [N]            uint32, CRC-32 of each image's record

and the records, by the manifest's `store`:

    pixels    <split>/images [N, 3, S, S]     uint8
    jpeg      <split>/jpegs [bytes]           uint8, JPEG files of S x S pixels in a row
              <split>/jpeg_starts [N + 1]     image n has the bytes jpeg_starts[n] to jpeg_starts[n + 1]
    features  <split>/features [N, L, D]      float16, of a frozen encoder

Records are contiguous and uncompressed. Where pictures were left out, and in a file of merged shards, the data set of
the records is a virtual one over /stored/<split> or over the shards' files.
"""

import json
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

FORMAT = "show-attend-and-tell data 2"
SPLITS = ("train", "val", "test")
RECORDS = {"pixels": "images", "jpeg": "jpegs", "features": "features"}  # store -> the data set of its records


def open_file(path: str | Path) -> h5py.File:
    """The data file, for reading. Raises UserError when it is none."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such data file; make it with python -m preprocess")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or cut off; make it with python -m preprocess")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path}: cut off or damaged ({error}); make it again with python -m preprocess") from None
    found = file.attrs.get("format")
    if found != FORMAT:
        raise UserError(
            f"{path}: not a data file of this program ({found!r}, not {FORMAT!r}); make it with python -m preprocess"
        )
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


class Extent(NamedTuple):
    """Elements of a data set that lie side by side in some file: rows, or bytes where it has one dimension."""

    first: int  # element of the data set
    length: int
    path: Path
    offset: int  # of the first element in the file, in bytes


def extents(data: h5py.Dataset) -> list[Extent]:
    """Where a data set's elements lie, in their order. Raises UserError for files that are gone and for chunks."""
    path, row = Path(data.file.filename).resolve(), data.dtype.itemsize * int(np.prod(data.shape[1:]))
    if data.is_virtual:
        found = []
        for mapping in data.virtual_sources():
            first, last = (int(bound[0]) for bound in mapping.vspace.get_select_bounds())
            whole = mapping.src_space.get_select_type() == h5py.h5s.SEL_ALL  # then it has no bounds
            start = 0 if whole else int(mapping.src_space.get_select_bounds()[0][0])
            end = start + last - first + 1
            # A relative name is meant from the folder of the file that holds it; "." is that file.
            where = path if mapping.file_name == "." else path.parent / mapping.file_name
            with open_file(where) as file:
                for piece in extents(file[mapping.dset_name]):
                    a, b = max(start, piece.first), min(end, piece.first + piece.length)
                    if a < b:
                        offset = piece.offset + (a - piece.first) * row
                        found.append(Extent(first + a - start, b - a, piece.path, offset))
        return sorted(found)
    if not len(data):
        return []
    offset = data.id.get_offset()
    if offset is None:
        raise UserError(
            f"{path}: {data.name} is stored in chunks, not in one piece; undo that with h5repack -l CONTI, or make the "
            "file again with python -m preprocess"
        )
    return [Extent(0, len(data), path, offset)]


class Records:
    """What is stored of each picture of a split, read straight from its place.

    HDF5 tells once where the bytes lie; after that every process reads them through a file handle of its own. An HDF5
    handle survives neither a fork nor pickling, and reading a row through it takes longer than copying the row.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        """Raises UserError when the file is none, or has no such split."""
        self.path = Path(path)
        with open_file(path) as file:
            if split not in file:
                there = ", ".join(name for name in SPLITS if name in file)
                raise UserError(f"{path}: has no split {split!r}; it has {there}")
            manifest = json.loads(file.attrs["manifest"])
            self.store: str = manifest["store"]
            data = file[split][RECORDS[self.store]]
            self.extents = extents(data)
            self.shape: tuple[int, ...] = data.shape[1:]
            self.dtype: np.dtype[Any] = data.dtype
            if self.store == "jpeg":
                self.shape = (3, manifest["size"], manifest["size"])
                starts: NDArray[np.int64] = file[split]["jpeg_starts"][:]
            else:
                starts = np.arange(len(data) + 1)
        # Of each record: its first byte, the file that has it, its length in bytes.
        unit = 1 if self.store == "jpeg" else self.dtype.itemsize * int(np.prod(self.shape))
        places = self.extents or [Extent(0, 0, self.path, 0)]
        firsts, offsets = (np.array([getattr(place, name) for place in places]) for name in ("first", "offset"))
        self._files = [place.path for place in places]
        self._owners = np.searchsorted(firsts, starts[:-1], "right") - 1
        self._offsets = offsets[self._owners] + (starts[:-1] - firsts[self._owners]) * unit
        self._lengths = np.diff(starts) * unit
        self._handles: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def after_fork(self) -> None:
        """A file position is shared with the parent process: forget the handles that came from there."""
        self._handles = {}

    def read_bytes(self, index: int) -> bytearray:
        """The record as it is stored, for checksums."""
        buffer = bytearray(int(self._lengths[index]))
        self._fill([index], [buffer])
        return buffer

    def read(self, indices: Sequence[int], out: NDArray[Any]) -> None:
        """Pictures uint8 [B, 3, S, S], or features float16 [B, L, D], into `out`."""
        if self.store == "jpeg":
            for picture, index in zip(out, indices, strict=True):
                decode_jpeg(self.read_bytes(index), picture)
        else:
            rows = memoryview(out.data).cast("B")
            length = len(rows) // max(1, len(indices))
            self._fill(indices, [rows[i : i + length] for i in range(0, len(rows), length)])

    def _fill(self, indices: Sequence[int], buffers: Sequence[bytearray | memoryview]) -> None:
        chosen = np.asarray(indices, np.int64)
        owners, offsets = self._owners[chosen].tolist(), self._offsets[chosen].tolist()
        for buffer, owner, offset in zip(buffers, owners, offsets, strict=True):
            handle = self._handles.get(owner) or self._open(owner)
            handle.seek(offset)
            if handle.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                raise UserError(f"{self._files[owner]}: is cut off; make it again with python -m preprocess")

    def _open(self, owner: int) -> BinaryIO:
        path = self._files[owner]
        try:
            handle = self._handles[owner] = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {self.path} needs it") from None
        return handle
