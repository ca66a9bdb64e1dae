"""The common part of the readers of images on disk."""

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import ijson
import numpy as np

from caption.config import ImageConfig
from caption.config.model import TIMM, Fit
from caption.data.images import open_image
from caption.errors import UserError
from preprocess.options import Output, check_output, choose_words
from preprocess.records import Example, Listing, Problem, StringPool
from preprocess.writer import write

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")


MAX_DEPTH = 100  # of JSON
NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))  # the bytes that change neither depth nor string
STEPS = np.array([(byte in b"[{") - (byte in b"]}") for byte in range(256)], np.int8)


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Output):
    """A data set of image files."""

    size: int = 0
    """Side of the stored square, in pixels; 0: 224, or the side that an encoder of timm was trained with."""
    fit: Fit = "crop"
    """crop: resize the shorter side and keep the centre, as in the paper; squash: keep the full image and change its
    aspect ratio."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Interpolation between pixels; auto: bilinear, or what an encoder of timm was trained with."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a bad image or caption: stop, or leave it out. Either way OUTPUT's name + _report.csv lists all of them."""
    keep_uncaptioned: bool = False
    """Keep images without captions, for evaluate.py --captions-only. Where none has one, give --vocabulary, too."""
    images: Any  # the folder, or COCO's several

    def examples(self) -> Iterator[Example]:
        """Yield every image with its captions. Raises UserError if a file is not in the reader's format."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        """Return the folders of the images."""
        return [self.images]

    def image_config(self) -> ImageConfig:
        """Return how images become squares: as the options say, or as suits their encoder."""
        usual = ImageConfig(224, self.fit)
        if self.encoder.name.startswith(TIMM):
            from caption.encoders.timm import usual_images  # imports PyTorch, which preprocessing does without

            usual = usual_images(self.encoder, self.fit)
        interpolation = usual.interpolation if self.interpolation == "auto" else self.interpolation
        return ImageConfig(self.size or usual.size, self.fit, interpolation)

    def run(self) -> None:
        check_output(self)
        listing = Listing(choose_words(self), self.keep_uncaptioned)
        unlisted = {resolve(path): path for name in self.folders() for path in find_images(name)}
        for example in self.examples():
            path = resolve(example.path)
            if os.path.isfile(path):  # the file system may accept a name in another spelling
                listing.add(example, path)
                unlisted.pop(path, None)
            else:
                found = "is no file" if os.path.exists(path) else "not on disk"
                listing.drop(example, "images not on disk", f"{found}; looked for {example.path}")
        for path in sorted(unlisted.values()):
            listing.problems.append(Problem("", "", path, "on disk, but in no list", fatal=False))
        image, source = self.image_config(), {"reader": type(self).__name__.lower()}
        write(listing, partial(open_image, size=image.size), self, image, source, self.on_error == "stop")


def build_example(split: str, image_id: int, folder: str, file_name: str, captions: Iterable[Any]) -> Example:
    return Example(split, image_id, file_name, os.path.join(folder, file_name), captions)


def find_images(folder: str) -> Iterator[str]:
    """Yield the paths of the images in a folder and below it, by their suffixes. Raises UserError if it is missing."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder of images")
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            # macOS keeps the attributes of a.jpg in ._a.jpg, on disks that have no place for them
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("._"):
                yield os.path.join(parent, name)


def resolve(path: str) -> str:
    """Return the real path of a file, so that one image has one name, without the time of `os.path.realpath`."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


_real_folder = lru_cache(10_000)(os.path.realpath)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, including empty ones. Raises UserError if it is missing or not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # `splitlines` would also split at U+2028
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str, prefix: str) -> Iterator[Any]:
    """Yield the items of a list inside a JSON file, such as "images.item". Raises UserError if it is not JSON, or is
    nested deeper than MAX_DEPTH."""
    try:
        with Path(path).open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # a byte order mark
                file.seek(0)
            yield from ijson.items(ShallowJson(file, path), prefix, use_float=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON, or cut off ({' '.join(str(error).split())[:80]})") from None


@contextmanager
def reading_entry(name: str, remedy: str = "") -> Iterator[None]:
    """Raise a UserError that names the entry of a list if it lacks something, or something in it is of another kind."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{name} lacks or garbles {error}{remedy}") from None


class ShallowJson:
    """A JSON file that may not be nested deeper than MAX_DEPTH: ijson keeps the path to every level, so that its memory
    grows with the square of the depth."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self.file, self.path = file, path
        self.depth, self.in_string = 0, 0

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        while content.endswith(b"\\") and (more := self.file.read(1)):  # its escape belongs to it
            content += more
        marks = content.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NO_MARKS)
        parts = marks.split(b'"')
        steps = STEPS[np.frombuffer(b"".join(parts[self.in_string :: 2]), np.uint8)]
        depths = self.depth + np.cumsum(steps, dtype=np.int64)
        self.in_string = (self.in_string + len(parts) - 1) % 2
        if depths.max(initial=0) > MAX_DEPTH:
            raise UserError(f"{self.path}: not a list of images, its JSON is nested more than {MAX_DEPTH} levels deep")
        self.depth = int(depths[-1]) if len(depths) else self.depth
        return content


def group_by_image(rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield each image with all its captions, from (image, caption) in any order; images by their first caption."""
    image_numbers: dict[Any, int] = {}
    images, texts, not_text = array("q"), StringPool(), {}
    for image, caption in rows:
        if not isinstance(caption, str):
            not_text[len(images)] = caption
            caption = ""
        images.append(image_numbers.setdefault(image, len(image_numbers)))
        texts.append(caption)
    image_of_caption = np.array(images, np.int64)
    order = np.argsort(image_of_caption, kind="stable")
    start = 0
    for image, end in zip(image_numbers, np.cumsum(np.bincount(image_of_caption)).tolist(), strict=True):
        yield image, [not_text[c] if c in not_text else texts[c] for c in order[start:end].tolist()]
        start = end
