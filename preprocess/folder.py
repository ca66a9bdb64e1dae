"""Read custom data: a folder of images, and a file with an image and a caption per line."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from preprocess.captions import read_captions
from preprocess.records import Example
from preprocess.sources import ImageFiles, build_example, find_images, group_by_image

SYNONYMS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "restval": "train"}


@dataclass(frozen=True, kw_only=True)
class Folder(ImageFiles):
    """A folder of images, and their captions as CSV (with a header of file_name, caption and optionally split), as
    JSON lines with the same keys, or as image.jpg#0<tab>caption. An image has one line for each caption."""

    images: str
    """The folder of images."""
    captions: str = ""
    """The caption file: .csv, .tsv, .txt, .jsonl or .token. With --keep-uncaptioned it may be left out: all images of
    the folder are then the test split, numbered from 0 in the order of their names."""
    val: float = 0.1
    """Fraction of the images for validation, if the file has no splits."""
    test: float = 0.1
    """Fraction of the images for testing, if the file has no splits."""

    def __post_init__(self) -> None:
        if not self.captions and not self.keep_uncaptioned:
            raise UserError("--captions is missing: give the caption file, or --keep-uncaptioned for images alone")
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            raise UserError(f"--val is {self.val} and --test {self.test}, but must be fractions with a sum below 1")

    def examples(self) -> Iterator[Example]:
        if not self.captions:
            yield from self._uncaptioned()
            return
        splits: dict[str, str] = {}
        path = Path(self.captions)

        def rows() -> Iterator[tuple[str, object]]:
            for row in read_captions(path):
                split = SYNONYMS.get(row.split.lower(), row.split.lower())
                if split and split not in SPLITS:
                    raise UserError(f"{path}: {row.image} has the split {row.split!r}; known: {', '.join(SPLITS)}")
                if splits.setdefault(row.image, split) != split:
                    raise UserError(f"{path}: {row.image} has the splits {splits[row.image]!r} and {split!r}")
                yield row.image, row.caption

        images = group_by_image(rows())
        first = next(images, None)  # this reads all rows
        if first is None:
            raise UserError(f"{path}: contains no captions")
        without_split = [name for name, split in splits.items() if not split]
        if without_split and len(without_split) < len(splits):
            raise UserError(
                f"{path}: {without_split[0]} has no split, but others have; give a split to all, or to none"
            )
        if without_split:
            splits = assign_splits(without_split, self.val, self.test)
        for number, (name, captions) in enumerate([first, *images]):
            yield build_example(splits[name], number, self.images, name, captions)

    def _uncaptioned(self) -> Iterator[Example]:
        """Yield all images of the folder as the test split."""
        names = sorted(Path(path).relative_to(self.images).as_posix() for path in find_images(self.images))
        for number, name in enumerate(names):
            yield build_example("test", number, self.images, name, ())


def assign_splits(names: Sequence[str], val: float, test: float) -> dict[str, str]:
    """Return a split for each image, by the order of the SHA-256 of the names, so that only the names decide."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
    splits: list[str] = []
    for split, fraction in (("val", val), ("test", test)):
        count = max(1, round(fraction * len(order))) if fraction else 0
        splits += [split] * min(count, len(order) - len(splits) - 1)  # at least one image remains for training
    return dict(zip(order, splits + ["train"] * (len(order) - len(splits)), strict=True))
