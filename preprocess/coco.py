"""COCO's official captions_*.json, read by pycocotools."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar

import tyro
from pycocotools.coco import COCO

from caption.errors import UserError
from preprocess.sources import Pictures, example, folder, read_json
from preprocess.writer import Example

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

    def examples(self) -> Iterator[Example]:
        given = [list(chain(*several)) for several in (self.images, self.captions, self.split)]
        counts = [len(values) for values in given]
        if len(set(counts)) > 1 or not counts[0]:
            raise UserError(
                f"--images, --captions and --split have {counts[0]}, {counts[1]} and {counts[2]} values, but go "
                "together: one folder and one split for each caption file"
            )
        for images, captions, split in zip(*given, strict=True):
            where, coco = folder(images), read_captions(captions)
            for image_id, entry in sorted(coco.imgs.items()):
                texts = [annotation["caption"] for annotation in coco.imgToAnns[image_id]]
                yield example(split, image_id, where, entry["file_name"], texts)


def read_captions(path: str) -> COCO:
    """A caption file's index. Raises UserError when it is none."""
    coco = COCO()
    coco.dataset = read_json(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its progress
            coco.createIndex()
        if not all(isinstance(annotation.get("caption"), str) for annotation in coco.anns.values()) or not coco.imgs:
            raise KeyError("caption")
        if any("file_name" not in image for image in coco.imgs.values()):
            raise KeyError("file_name")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a COCO caption file; give captions_train2014.json or its like") from None
    return coco
