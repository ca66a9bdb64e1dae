"""The HDF5 data file: its layout, and where in the file each image's record lies. This module needs no PyTorch.

Layout (written by `preprocess`) of a split with N images, C captions and W words:

    attributes                       format, manifest (JSON: the settings that the file was made with, and the digests
                                     of the data sets but the records), manifest_digest
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
a virtual one over /stored/<split> or over the shards' files. Nothing else refers to another file.

Whatever is read is compared with its digest, and each record with its checksum when a process first reads it.
"""

import hashlib
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.config import ImageConfig
from caption.config.model import Fit
from caption.data.images import decode_jpeg
from caption.data.vocabulary import Vocabulary
from caption.errors import UserError, reading

FORMAT = "show-attend-and-tell data 3"
SPLITS = ("train", "val", "test")
RECORDS = {"pixels": "images", "jpeg": "jpegs", "features": "features"}  # store -> name of the records' data set


@contextmanager
def open_file(path: str | Path) -> Iterator[h5py.File]:
    """Open a data file for reading. Raises UserError if it is not a data file of this format, refers to other files, or
    is damaged, also where only the reading inside `with` shows it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such data file; make it with python -m preprocess{_alternatives(path)}")
    remedy = f"make it again with python -m preprocess{_alternatives(path)}"
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or damaged: its beginning is missing; {remedy}")
    try:
        with reading(path, remedy), h5py.File(path, "r") as file:
            found_format = file.attrs.get("format")
            if found_format != FORMAT:
                raise UserError(f"{path}: its format is {found_format!r}, but must be {FORMAT!r}; {remedy}")
            _check_self_contained(file)
            yield file
    except OSError as error:
        if error.errno:  # of the system: no permission, or a failing disk
            raise
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: cut off or damaged ({reason}); {remedy}") from None


def _alternatives(path: Path) -> str:
    """Return the end of a message about a data file that is missing or damaged: what lies beside it."""
    part = path.with_name(f"{path.name}.part")
    others = [f"{part} (unfinished; the same command continues it)"] if part.is_dir() else []
    others += sorted(str(other) for other in path.parent.glob("*.h5") if other != path and other.is_file())
    return f"; there is also {', '.join(others[:3])}" if others else ""


def _check_self_contained(file: h5py.File) -> None:
    """Raise UserError if a link or a data set refers to another file: HDF5 would read any file as if it were data. Only
    records may, as a virtual data set, whose files `extents` opens by `open_file`."""

    def refers(name: str, link: Any) -> str | None:
        data = file[name] if isinstance(link, h5py.HardLink) else None
        records = name.rpartition("/")[2] in RECORDS.values()
        elsewhere = isinstance(data, h5py.Dataset) and (data.external or (data.is_virtual and not records))
        return name if data is None or elsewhere else None  # a name ends the search; an exception could not

    if name := file.visititems_links(refers):
        raise UserError(f"{file.filename}: {name} refers to another place; make it again with python -m preprocess")


def write_manifest(file: h5py.File, manifest: dict[str, Any]) -> None:
    """Store the settings that a data file is made with, and mark it as one."""
    text = json.dumps(manifest, ensure_ascii=False)
    file.attrs["format"], file.attrs["manifest"] = FORMAT, text
    file.attrs["manifest_digest"] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def manifest_of(file: h5py.File) -> dict[str, Any]:
    """Return the manifest of an open file. Raises UserError if it was changed; older files have no digest of it."""
    text = file.attrs["manifest"]
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    if file.attrs.get("manifest_digest", digest) != digest:
        raise _mismatch(file, "manifest")
    manifest: dict[str, Any] = json.loads(text)
    known = manifest["store"] in RECORDS and manifest["fit"] in get_args(Fit)
    if not known or not isinstance(manifest["size"], int) or manifest["size"] < 1:
        values = ", ".join(f"{name} {manifest[name]!r}" for name in ("store", "fit", "size"))
        raise UserError(f"{file.filename}: its manifest has {values}; make it again with python -m preprocess")
    for name in ("source", "splits", "digests"):
        manifest[name].keys()  # or it raises
    return manifest


def digest_of(data: h5py.Dataset | NDArray[Any]) -> str:
    """Return the SHA-256 of a data set."""
    digest = hashlib.sha256()
    if h5py.check_string_dtype(data.dtype):
        for i in range(0, len(data), 10_000):
            digest.update(b"".join(text + b"\0" for text in data[i : i + 10_000]))
    else:
        digest.update(np.ascontiguousarray(data[:]).tobytes())
    return digest.hexdigest()


def read_checked(file: h5py.File, name: str) -> NDArray[Any]:
    """Return a whole data set, text as bytes. Raises UserError if it differs from its digest in the manifest."""
    values: NDArray[Any] = file[name][:]
    if digest_of(values) != manifest_of(file)["digests"].get(name):
        raise _mismatch(file, name)
    return values


def read_text(file: h5py.File, name: str) -> list[str]:
    """Return a whole data set of text, checked likewise."""
    return [text.decode("utf-8") for text in read_checked(file, name)]


def _mismatch(file: h5py.File, name: str) -> UserError:
    path = file.filename
    return UserError(
        f"{path}: is damaged, its {name} does not match its digest; python -m preprocess verify {path} names all that "
        f"is; make it again with python -m preprocess{_alternatives(Path(path))}"
    )


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Return the vocabulary of a data file."""
    with open_file(path) as file:
        return Vocabulary(read_text(file, "vocabulary"))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the settings that a data file was made with."""
    with open_file(path) as file:
        return manifest_of(file)


def read_image_config(path: str | Path) -> ImageConfig:
    """Return how the images of a data file were fitted into squares."""
    with open_file(path) as file:
        manifest = manifest_of(file)
        return ImageConfig(manifest["size"], manifest["fit"])


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
        return handle
