"""`python -m preprocess merge SHARD ... --output FILE`: the shards of one data set as one file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro
from numpy.typing import NDArray

from caption.data.hdf5 import FORMAT, RECORDS, open_file
from caption.errors import UserError
from preprocess.verify import digests

OFFSETS = ("image_captions", "caption_words", "jpeg_starts")  # they count on from shard to shard


@dataclass(frozen=True)
class Merge:
    """Join shards made with --shard 1/16 to 16/16. The file points to theirs; --copy takes the pictures along."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The shards' files, in any order."""
    output: str
    """The HDF5 file to write."""
    copy: bool = False
    """Copy the pictures; without it the shards must stay beside the file."""
    overwrite: bool = False
    """Replace a file that is there."""

    def run(self) -> None:
        path = Path(self.output)
        if path.exists() and not self.overwrite:
            raise UserError(f"{path}: is there already; give --overwrite to replace it, or another --output")
        if path.exists() and any(Path(shard).exists() and path.samefile(shard) for shard in self.shards):
            raise UserError(f"{path}: is one of the shards; give another --output")
        files = [open_file(shard) for shard in self.shards]
        try:
            files, manifest = in_line(files)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            try:
                with h5py.File(part, "w") as target:
                    target.attrs["format"] = FORMAT
                    target.create_dataset("vocabulary", data=files[0]["vocabulary"][:], dtype=h5py.string_dtype())
                    for split in manifest["splits"]:
                        self._join(target.create_group(split), [file[split] for file in files], path, manifest["store"])
                    manifest["digests"] = digests(target)
                    target.attrs["manifest"] = json.dumps(manifest, ensure_ascii=False)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        finally:
            for file in files:
                file.close()
        for split, counts in manifest["splits"].items():
            print(f"{split}: {counts['pictures']} pictures, {counts['captions']} captions")
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB{'' if self.copy else ', and it needs the shards'})")

    def _join(self, target: h5py.Group, groups: list[h5py.Group], path: Path, store: str) -> None:
        for name in sorted(set(groups[0]) - {RECORDS[store]}):
            if h5py.check_string_dtype(groups[0][name].dtype):
                total = sum(len(group[name]) for group in groups)
                joined, at = target.create_dataset(name, (total,), h5py.string_dtype()), 0
                for group in groups:
                    joined[at : at + len(group[name])] = group[name][:]
                    at += len(group[name])
            elif name in OFFSETS:
                target[name] = join_offsets([group[name][:] for group in groups])
            else:
                target[name] = np.concatenate([group[name][:] for group in groups])
        records = [group[RECORDS[store]] for group in groups]
        shape, kind = (sum(map(len, records)), *records[0].shape[1:]), records[0].dtype
        at = 0
        if self.copy:
            joined = target.create_dataset(RECORDS[store], shape, kind)
            for record in records:
                for i in range(0, len(record), step := max(1, 2**24 // max(1, record[:1].nbytes))):
                    rows = record[i : i + step]
                    joined[at : at + len(rows)] = rows
                    at += len(rows)
            return
        layout = h5py.VirtualLayout(shape, kind)
        for record in records:
            if len(record):
                layout[at : at + len(record)] = h5py.VirtualSource(
                    relative(Path(record.file.filename), path), record.name, record.shape, kind
                )
                at += len(record)
        layout.dcpl.set_obj_track_times(False)  # or the file would hold the time of its making
        target.create_virtual_dataset(RECORDS[store], layout)


def relative(shard: Path, output: Path) -> str:
    """A shard's name, seen from the folder of the file that will point to it: both can move together."""
    try:
        return os.path.relpath(shard.resolve(), output.parent.resolve())
    except ValueError:  # another drive
        return str(shard.resolve())


def join_offsets(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets that begin at 0 in every part -> offsets into all parts, one after the other."""
    lengths = np.concatenate([np.diff(part) for part in parts])
    return np.cumsum([0, *lengths], dtype=np.int64)


def common(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the shards of one data set have in common."""
    own = ("splits", "digests", "shard")
    shared = {name: value for name, value in manifest.items() if name not in own}
    return {**shared, "words": manifest["digests"]["vocabulary"]}


def in_line(files: list[h5py.File]) -> tuple[list[h5py.File], dict[str, Any]]:
    """The shards in their order, and the manifest of all. Raises UserError when they are not all the parts of one."""
    manifests = [json.loads(file.attrs["manifest"]) for file in files]
    for file, manifest in zip(files, manifests, strict=True):
        if "shard" not in manifest:
            raise UserError(
                f"{file.filename}: is a whole data set, not a shard; make shards with --shard 1/16 and so on"
            )
        if common(manifest) != common(manifests[0]):
            raise UserError(
                f"{file.filename}: is a shard of another data set, or made with other options, than {files[0].filename}"
            )
    count = manifests[0]["shards"]
    order = np.argsort([manifest["shard"] for manifest in manifests]).tolist()
    missing = sorted(set(range(1, count + 1)) - {manifest["shard"] for manifest in manifests})
    if missing or len(files) != count:
        problem = f"shard {missing[0]}/{count} is missing" if missing else "a shard is given twice"
        raise UserError(f"{problem}; give all {count}, each once")
    manifest = {name: value for name, value in manifests[0].items() if name not in ("shard", "shards", "set")}
    manifest["splits"] = {
        split: {name: sum(each["splits"][split][name] for each in manifests) for name in counts}
        for split, counts in manifest["splits"].items()
    }
    return [files[i] for i in order], manifest
