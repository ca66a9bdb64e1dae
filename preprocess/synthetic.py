"""The common part of the synthetic data sets: images drawn by their file names, and an instance file."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from caption.config import ImageConfig
from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from caption.files import atomic_write
from caption.progress import ProgressBar
from preprocess.options import Output, check_output, choose_words
from preprocess.records import Example, Listing
from preprocess.workers import parallel_map
from preprocess.writer import write

JOB = 64  # scenes or drawings that a worker makes at a time


class Scene(NamedTuple):
    """An image that is not drawn yet."""

    captions: list[str]
    objects: list[dict[str, Any]]  # their annotations without ids; without any, the instance file omits the image
    fields: dict[str, Any]  # of the image in the instance file, beside the usual ones


@dataclass(frozen=True, kw_only=True)
class Synthetic(Output):
    """A data set whose images are drawn, not read from disk."""

    count: tuple[int, int, int] = (8000, 500, 500)
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

    def scene(self, split: str, number: int) -> Scene:
        """Return the captions and the annotations of an image."""
        raise NotImplementedError

    def draw(self, split: str, number: int) -> Image.Image:
        """Draw an image."""
        raise NotImplementedError

    def scenes(self, numbers: Sequence[tuple[str, int]]) -> list[Scene]:
        """Return the scenes of these images; runs in the workers, as the next two do."""
        return [self.scene(split, number) for split, number in numbers]

    def save_drawings(self, numbers: Sequence[tuple[str, int]]) -> None:
        """Write these images as PNG files into the folder `save_images`."""
        for split, number in numbers:
            with atomic_write(Path(self.save_images) / file_name(type(self).__name__.lower(), split, number)) as part:
                self.draw(split, number).save(part, format="PNG")

    def draw_by_name(self, name: str) -> Image.Image:
        """Draw the image of a file name."""
        split, number = name.removesuffix(".png").split("_")[1:]
        return self.draw(split, int(number))

    def write(self, annotated: str, supercategory: str, categories: Sequence[str]) -> None:
        """Write the data file, its instance file in COCO's format, and the test images if --save-images is given.

        The instance file is written completely or not at all, and only after its data file. Raises what `check` and
        `writer.write` raise.
        """
        self.check()
        kind, size, listing = type(self).__name__.lower(), self.size, Listing(choose_words(self))
        numbers = [(split, n) for split, count in zip(SPLITS, self.count, strict=True) for n in range(count)]
        images, annotations = [], []
        scenes = itertools.chain.from_iterable(parallel_map(self.scenes, _jobs(numbers), self.workers))
        for (split, number), scene in zip(
            numbers, ProgressBar(scenes, annotated, "images", length=len(numbers)), strict=True
        ):
            scene_id, name = image_id(split, number), file_name(kind, split, number)
            listing.add(Example(split, scene_id, name, name, scene.captions))
            if scene.objects:
                entry = {"id": scene_id, "file_name": name, "width": size, "height": size, "split": split}
                images.append({**entry, **scene.fields})
                objects = enumerate(scene.objects, 1)
                annotations += [{"id": 10 * scene_id + i, "image_id": scene_id, **item} for i, item in objects]
        names = [{"id": i, "name": name, "supercategory": supercategory} for i, name in enumerate(categories, 1)]
        info = {"description": kind, "seed": self.seed}
        content = {"info": info, "images": images, "annotations": annotations, "categories": names}
        self.instances.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.instances) as path:
            path.write_text(json.dumps(content), encoding="utf-8")
            write(listing, self.draw_by_name, self, ImageConfig(size, "squash"), {"reader": kind, "seed": self.seed})
        print(f"wrote {self.instances}")
        if self.save_images:
            folder = Path(self.save_images)
            folder.mkdir(parents=True, exist_ok=True)
            tests = [(split, n) for split, n in numbers if split == "test"]
            for _ in parallel_map(self.save_drawings, _jobs(tests), self.workers):
                pass
            print(f"wrote {self.count[2]} test images into {folder}")


def _jobs(numbers: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [numbers[start : start + JOB] for start in range(0, len(numbers), JOB)]


def image_id(split: str, number: int) -> int:
    """Return the id of an image, which does not depend on the counts: every split has a million ids."""
    return SPLITS.index(split) * 1_000_000 + number


def file_name(kind: str, split: str, number: int) -> str:
    return f"{kind}_{split}_{number:06d}.png"
