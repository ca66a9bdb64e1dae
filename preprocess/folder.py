"""Pictures of one's own: a folder, and a file that names a picture and a caption a line."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from preprocess.captions import read_captions
from preprocess.records import Example
from preprocess.sources import Pictures, by_picture, example

SYNONYMS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "restval": "train"}


@dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """A folder of pictures, and their captions as CSV (a header with file_name, caption and perhaps split), JSON lines
    with the same keys, or picture.jpg#0<tab>caption. A picture may stand on several lines, once for each caption."""

    images: str
    """The folder of pictures."""
    captions: str
    """The file of captions: .csv, .tsv, .txt, .jsonl or .token."""
    val: float = 0.1
    """Share of the pictures to validate with, when the file names no splits."""
    test: float = 0.1
    """Share of the pictures to test with."""

    def __post_init__(self) -> None:
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise UserError(f"--val is {self.val} and --test {self.test}, but must be shares with a sum below 1")

    def folders(self) -> list[str]:
        return [self.images]

    def examples(self) -> Iterator[Example]:
        splits: dict[str, str] = {}
        path = Path(self.captions)

        def rows() -> Iterator[tuple[str, object]]:
            for row in read_captions(path):
                split = SYNONYMS.get(row.split.lower(), row.split.lower())
                if split and split not in SPLITS:
                    raise UserError(f"{path}: {row.picture} has the split {row.split!r}; known: {', '.join(SPLITS)}")
                if splits.setdefault(row.picture, split) != split:
                    raise UserError(f"{path}: {row.picture} has the splits {splits[row.picture]!r} and {split!r}")
                yield row.picture, row.caption

        found = by_picture(rows())
        first = next(found, None)  # by now all rows are read
        if first is None:
            raise UserError(f"{path}: holds not one caption")
        unnamed = [picture for picture, split in splits.items() if not split]
        if unnamed and len(unnamed) < len(splits):
            raise UserError(f"{path}: {unnamed[0]} has no split, but others have; give all of them one, or none")
        if unnamed:
            splits = share_out(unnamed, self.val, self.test)
        for number, (picture, captions) in enumerate([first, *found]):
            yield example(splits[picture], number, self.images, picture, captions)


def share_out(pictures: list[str], val: float, test: float) -> dict[str, str]:
    """A split for each picture: by the order of the SHA-256 of its name, so that nothing but the names decides."""
    order = sorted(pictures, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
    names: list[str] = []
    for split, share in (("val", val), ("test", test)):
        wanted = max(1, round(share * len(order))) if share else 0
        names += [split] * min(wanted, len(order) - len(names) - 1)  # something is left to train on
    return dict(zip(order, names + ["train"] * (len(order) - len(names)), strict=True))
