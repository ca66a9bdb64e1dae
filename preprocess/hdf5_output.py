"""Write HDF5 files of which a full disk makes an error.

HDF5 does not survive a write that fails: what it keeps of the file is left half closed, and the process ends with a
segmentation fault then or later. So no write fails as HDF5 sees it; the first error is raised when the file is closed.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from caption.files import naming


class _File(io.FileIO):
    """A file that keeps the first error of writing to it, and writes nothing afterwards."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        done = 0
        while done < len(data) and not self.error:
            try:
                done += super().write(data[done:]) or 0  # a disk that is almost full takes a part
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.tell()

    def readinto(self, buffer: Any) -> int:
        """Read zeros where nothing was written."""
        done = super().readinto(buffer) or 0
        buffer[done:] = bytes(len(buffer) - done)
        return len(buffer)


@contextmanager
def write_hdf5(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to write, anew (`mode` "w") or to add to it ("r+"). Raises OSError, naming the file."""
    with naming(path), _File(path, {"w": "w+", "r+": "r+"}[mode]) as file:
        try:
            with h5py.File(file, mode) as hdf5:
                yield hdf5
        finally:
            if file.error:  # whatever HDF5 made of what it could not read back
                raise file.error
