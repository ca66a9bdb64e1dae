"""The common part of the synthetic data sets: images drawn by their file names, and an instance file."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from caption.config import ImageConfig
from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from caption.files import atomic_write
from preprocess.options import Output, check_output
from preprocess.records import Example, Listing
from preprocess.writer import write


@dataclass(frozen=True, kw_only=True)
class Synthetic(Output):
    """A data set whose images are drawn, not read from disk."""

    count: tuple[int, int, int] = (4000, 500, 500)
    """Images of the train, val and test splits."""
    size: int = 64
    """Side of an image, in pixels."""
    seed: int = 1
    """Seed of the random numbers."""
    save_images: str = ""
    """Also write the test images as PNG files into this folder."""
    min_count: int = 1
    """Keep words that occur at least this often in the captions of the train split."""

    def check(self) -> None:
        """Raises UserError for invalid options and for output files that exist, before any work is done."""
        check_output(self)
        if self.size < 32 or min(self.count) < 0:
            raise UserError(f"--size is {self.size} and --count {self.count}, but must be at least 32 and 0")
        if self.instances.exists() and not self.overwrite:
            raise UserError(f"{self.instances}: exists already; give --overwrite to replace it, or another --output")

    @property
    def instances(self) -> Path:
        """The instance file, which says where the objects of every image are."""
        path = Path(self.output)
        return path.with_name(path.stem + "_instances.json")

    def numbers(self) -> list[tuple[str, int]]:
        """Return the split of every image and its number there."""
        return [(split, n) for split, count in zip(SPLITS, self.count, strict=True) for n in range(count)]


def image_id(split: str, number: int) -> int:
    """Return the id of an image, which does not depend on the counts: every split has a million ids."""
    return SPLITS.index(split) * 1_000_000 + number


def file_name(kind: str, split: str, number: int) -> str:
    return f"{kind}_{split}_{number:06d}.png"


def split_and_number(name: str) -> tuple[str, int]:
    """Return the split and the number that make up a file name."""
    split, number = name.removesuffix(".png").split("_")[1:]
    return split, int(number)


def write_synthetic(
    options: Synthetic,
    kind: str,
    captions: Iterable[tuple[str, int, list[str]]],
    draw: Callable[[str], Image.Image],
    instances: dict[str, Any],
) -> None:
    """Write the data file, its instance file, and the test images if --save-images is given.

    `captions` yields (split, number, captions) of every image; `draw` draws the image of a file name, in the workers.
    The instance file is written completely or not at all, and only after its data file. Raises what `write` raises.
    """
    listing = Listing()
    for split, number, texts in captions:
        name = file_name(kind, split, number)
        listing.add(Example(split, image_id(split, number), name, name, texts))
    options.instances.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.instances) as path:
        path.write_text(json.dumps(instances), encoding="utf-8")
        write(listing, draw, options, ImageConfig(options.size, "squash"), {"reader": kind, "seed": options.seed})
    print(f"wrote {options.instances}")
    if options.save_images:
        folder = Path(options.save_images)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(options.count[2]):
            name = file_name(kind, "test", number)
            draw(name).save(folder / name)
        print(f"wrote {options.count[2]} test images into {folder}")
