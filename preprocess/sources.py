"""What the readers of pictures on disk have in common."""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ijson
import numpy as np
from PIL.Image import Image

from caption.config import ImageConfig
from caption.config.model import Fit
from caption.data.images import open_image
from caption.errors import UserError
from preprocess.options import Output, check_output
from preprocess.records import Example, Listing, Problem, Texts
from preprocess.writer import write

PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class Pictures(Output):
    """Pictures on disk."""

    size: int = 224
    """Side of the stored square, in pixels."""
    fit: Fit = "crop"
    """crop: resize the shorter side and keep the centre, as in the paper; squash: keep everything, out of shape."""

    on_error: Literal["stop", "skip"] = "stop"
    """At a bad picture or caption: stop, or leave it out. Either way OUTPUT's name + _report.csv names all of them."""

    def examples(self) -> Iterator[Example]:
        """Every picture with its captions. Raises UserError for files that are not what the source promises."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        """Where the pictures are."""
        raise NotImplementedError

    def run(self) -> None:
        check_output(self)
        present = {path for name in self.folders() for path in walk(folder(name))}
        listing = Listing()
        for example in self.examples():
            # A name that a file system spells otherwise is found by asking for it.
            if example.path in present or Path(example.path).exists():
                listing.add(example)
                present.discard(example.path)
            else:
                listing.tell(example, "pictures not on disk", "not on disk")
        for path in sorted(present):
            listing.problems.append(Problem("", "", path, "on disk, but in no list", stops=False))
        opener: Callable[[str], Image] = partial(open_image, size=self.size)
        source = {"reader": type(self).__name__.lower()}
        write(listing, opener, self, ImageConfig(self.size, self.fit), source, self.on_error == "stop")


def example(split: str, image_id: int, folder: str, file_name: str, captions: Iterable[Any]) -> Example:
    return Example(split, image_id, file_name, os.path.join(folder, file_name), captions)


def folder(path: str) -> str:
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder of pictures")
    return path


def walk(path: str) -> Iterator[str]:
    """The pictures in a folder and below it, by their names' endings."""
    for where, _, names in os.walk(path, followlinks=True):
        for name in names:
            if name.lower().endswith(PICTURES):
                yield os.path.join(where, name)


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file, empty ones too. Raises UserError when it is not there or no UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # splitlines would part at U+2028, too
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str, prefix: str) -> Iterator[Any]:
    """The members of a list inside a JSON file, one at a time: `images.item`. Raises UserError when it is no JSON."""
    try:
        with Path(path).open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # a byte order mark
                file.seek(0)
            yield from ijson.items(file, prefix, use_float=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON, or cut off ({' '.join(str(error).split())[:80]})") from None


def by_picture(rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, list[Any]]]:
    """(picture, caption) in any order -> each picture with all its captions, in the order of their first ones."""
    pictures: dict[Any, int] = {}
    owners, texts, odd = array("q"), Texts(), {}
    for picture, caption in rows:
        if not isinstance(caption, str):
            odd[len(owners)] = caption
            caption = ""
        owners.append(pictures.setdefault(picture, len(pictures)))
        texts.append(caption)
    owner = np.array(owners, np.int64)
    order = np.argsort(owner, kind="stable")
    start = 0
    for picture, end in zip(pictures, np.cumsum(np.bincount(owner)).tolist(), strict=True):
        yield picture, [odd[c] if c in odd else texts[c] for c in order[start:end].tolist()]
        start = end
