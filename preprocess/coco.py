"""Read COCO's official captions_*.json, and image_info_*.json of images without captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import tyro

from caption.errors import UserError
from preprocess.records import Example
from preprocess.sources import ImageFiles, build_example, group_by_image, read_json, reading_entry

EXPECTED = "captions_train2014.json or the like"
T = TypeVar("T")
# `--images a b` and `--images a --images b` are the same.
Repeatable = tyro.conf.UseAppendAction[tuple[tuple[T, ...], ...]]


@dataclass(frozen=True, kw_only=True)
class Coco(ImageFiles):
    """COCO's official annotation files; give a folder and a split for each caption file, in the same order."""

    images: Repeatable[str]
    """Folders of images, one for each caption file."""
    captions: Repeatable[str]
    """captions_train2014.json and the like; with --keep-uncaptioned also image_info_test2014.json, which has none."""
    split: Repeatable[Literal["train", "val", "test"]]
    """The split that each caption file is used for."""

    def folders(self) -> list[str]:
        return list(dict.fromkeys(chain(*self.images)))

    def examples(self) -> Iterator[Example]:
        values = [list(chain(*groups)) for groups in (self.images, self.captions, self.split)]
        counts = [len(items) for items in values]
        if len(set(counts)) > 1 or not counts[0]:
            raise UserError(
                f"--images, --captions and --split have {counts[0]}, {counts[1]} and {counts[2]} values, but go "
                "together: give one folder and one split for each caption file"
            )
        for images, captions, split in zip(*values, strict=True):
            yield from read_captions(images, captions, split)


def read_captions(images: str, path: str, split: str) -> Iterator[Example]:
    """Yield the images of a caption file, in the order of their first captions.

    The file is read incrementally; pycocotools would hold it as Python objects, several times its size. Raises
    UserError if it is not a COCO caption file.
    """
    names: dict[int, str] = {}
    duplicates: list[tuple[int, str]] = []
    for number, image in enumerate(read_json(path, "images.item")):
        with reading_entry(f"{path}: not a COCO caption file: image {number}", f"; give {EXPECTED}"):
            image_id, name = int(image["id"]), str(image["file_name"])
        if image_id in names:
            duplicates.append((image_id, name))
        else:
            names[image_id] = name
    if not names:
        raise UserError(f"{path}: not a COCO caption file: its list 'images' is missing, or empty; give {EXPECTED}")

    def rows() -> Iterator[tuple[int, Any]]:
        for number, annotation in enumerate(read_json(path, "annotations.item")):
            with reading_entry(f"{path}: not a COCO caption file: annotation {number}", f"; give {EXPECTED}"):
                image_id, caption = int(annotation["image_id"]), annotation["caption"]
            if image_id not in names:
                raise UserError(f"{path}: annotation {number} is of image {image_id}, which is not in its list")
            yield image_id, caption

    for image_id, captions in group_by_image(rows()):
        yield build_example(split, image_id, images, names.pop(image_id), captions)
    for image_id, name in [*names.items(), *duplicates]:
        yield build_example(split, image_id, images, name, ())
