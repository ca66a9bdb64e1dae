"""What sets that are drawn from a seed have in common: pictures by name, and an instance file beside the data file."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from caption.config import ImageConfig
from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from preprocess.options import Output, check_output
from preprocess.records import Example, Listing
from preprocess.writer import write


@dataclass(frozen=True, kw_only=True)
class Drawn(Output):
    """A set whose pictures are drawn, and not read."""

    count: tuple[int, int, int] = (4000, 500, 500)
    """Pictures to train, validate and test."""
    size: int = 64
    """Side of a picture, in pixels."""
    seed: int = 1
    save_images: str = ""
    """Also write the test pictures as PNG files into this folder."""
    min_count: int = 1

    def check(self) -> None:
        """Raises UserError, before any work, for what cannot be meant and for files that are there already."""
        check_output(self)
        if self.size < 32 or min(self.count) < 0:
            raise UserError(f"--size is {self.size} and --count {self.count}, but must be at least 32 and 0")
        if self.instances.exists() and not self.overwrite:
            raise UserError(f"{self.instances}: is there already; give --overwrite to replace it, or another --output")

    @property
    def instances(self) -> Path:
        """The instance file: where in a picture is what its captions tell of."""
        path = Path(self.output)
        return path.with_name(path.stem + "_instances.json")

    def numbers(self) -> list[tuple[str, int]]:
        """Split and number of every picture."""
        return [(split, n) for split, count in zip(SPLITS, self.count, strict=True) for n in range(count)]


def image_id(split: str, number: int) -> int:
    """Ids are the same whatever the counts: a million numbers for each split."""
    return SPLITS.index(split) * 1_000_000 + number


def file_name(kind: str, split: str, number: int) -> str:
    return f"{kind}_{split}_{number:06d}.png"


def split_and_number(name: str) -> tuple[str, int]:
    """Of a file name."""
    split, number = name.removesuffix(".png").split("_")[1:]
    return split, int(number)


def write_drawn(
    options: Drawn,
    kind: str,
    captioned: Iterable[tuple[str, int, list[str]]],
    draw: Callable[[str], Image.Image],
    instances: dict[str, Any],
) -> None:
    """The data file of pictures given as (split, number, captions), its instance file, and pictures if asked for.

    `draw` makes a picture of its file name, in the workers. The instance file is there whole or not at all, and only
    beside its data file. Raises what `write` raises.
    """
    listing = Listing()
    for split, number, captions in captioned:
        name = file_name(kind, split, number)
        listing.add(Example(split, image_id(split, number), name, name, captions))
    options.instances.parent.mkdir(parents=True, exist_ok=True)
    part = options.instances.with_name(options.instances.name + ".part")
    try:
        part.write_text(json.dumps(instances), encoding="utf-8")
        write(listing, draw, options, ImageConfig(options.size, "squash"), {"reader": kind, "seed": options.seed})
        part.replace(options.instances)
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote {options.instances}")
    if options.save_images:
        target = Path(options.save_images)
        target.mkdir(parents=True, exist_ok=True)
        for number in range(options.count[2]):
            name = file_name(kind, "test", number)
            draw(name).save(target / name)
        print(f"wrote {options.count[2]} test pictures into {target}")
