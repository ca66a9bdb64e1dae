"""Does the attention of a word fall on what it names? Measured on masks in COCO's instance format.

Attention correctness (Liu et al., 2017): the share of a word's attention that lies inside the object. The pointing
game (Zhang et al., 2016): whether its maximum does. Both on the very maps that figures show, and beside two that know
nothing of the picture: chance, and attention on the picture's middle.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.bootstrap import Score
from caption.evaluation.categories import NAMES, OTHERS, plural
from caption.visualise.upsample import center_prior, peak, upsample

Mask = NDArray[np.bool_]


class GroundingCounts(NamedTuple):
    """Sums over the words that name an object of their picture."""

    words: float = 0
    inside: float = 0  # share of the attention inside the object's mask
    hits: float = 0  # maximum inside
    area: float = 0  # share of the picture that the mask covers: what chance would give for both
    centre_inside: float = 0  # the same for attention on the picture's middle
    centre_hits: float = 0

    def plus(self, other: "GroundingCounts") -> "GroundingCounts":
        return GroundingCounts(*(a + b for a, b in zip(self, other, strict=True)))


class Instances:
    """The objects of a set of pictures, by the words that name them."""

    def __init__(self, path: str | Path, fit: Callable[[Image.Image], Image.Image]) -> None:
        """`fit` brings a mask into the square that the model sees. Raises UserError for no COCO instance file."""
        self.path, self.fit = path, fit
        self.coco = _read(path)
        self.names: dict[tuple[str, ...], int | None] = {}  # words -> category; None: they name nothing
        for number, category in self.coco.cats.items():
            own = category["name"].lower().replace("_", " ")
            for name in (own, *NAMES.get(own, ())):
                self.names |= {tuple(form.split()): number for form in (name, plural(name))}
        self.names |= {tuple(form.split()): None for name in OTHERS for form in {name, f"{name}s"} - {"oranges"}}
        self.longest = max(map(len, self.names))
        self.mask = lru_cache(512)(self._mask)  # a picture's captions name the same things
        self._ignorant = lru_cache(512)(self._without_looking)

    def check_covers(self, image_ids: Sequence[int], file_names: Sequence[str], what: str) -> None:
        """Raises UserError unless these are the pictures that the file tells of."""
        for image_id, name in zip(image_ids, file_names, strict=True):
            known = self.coco.imgs.get(image_id)
            if known is None:
                raise UserError(
                    f"{self.path}: has no picture {image_id} ({name}) of {what}; give that split's instances"
                )
            other = Path(known.get("file_name", name)).name
            if other != Path(name).name:
                raise UserError(
                    f"{self.path}: its picture {image_id} is {other}, in {what} {name}; another data set's?"
                )

    def named(self, words: Sequence[str]) -> Iterator[tuple[int, int, int]]:
        """(first word, one past the last, category) of every name in a caption, the longest that fits at each place."""
        start = 0
        while start < len(words):
            for stop in range(min(len(words), start + self.longest), start, -1):
                if tuple(words[start:stop]) in self.names:
                    category = self.names[tuple(words[start:stop])]
                    if category is not None:
                        yield start, stop, category
                    start = stop
                    break
            else:
                start += 1

    def _mask(self, image_id: int, category: int) -> Mask | None:
        """Where the model sees the category in a picture, any number of times [S, S]; None: nowhere."""
        annotations = [a for a in self.coco.imgToAnns[image_id] if a["category_id"] == category]
        if not annotations:
            return None
        whole = np.maximum.reduce([self.coco.annToMask(annotation) for annotation in annotations])
        mask: Mask = np.asarray(self.fit(Image.fromarray(whole * np.uint8(255)))) > 127
        return mask if mask.any() else None

    def _without_looking(self, image_id: int, category: int, cells: FeatureGrid) -> tuple[float, float, float]:
        """What chance and the picture's middle would get: area, centre_inside and centre_hits of a word."""
        mask = self.mask(image_id, category)
        assert mask is not None
        return float(mask.mean()), *_inside(center_prior(cells), mask, cells)

    def look(
        self, words: Sequence[str], weights: NDArray[np.floating], image_id: int, cells: FeatureGrid
    ) -> GroundingCounts:
        """Hold the attention [T, L] of a caption's words against the objects that they name; names of what is not in
        the picture, or not in the part that the model sees, do not count. A name of several words has the mean of
        their attention."""
        found = GroundingCounts()
        for start, stop, category in self.named(words):
            mask = self.mask(image_id, category)
            if mask is not None:
                own = _inside(np.asarray(weights[start:stop], np.float64).mean(0), mask, cells)
                found = found.plus(GroundingCounts(1, *own, *self._ignorant(image_id, category, cells)))
        return found


def _inside(weights: NDArray[np.float64], mask: Mask, cells: FeatureGrid) -> tuple[float, float]:
    """Of attention [L]: its share inside the mask, and whether its maximum is there."""
    attention = upsample(weights[None], cells)[0]
    return float(attention[mask].sum() / max(attention.sum(), 1e-12)), float(mask[peak(attention, cells)])


def grounding_scores(found: Sequence[GroundingCounts], suffix: str = "") -> list[Score]:
    """Percentages over all words that name an object; `suffix` says of which captions."""
    table = np.array(found, np.float64).reshape(-1, len(GroundingCounts._fields))
    columns = {
        "attention correctness": 1,
        "attention correctness of the centre": 4,
        "pointing": 2,
        "pointing of the centre": 5,
        "chance of both": 3,
    }
    scores = [Score(name + suffix, table[:, [column, 0]]) for name, column in columns.items()]
    return [*scores, Score("words that name an object" + suffix, table[:, :1], lambda sums: sums[..., 0])]


def _read(path: str | Path) -> COCO:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its progress
            coco = COCO(str(path))
        if not coco.cats or any("segmentation" not in annotation for annotation in coco.anns.values()):
            raise KeyError("segmentation")
    except (OSError, ValueError, KeyError, AssertionError, TypeError):
        raise UserError(f"{path}: not a COCO instance file; give instances_val2014.json or its like") from None
    for number, annotation in coco.anns.items():
        outline = annotation["segmentation"]
        polygons = isinstance(outline, list) and outline and all(len(corners) >= 6 for corners in outline)
        if not polygons and not (isinstance(outline, dict) and {"size", "counts"} <= outline.keys()):
            raise UserError(
                f"{path}: annotation {number} has neither polygons of three corners or more, nor runs of pixels"
            )
    return coco
