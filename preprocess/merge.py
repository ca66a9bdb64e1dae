"""`python -m preprocess merge SHARD ... --output FILE`: join the shards of a data set into one file."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro
from numpy.typing import NDArray

from caption.data.hdf5 import RECORDS, manifest_of, open_file, read_checked, write_manifest
from caption.data.records import extents
from caption.errors import UserError
from caption.files import atomic_write, locked
from preprocess.hdf5_output import write_hdf5
from preprocess.report import equal_images
from preprocess.verify import compute_digests

OFFSETS = ("caption_offsets", "word_offsets", "jpeg_offsets")
COPY_BYTES = 2**24  # at a time


@dataclass(frozen=True)
class Merge:
    """Join shards made with --shard 1/16 to 16/16. The file refers to theirs, unless --copy copies the images."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The shards' files, in any order."""
    output: str
    """The HDF5 file to write."""
    copy: bool = False
    """Copy the images; otherwise the shards must stay beside the file."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        path = Path(self.output)
        with locked(path), ExitStack() as stack:
            if path.exists() and not self.overwrite:
                raise UserError(f"{path}: exists already; give --overwrite to replace it, or another --output")
            if path.exists() and any(Path(shard).exists() and path.samefile(shard) for shard in self.shards):
                raise UserError(f"{path}: is one of the shards; give another --output")
            files, manifest = sort_shards([stack.enter_context(open_file(shard)) for shard in self.shards])
            with atomic_write(path) as temporary, write_hdf5(temporary, "w") as target:
                target["vocabulary"] = read_checked(files[0], "vocabulary")
                for split in manifest["splits"]:
                    groups = [file[split] for file in files]
                    self._join_captions(target.create_group(split), groups, RECORDS[manifest["store"]])
                    self._join_records(target[split], groups, RECORDS[manifest["store"]], path)
                manifest["digests"] = compute_digests(target)
                write_manifest(target, manifest)
        for split, counts in manifest["splits"].items():
            print(f"{split}: {counts['images']} images, {counts['captions']} captions")
        for problem in equal_images(path):
            print(f"{problem.file_name} of {problem.split}: {problem.problem}")
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB{'' if self.copy else ', and it needs the shards'})")

    def _join_captions(self, target: h5py.Group, groups: Sequence[h5py.Group], records_name: str) -> None:
        """Join all data sets of a split but its records."""
        for name in sorted(set(groups[0]) - {records_name}):
            if name in OFFSETS:
                lengths = np.concatenate([np.diff(_read(group, name)) for group in groups])
                target[name] = np.cumsum([0, *lengths], dtype=np.int64)
            else:
                target[name] = np.concatenate([_read(group, name) for group in groups])

    def _join_records(self, target: h5py.Group, groups: Sequence[h5py.Group], name: str, path: Path) -> None:
        """Copy the records of a split, or make a virtual data set of them."""
        sources = [group[name] for group in groups]
        shape, dtype = (sum(map(len, sources)), *sources[0].shape[1:]), sources[0].dtype
        position = 0
        if self.copy:
            joined = target.create_dataset(name, shape, dtype)
            for source in sources:
                extents(source)  # checks the files of a virtual one
                for i in range(0, len(source), step := max(1, COPY_BYTES // max(1, source[:1].nbytes))):
                    rows = source[i : i + step]
                    joined[position : position + len(rows)] = rows
                    position += len(rows)
            return
        layout = h5py.VirtualLayout(shape, dtype)
        for source in sources:
            if len(source):
                layout[position : position + len(source)] = h5py.VirtualSource(
                    relative_path(Path(source.file.filename), path), source.name, source.shape, dtype
                )
                position += len(source)
        layout.dcpl.set_obj_track_times(False)  # otherwise the file would contain the time of its creation
        target.create_virtual_dataset(name, layout)


def _read(group: h5py.Group, name: str) -> NDArray[Any]:
    return read_checked(group.file, f"{group.name.strip('/')}/{name}")


def relative_path(shard: Path, output: Path) -> str:
    """Return the path of a shard from the folder of the merged file, so that both can be moved together."""
    try:
        return os.path.relpath(shard.resolve(), output.parent.resolve())
    except ValueError:  # on another drive
        return str(shard.resolve())


def sort_shards(files: Sequence[h5py.File]) -> tuple[list[h5py.File], dict[str, Any]]:
    """Return the shards in order and the manifest of the merged file. Raises UserError unless the files are all shards
    of one data set, each once."""
    manifests = [manifest_of(file) for file in files]
    # What is the same for all shards of a data set: of the digests, that of the vocabulary.
    common = [{**m, "digests": m["digests"]["vocabulary"], "shard": None, "splits": None} for m in manifests]
    for file, manifest, settings in zip(files, manifests, common, strict=True):
        if "shard" not in manifest:
            raise UserError(
                f"{file.filename}: is a complete data set, not a shard; make shards with --shard 1/16 and so on"
            )
        if settings != common[0]:
            raise UserError(
                f"{file.filename}: is a shard of another data set, or made with other options, than {files[0].filename}"
            )
    count = manifests[0]["shards"]
    order = np.argsort([manifest["shard"] for manifest in manifests]).tolist()
    missing = sorted(set(range(1, count + 1)) - {manifest["shard"] for manifest in manifests})
    if missing or len(files) != count:
        problem = f"shard {missing[0]}/{count} is missing" if missing else "a shard is given twice"
        raise UserError(f"{problem}; give all {count}, each once")
    merged = {name: value for name, value in manifests[0].items() if name not in ("shard", "shards", "listing")}
    merged["splits"] = {
        split: {name: sum(manifest["splits"][split][name] for manifest in manifests) for name in counts}
        for split, counts in merged["splits"].items()
    }
    return [files[i] for i in order], merged
