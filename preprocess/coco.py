"""COCO's official captions_*.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import tyro

from caption.errors import UserError
from preprocess.records import Example
from preprocess.sources import Pictures, by_picture, example, read_json

T = TypeVar("T")
# `--images a b` and `--images a --images b` are the same.
Several = tyro.conf.UseAppendAction[tuple[tuple[T, ...], ...]]


@dataclass(frozen=True, kw_only=True)
class Coco(Pictures):
    """COCO's official annotation files; several files go with as many folders and splits, in the same order."""

    images: Several[str]
    """Folders of pictures, one for each caption file."""
    captions: Several[str]
    """captions_train2014.json and the like."""
    split: Several[Literal["train", "val", "test"]]
    """What each caption file is used for."""

    def folders(self) -> list[str]:
        return list(dict.fromkeys(chain(*self.images)))

    def examples(self) -> Iterator[Example]:
        given = [list(chain(*several)) for several in (self.images, self.captions, self.split)]
        counts = [len(values) for values in given]
        if len(set(counts)) > 1 or not counts[0]:
            raise UserError(
                f"--images, --captions and --split have {counts[0]}, {counts[1]} and {counts[2]} values, but go "
                "together: one folder and one split for each caption file"
            )
        for images, captions, split in zip(*given, strict=True):
            yield from read_captions(images, captions, split)


def read_captions(images: str, path: str, split: str) -> Iterator[Example]:
    """The pictures of a caption file, in the order of their first captions. Raises UserError when it is none.

    Read by pieces: pycocotools would keep the whole file as Python objects, several times its size.
    """
    names: dict[int, Any] = {}
    twice: list[tuple[int, Any]] = []
    try:
        for image in read_json(path, "images.item"):
            image_id = int(image["id"])
            if image_id in names:
                twice.append((image_id, str(image["file_name"])))
            else:
                names[image_id] = str(image["file_name"])
        if not names:
            raise KeyError("images")
        rows = ((int(each["image_id"]), each["caption"]) for each in read_json(path, "annotations.item"))
        for image_id, captions in by_picture(rows):
            if image_id not in names:
                raise UserError(f"{path}: has a caption of image {image_id}, which is not in its list of images")
            yield example(split, image_id, images, names.pop(image_id), captions)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a COCO caption file; give captions_train2014.json or its like") from None
    for image_id, name in [*names.items(), *twice]:
        yield example(split, image_id, images, name, ())
