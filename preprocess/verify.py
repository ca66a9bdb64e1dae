"""`python -m preprocess verify FILE`: check a data file against its checksums."""

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

MAX_NAMES = 10  # in the message


def compute_digests(file: h5py.File) -> dict[str, str]:
    """Return the SHA-256 of every data set but the images' records, each of which has a checksum."""
    digests = {"vocabulary": _digest(file["vocabulary"])}
    for split in SPLITS:
        for name, data in file.get(split, {}).items():
            if name not in RECORDS.values():
                digests[f"{split}/{name}"] = _digest(data)
    return digests


def _digest(data: h5py.Dataset) -> str:
    digest = hashlib.sha256()
    if h5py.check_string_dtype(data.dtype):
        for i in range(0, len(data), 10_000):
            digest.update(b"".join(text + b"\0" for text in data[i : i + 10_000]))
    else:
        digest.update(np.ascontiguousarray(data[:]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Verify:
    """Read everything in a data file again and compare it with the checksums made when it was written."""

    file: Annotated[str, tyro.conf.Positional]
    """The HDF5 file."""

    def run(self) -> None:
        """Raises UserError, naming the differences."""
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
            digests = compute_digests(file)
            bad = [name for name, digest in manifest["digests"].items() if digests.get(name) != digest]
            images = 0
            for split in [split for split in SPLITS if split in file]:
                records, checksums = Records(self.file, split), file[split]["checksums"][:]
                names = file[split]["file_names"].asstr(errors="replace")
                for index in ProgressBar(range(len(records)), split, "images"):
                    if zlib.crc32(records.read_bytes(index)) != checksums[index]:
                        bad.append(f"{split}: image {index}, {names[index]}")
                images += len(records)
        if bad:
            others = f", and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else ""
            raise UserError(
                f"{self.file}: does not match its checksums: {'; '.join(bad[:MAX_NAMES])}{others}; make it again"
            )
        print(f"{self.file}: {images} images and {len(digests)} other data sets match their checksums")
