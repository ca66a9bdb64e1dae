"""The HDF5 data file: its layout, and what is read of it beside the records. This module needs no PyTorch.

Layout (written by `preprocess`) of a split with N images, C captions and W words:

    format                           attribute
    manifest [bytes]                 JSON: the settings that the file was made with, and the digests of the data sets
                                     but the records; then the digest of this
    vocabulary [bytes]               V words, the four special ones first
    <split>/image_ids [N]            int64
    <split>/file_names [bytes]       N names
    <split>/references [bytes]       C raw captions; those of an image are adjacent
    <split>/caption_offsets [N + 1]  image n has the captions caption_offsets[n] to caption_offsets[n + 1]
    <split>/words [W]                int32, the encoded captions one after another, without <start> and <end>
    <split>/word_offsets [C + 1]     caption c has the words word_offsets[c] to word_offsets[c + 1]
    <split>/checksums [N]            uint32, CRC-32 of each image's record

and the records, depending on the manifest's `store`:

    pixels    <split>/images [N, 3, S, S]     uint8
    jpeg      <split>/jpegs [bytes]           uint8, JPEG files of S x S pixels one after another
              <split>/jpeg_offsets [N + 1]    image n has the bytes jpeg_offsets[n] to jpeg_offsets[n + 1]
    features  <split>/features [N, L, D]      float16, of a frozen encoder

Texts are UTF-8, each ended by a zero byte. Records (`records.py`) are contiguous and uncompressed. If images were left
out, or shards were merged, the data set of the records is a virtual one over /stored/<split> or over the shards' files.
Nothing else refers to another file.

Whatever is read is compared with its digest, and each record with its checksum when a process first reads it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.config import ImageConfig
from caption.config.model import Fit, Interpolation
from caption.data.vocabulary import Vocabulary
from caption.data.words import WORDS
from caption.errors import UserError, reading

FORMAT = "show-attend-and-tell data 4"
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
    with reading(path, remedy), h5py.File(path, "r") as file:
        found_format = file.attrs.get("format")
        found_format = found_format.decode() if isinstance(found_format, bytes) else found_format
        if found_format != FORMAT:
            raise UserError(f"{path}: its format is {found_format!r}, but must be {FORMAT!r}; {remedy}")
        _check_self_contained(file)
        yield file


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
    text = json.dumps(manifest)
    if "manifest" in file:
        del file["manifest"]
    write_texts(file, "manifest", [text, hashlib.sha256(text.encode()).hexdigest()])
    file.attrs["format"] = np.bytes_(FORMAT)


def manifest_of(file: h5py.File) -> dict[str, Any]:
    """Return the manifest of an open file. Raises UserError if it does not match its digest."""
    text, digest = file["manifest"][:].tobytes().split(b"\0")[:2]
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise mismatch(file, "manifest")
    manifest: dict[str, Any] = json.loads(text)
    known = manifest["store"] in RECORDS and manifest["fit"] in get_args(Fit)
    known = known and manifest.setdefault("interpolation", "bilinear") in get_args(Interpolation)
    known = known and manifest.setdefault("words", "ptb") in WORDS
    if not known or not isinstance(manifest["size"], int) or manifest["size"] < 1:
        values = ", ".join(f"{name} {manifest[name]!r}" for name in ("store", "fit", "interpolation", "words", "size"))
        raise UserError(f"{file.filename}: its manifest has {values}; make it again with python -m preprocess")
    for name in ("source", "splits", "digests"):
        manifest[name].keys()  # or it raises
    return manifest


def digest_of(data: h5py.Dataset | NDArray[Any]) -> str:
    """Return the SHA-256 of a data set."""
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(data[:]).data)
    return digest.hexdigest()


def read_checked(file: h5py.File, name: str) -> NDArray[Any]:
    """Return a whole data set. Raises UserError if it differs from its digest in the manifest."""
    values: NDArray[Any] = file[name][:]
    if digest_of(values) != manifest_of(file)["digests"].get(name):
        raise mismatch(file, name)
    return values


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Return a whole data set of texts, checked likewise."""
    return read_checked(file, name).tobytes().decode("utf-8", "surrogateescape").split("\0")[:-1]


def write_texts(group: h5py.Group, name: str, texts: Iterable[str]) -> None:
    """Store texts as bytes, each ended by a zero: HDF5's own strings are pointers, which it follows for ever when they
    are damaged. A file name that is no UTF-8 keeps its bytes."""
    content = bytearray()
    for text in texts:
        content += text.replace("\0", " ").encode("utf-8", "surrogateescape") + b"\0"
    group.create_dataset(name, data=np.frombuffer(content, np.uint8))


def mismatch(file: h5py.File, name: str) -> UserError:
    path = file.filename
    return UserError(
        f"{path}: is damaged, its {name} does not match its digest; python -m preprocess verify {path} names all that "
        f"is; make it again with python -m preprocess{_alternatives(Path(path))}"
    )


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Return the vocabulary of a data file."""
    with open_file(path) as file:
        return Vocabulary(read_texts(file, "vocabulary"), manifest_of(file)["words"])


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return the settings that a data file was made with."""
    with open_file(path) as file:
        return manifest_of(file)


def read_digests(path: str | Path) -> dict[str, str]:
    """Return the digests of what is trained on: vocabulary, captions, and the checksums of all images."""
    digests: dict[str, str] = read_manifest(path)["digests"]
    return {name: digest for name, digest in digests.items() if name.startswith(("vocabulary", "train/", "val/"))}


def read_image_config(path: str | Path) -> ImageConfig:
    """Return how the images of a data file were fitted into squares."""
    with open_file(path) as file:
        manifest = manifest_of(file)
        return ImageConfig(manifest["size"], manifest["fit"], manifest["interpolation"])
