"""COCO's official captions_*.json, read by pycocotools."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pycocotools.coco import COCO

from caption.errors import UserError
from preprocess.sources import Pictures, example, folder, read_json
from preprocess.writer import Example


@dataclass(frozen=True, kw_only=True)
class Coco(Pictures):
    """COCO's official annotation files; several files go with as many folders and splits, in the same order."""

    images: tuple[str, ...]
    """Folder(s) of pictures, one a caption file."""
    captions: tuple[str, ...]
    """captions_train2014.json and the like."""
    split: tuple[Literal["train", "val", "test"], ...]
    """What each caption file is used for."""

    def examples(self) -> Iterator[Example]:
        if not len(self.images) == len(self.captions) == len(self.split) > 0:
            raise UserError(
                f"--images, --captions and --split have {len(self.images)}, {len(self.captions)} and "
                f"{len(self.split)} values, but go together: one folder and one split for each caption file"
            )
        for images, captions, split in zip(self.images, self.captions, self.split, strict=True):
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
        if any("caption" not in annotation for annotation in coco.anns.values()) or not coco.imgs:
            raise KeyError("caption")
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a COCO caption file; give captions_train2014.json or its like") from None
    return coco
