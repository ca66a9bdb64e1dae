"""The store of JPEG files. Since their lengths differ, they are collected in a file of their own first."""

import os
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.data.images import encode_jpeg
from preprocess.backends import CHECKSUM, LENGTH, START, RecordEncoder, Store, sync_file
from preprocess.report import format_size

COPY_RECORDS = 256  # JPEG files that are copied at a time


class JpegStore(Store):
    """JPEG files of S x S pixels."""

    kind = "jpeg"

    def __init__(self, folder: Path, counts: dict[str, int], quality: int, mean_length: float) -> None:
        super().__init__(folder, counts)
        self.encode_record: RecordEncoder = partial(_encode, quality=quality)
        self.collected = folder / "jpegs"
        total = mean_length * sum(counts.values())
        self.nbytes = int(2 * total)  # both files exist while the data file is completed
        self.estimate = f"{sum(counts.values())} images will take about {format_size(total)}, and twice that at the end"

    def allocate(self, fresh: bool) -> None:
        super().allocate(fresh)
        self.file = self.collected.open("w+b" if fresh else "r+b", buffering=0)
        self.end = int((self.table[:, START] + self.table[:, LENGTH]).max(initial=0))

    def add(self, numbers: Sequence[int], jpegs: Sequence[bytes]) -> None:
        self.file.seek(self.end)
        content = b"".join(jpegs)
        if self.file.write(content) != len(content):
            raise OSError(28, "no space left on the disk", str(self.collected))
        for number, jpeg in zip(numbers, jpegs, strict=True):
            self.table[number] = zlib.crc32(jpeg), self.end, len(jpeg)
            self.end += len(jpeg)

    def sync(self) -> None:
        os.fsync(self.file.fileno())
        if self.path.exists():
            sync_file(self.path)
        super().sync()

    def open(self) -> h5py.File:
        return h5py.File(self.path, "w")

    def complete_split(self, file: h5py.File, split: str, numbers: NDArray[np.int64]) -> None:
        group, rows = file.require_group(split), self.table[numbers]
        group["checksums"] = rows[:, CHECKSUM].astype(np.uint32)
        offsets = np.cumsum([0, *rows[:, LENGTH]])
        group["jpeg_offsets"] = offsets
        jpegs = group.create_dataset("jpegs", offsets[-1:], np.uint8)
        for i in range(0, len(rows), COPY_RECORDS):
            content = b"".join(self._read(row) for row in rows[i : i + COPY_RECORDS])
            jpegs[offsets[i] : offsets[i] + len(content)] = np.frombuffer(content, np.uint8)

    def _read(self, row: NDArray[np.int64]) -> bytes:
        self.file.seek(int(row[START]))
        return self.file.read(int(row[LENGTH]))


def _encode(image: NDArray[np.uint8], offset: int, quality: int) -> bytes:
    return encode_jpeg(image, quality)
