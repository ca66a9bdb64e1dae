"""Does the attention of a word fall on what it names? The pointing game, on masks in COCO's instance format."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from caption.errors import UserError


class Pointing(NamedTuple):
    """Words that name an object of their picture, and how many of them had the maximum of attention inside it."""

    hits: int
    words: int

    @property
    def percent(self) -> float:
        return 100 * self.hits / max(1, self.words)


def read_instances(path: str | Path) -> COCO:
    """COCO instance annotations. Raises UserError when the file is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its progress
            coco = COCO(str(path))
        if not coco.cats or any("segmentation" not in annotation for annotation in coco.anns.values()):
            raise KeyError("segmentation")
    except (OSError, ValueError, KeyError, AssertionError, TypeError):
        raise UserError(f"{path}: not a COCO instance file; give instances_val2014.json or its like") from None
    return coco


def pointing(
    words: Sequence[str],
    maps: NDArray[np.floating],
    coco: COCO,
    image_id: int,
    fit: Callable[[Image.Image], Image.Image],
) -> Pointing:
    """The pointing game for one caption: one try for each word that is the name of a category in the picture.

    `maps` [T, S, S] hold the attention of each word over the picture as the model saw it; `fit` brings a mask into
    that square. A hit is a maximum inside any object of the word's category.
    """
    categories = {category["name"]: number for number, category in coco.cats.items()}
    hits = tries = 0
    for word, attention in zip(words, maps, strict=True):
        annotations = [a for a in coco.imgToAnns[image_id] if a["category_id"] == categories.get(word)]
        if not annotations:
            continue
        mask = np.maximum.reduce([coco.annToMask(annotation) for annotation in annotations])
        inside = np.asarray(fit(Image.fromarray(mask * 255))) > 127
        hits += bool(inside.flat[attention.argmax()])
        tries += 1
    return Pointing(hits, tries)
