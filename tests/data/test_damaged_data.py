"""A damaged data file, or one that refers to other files, is refused in one line; nothing else in it is believed."""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import manifest_of, read_image_config, read_manifest, read_vocabulary, write_manifest
from caption.data.records import Records
from caption.errors import UserError
from preprocess.__main__ import main as preprocess
from preprocess.verify import compute_digests


@pytest.fixture
def path(shapes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(shapes, tmp_path / "data.h5"))


def read_all(path: Path) -> None:
    """Read all of a file."""
    read_vocabulary(path), read_image_config(path)
    for split in ("train", "val", "test"):
        data = CaptionDataset(path, split)
        data.references(), data.read_images(range(len(data)))


def flip(path: Path, position: int, bit: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bit]))


@pytest.mark.parametrize("name", ["train/words", "train/word_offsets", "train/caption_offsets", "train/image_ids"])
def test_a_flipped_bit_of_captions_or_ids_is_found_when_the_split_is_opened(path: Path, name: str) -> None:
    with h5py.File(path) as file:
        position = file[name].id.get_offset() + 8
    flip(path, position)
    with pytest.raises(UserError, match=f"data.h5: is damaged, its {name} does not match its digest; .*verify"):
        CaptionDataset(path, "train")
    CaptionDataset(path, "val")


def test_a_flipped_bit_of_a_pixel_is_found_on_first_reading(path: Path) -> None:
    extent = Records(path, "train").extents[0]
    flip(path, extent.offset + 3 * 32 * 32 * 7 + 5)
    data = CaptionDataset(path, "train")
    data.read_images([5, 6, 8])
    with pytest.raises(UserError, match="image 7 is damaged, it does not match its checksum"):
        data.read_images([6, 7])


def test_a_changed_manifest_is_found(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        content = file["manifest"][:].tobytes()
        file["manifest"][:] = np.frombuffer(content.replace(b'"size": 32', b'"size": 64'), np.uint8)
    with pytest.raises(UserError, match="its manifest does not match its digest"):
        read_image_config(path)


def test_references_and_vocabulary_are_checked_when_they_are_read(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["val/references"][3], file["vocabulary"][30] = ord("x"), ord("x")
    with pytest.raises(UserError, match="its vocabulary does not match"):
        read_vocabulary(path)
    with pytest.raises(UserError, match="its val/references does not match"):
        CaptionDataset(path, "val").references()


def test_damage_is_not_merged(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["val/words"][3] += 1
        write_manifest(file, {**read_manifest(path), "shard": 1, "shards": 1, "listing": ""})
    with pytest.raises(UserError, match="its val/words does not match"):
        preprocess(["merge", str(path), "--output", str(tmp_path / "merged.h5")])


def test_a_truncated_file_is_called_damaged_and_what_else_there_is_named(path: Path) -> None:
    shutil.copy(path, path.with_name("older.h5"))
    path.with_name("data.h5.part").mkdir()
    size = path.stat().st_size
    for length in (0, 5, size // 3, size - 1):
        os.truncate(path, length)
        shutil.copy(path, path.with_name("cut.h5"))
        with pytest.raises(UserError, match=r"data\.h5: .*damaged.*there is also \S+data\.h5\.part \(unfinished; the"):
            read_all(path)
        with pytest.raises(UserError, match=r"cut\.h5: .*damaged.*\S+older\.h5"):
            read_all(path.with_name("cut.h5"))
        shutil.copy(path.with_name("older.h5"), path)


@pytest.mark.parametrize("kind", ["external storage", "external link", "soft link", "virtual"])
def test_references_to_other_files_are_refused(path: Path, tmp_path: Path, kind: str) -> None:
    """External storage and links are refused: by them, any file of the disk could be read as image ids."""
    (tmp_path / "secret").write_bytes(bytes(range(256)) * 8)
    shutil.copy(path, tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        name, shape = "test/image_ids", file["test/image_ids"].shape
        del file[name]
        if kind == "external storage":
            file.create_dataset(name, shape, np.int64, external=[(str(tmp_path / "secret"), 0, 80)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, np.int64)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), name, shape, np.int64)
            file.create_virtual_dataset(name, layout)
        else:
            external = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
            file[name] = external if kind == "external link" else h5py.SoftLink("/val/image_ids")
        manifest = manifest_of(file)
        write_manifest(file, {**manifest, "digests": compute_digests(file)})
    for read in (read_manifest, read_vocabulary, lambda path: preprocess(["info", str(path)])):
        with pytest.raises(UserError, match="test/image_ids refers to another place"):
            read(path)


def test_records_in_another_file_are_refused_unless_it_is_a_data_file(path: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other.create_dataset("x", (10, 3, 32, 32), np.uint8, external=[("/etc/passwd", 0, 30720)])
    with h5py.File(path, "r+") as file:
        del file["val/images"]
        layout = h5py.VirtualLayout((10, 3, 32, 32), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (10, 3, 32, 32), np.uint8)
        file.create_virtual_dataset("val/images", layout)
    with pytest.raises(UserError, match=r"other\.h5: its format is None"):
        CaptionDataset(path, "val")


@pytest.mark.parametrize("kind", ["no manifest", "a list", "store", "size", "fit", "no digests", "a group", "numbers"])
def test_malformed_metadata_give_one_line(path: Path, kind: str) -> None:
    with h5py.File(path, "r+") as file:
        manifest = manifest_of(file)
        changed: Any = {
            "a list": [1, 2],
            "store": manifest | {"store": "films"},
            "size": manifest | {"size": "32"},
            "fit": manifest | {"fit": "stretch"},
            "no digests": {name: value for name, value in manifest.items() if name != "digests"},
        }.get(kind, manifest)
        write_manifest(file, changed)
        if kind == "no manifest":
            del file["manifest"]
        elif kind == "a group":
            del file["val/images"]
            file.create_group("val/images")
        elif kind == "numbers":
            del file["vocabulary"]
            file["vocabulary"] = np.arange(5)
    with pytest.raises(UserError, match=r"data\.h5|fit") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
