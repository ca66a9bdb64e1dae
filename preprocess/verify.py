"""`python -m preprocess verify FILE`: does a data file still hold what was written into it?"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Annotated

import h5py
import numpy as np
import tyro

from caption.data.hdf5 import RECORDS, SPLITS, Records, open_file
from caption.errors import UserError
from caption.progress import ProgressBar

TOLD = 10  # names of bad pictures in the message


def digests(file: h5py.File) -> dict[str, str]:
    """SHA-256 of every data set but the pictures' records, which have a checksum each."""
    found = {"vocabulary": _digest(file["vocabulary"])}
    for split in SPLITS:
        for name, data in file.get(split, {}).items():
            if name not in RECORDS.values():
                found[f"{split}/{name}"] = _digest(data)
    return found


def _digest(data: h5py.Dataset) -> str:
    found = hashlib.sha256()
    if h5py.check_string_dtype(data.dtype):
        for i in range(0, len(data), 10_000):
            found.update(b"".join(text + b"\0" for text in data[i : i + 10_000]))
    else:
        found.update(np.ascontiguousarray(data[:]).tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Verify:
    """Read everything in a data file again and compare it with the checksums made when it was written."""

    file: Annotated[str, tyro.conf.Positional]
    """The HDF5 file."""

    def run(self) -> None:
        """Raises UserError, naming what differs."""
        try:
            self.compare()
        except UserError:
            raise
        except (KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{self.file}: is damaged ({reason}); make it again") from None

    def compare(self) -> None:
        with open_file(self.file) as file:
            manifest = json.loads(file.attrs["manifest"])
            now = digests(file)
            bad = [name for name, digest in manifest["digests"].items() if now.get(name) != digest]
            splits = {split: file[split]["checksums"][:] for split in SPLITS if split in file}
            names = {split: file[split]["file_names"].asstr(errors="replace")[:] for split in splits}
        pictures = 0
        for split, checksums in splits.items():
            records = Records(self.file, split)
            for index in ProgressBar(range(len(records)), split, "pictures"):
                if zlib.crc32(records.read_bytes(index)) != checksums[index]:
                    bad.append(f"{split}: picture {index}, {names[split][index]}")
            pictures += len(records)
        if bad:
            more = f", and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
            raise UserError(f"{self.file}: differs from what was written: {'; '.join(bad[:TOLD])}{more}; make it again")
        print(f"{self.file}: {pictures} pictures and {len(now)} other data sets are as they were written")
