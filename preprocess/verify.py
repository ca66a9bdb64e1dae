"""`python -m preprocess verify FILE`: check a data file against its checksums."""

from dataclasses import dataclass
from typing import Annotated

import h5py
import tyro

from caption.data.hdf5 import RECORDS, SPLITS, digest_of, manifest_of, open_file, read_texts
from caption.data.records import Records
from caption.errors import UserError
from caption.progress import ProgressBar

MAX_NAMES = 10  # in the message


def compute_digests(file: h5py.File) -> dict[str, str]:
    """Return the SHA-256 of every data set but the images' records, each of which has a checksum."""
    digests = {"vocabulary": digest_of(file["vocabulary"])}
    for split in SPLITS:
        for name, data in file.get(split, {}).items():
            if name not in RECORDS.values():
                digests[f"{split}/{name}"] = digest_of(data)
    return digests


@dataclass(frozen=True)
class Verify:
    """Read everything in a data file again and compare it with the checksums made when it was written."""

    file: Annotated[str, tyro.conf.Positional]
    """The HDF5 file."""

    def run(self) -> None:
        """Raises UserError, naming the differences."""
        with open_file(self.file) as file:
            digests = compute_digests(file)
            bad = [name for name, digest in manifest_of(file)["digests"].items() if digests.get(name) != digest]
            images = 0
            for split in [split for split in SPLITS if split in file]:
                if not {f"{split}/{name}" for name in ("checksums", "jpeg_offsets", "file_names")}.isdisjoint(bad):
                    continue
                records, names = Records(self.file, split), read_texts(file, f"{split}/file_names")
                for index in ProgressBar(range(len(records)), split, "images"):
                    try:
                        records.read_bytes(index)
                    except UserError:
                        bad.append(f"{split}: image {index}, {names[index]}")
                images += len(records)
        if bad:
            others = f", and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else ""
            raise UserError(
                f"{self.file}: does not match its checksums: {'; '.join(bad[:MAX_NAMES])}{others}; make it again"
            )
        print(f"{self.file}: {images} images and {len(digests)} other data sets match their checksums")
