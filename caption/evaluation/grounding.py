"""Measures of attention: its entropy, and how it hits the object that a word names, on masks in COCO's instance format.

Attention correctness (Liu et al., 2017) is the fraction of a word's attention inside the object. The pointing game
(Zhang et al., 2016) asks whether its maximum is inside. Both use the very maps that figures show and stand beside two
baselines that ignore the image: chance, and attention on the centre of the image.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_image_config, read_manifest
from caption.data.images import MAX_PIXELS, fit_image
from caption.data.scenes import SceneObject, distance
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError, reading
from caption.evaluation.bootstrap import Score, ratio
from caption.evaluation.categories import NAMES, OTHERS, plural
from caption.visualise.upsample import center_prior, peak, upsample

Mask = NDArray[np.bool_]
REMEDY = "give a COCO instance file: instances_val2014.json or its like"
MAX_PERIMETER = 2**26  # of a polygon in pixels, for which pycocotools needs a gigabyte


class GroundingCounts(NamedTuple):
    """Sums over the words that name an object of their image."""

    words: float = 0
    inside: float = 0  # fraction of the attention inside the object's mask
    hits: float = 0  # maximum inside the mask
    area: float = 0  # fraction of the image that the mask covers: chance level of both measures
    centre_inside: float = 0  # `inside` of attention on the centre of the image
    centre_hits: float = 0

    def plus(self, other: "GroundingCounts") -> "GroundingCounts":
        return GroundingCounts(*(a + b for a, b in zip(self, other, strict=True)))


class Instances:
    """The annotated objects of a set of images, with the words that name them."""

    def __init__(self, path: str | Path, fit: Callable[[Image.Image], Image.Image]) -> None:
        """Read a COCO instance file; `fit` brings a mask into the square that the model sees.

        Raises UserError when it is not a COCO instance file.
        """
        self.path, self.fit = path, fit
        self.names: dict[tuple[str, ...], int | None] = {}  # words -> category; None: they name no object
        with reading(path, REMEDY):
            self.coco = _read(path)
            for number, category in self.coco.cats.items():
                own = category["name"].lower().replace("_", " ")
                for name in (own, *NAMES.get(own, ())):
                    self.names |= {tuple(form.split()): number for form in (name, plural(name))}
            for image_id in self.coco.imgs if self.has_scenes else ():
                for item in self.scene(image_id):
                    distance(item, item), item.radius  # what `judge` will compute of it
        self.names |= {tuple(form.split()): None for name in OTHERS for form in {name, f"{name}s"} - {"oranges"}}
        self.longest = max(map(len, self.names))
        self.find = lru_cache(512)(self._find)  # captions of an image name the same objects

    def check_covers(self, image_ids: Sequence[int], file_names: Sequence[str], what: str) -> None:
        """Raise UserError unless the file annotates these images; `what` names them in the message."""
        for image_id, name in zip(image_ids, file_names, strict=True):
            image = self.coco.imgs.get(image_id)
            if image is None:
                raise UserError(f"{self.path}: has no image {image_id} ({name}) of {what}; give that split's instances")
            other = Path(image.get("file_name", name)).name
            if other != Path(name).name:
                raise UserError(f"{self.path}: its image {image_id} is {other}, in {what} {name}; another data set's?")

    def named(self, words: Sequence[str]) -> Iterator[tuple[int, int, int]]:
        """Yield (first word, one past the last, category) of each object name in a caption, longest match first."""
        start = 0
        while start < len(words):
            stops = range(min(len(words), start + self.longest), start, -1)
            stop = next((stop for stop in stops if tuple(words[start:stop]) in self.names), start + 1)
            category = self.names.get(tuple(words[start:stop]))
            if category is not None:
                yield start, stop, category
            start = stop

    def count(
        self, words: Sequence[str], weights: NDArray[np.floating], image_id: int, grid: FeatureGrid
    ) -> GroundingCounts:
        """Hold the attention [T, L] of a caption's words against the objects that they name.

        Names of objects that are not in the image, or outside what the model sees of it, do not count. A name of
        several words has the mean of their attention.
        """
        counts = GroundingCounts()
        for start, stop, category in self.named(words):
            if found := self.find(image_id, category, grid):
                mask, baselines = found
                inside = _inside(np.asarray(weights[start:stop], np.float64).mean(0), mask, grid)
                counts = counts.plus(GroundingCounts(1, *inside, *baselines))
        return counts

    def categories(self, image_id: int) -> set[int]:
        """Return the categories of an image's objects, crowds and those outside what the model sees included."""
        return {annotation["category_id"] for annotation in self.coco.imgToAnns[image_id]}

    def scene(self, image_id: int) -> list[SceneObject]:
        """Return the objects of a drawn image; see `has_scenes`."""
        annotations, categories = self.coco.imgToAnns[image_id], self.coco.cats
        return [
            SceneObject(categories[a["category_id"]]["name"], a["colour"], a["size"], *a["centre"]) for a in annotations
        ]

    @property
    def has_scenes(self) -> bool:
        """True if every object has a colour and a centre, as `preprocess shapes` writes them."""
        return all({"colour", "centre"} <= annotation.keys() for annotation in self.coco.anns.values())

    def _find(self, image_id: int, category: int, grid: FeatureGrid) -> tuple[Mask, tuple[float, float, float]] | None:
        """Return where the model sees objects of the category in an image [S, S], with area, centre_inside and
        centre_hits of a word that names them; None if it sees none."""
        annotations = [a for a in self.coco.imgToAnns[image_id] if a["category_id"] == category]
        if not annotations:
            return None
        with reading(self.path, REMEDY):  # an RLE may lie about its length
            union = np.maximum.reduce([self.coco.annToMask(annotation) for annotation in annotations])
        mask: Mask = np.asarray(self.fit(Image.fromarray(union * np.uint8(255)))) > 127
        if not mask.any():
            return None
        return mask, (float(mask.mean()), *_inside(center_prior(grid), mask, grid))


def read_instances(path: str, split: CaptionDataset) -> Instances | None:
    """Return the instances of a split, with masks fitted as its images were, or None if `path` is empty.

    Raises UserError when the file annotates other images.
    """
    if not path:
        return None
    image = read_image_config(split.path)
    instances = Instances(path, partial(fit_image, size=image.size, fit=image.fit))
    with reading(path, REMEDY):
        instances.check_covers(split.image_ids, split.file_names, f"{split.path}, {split.split}")
        seed = instances.coco.dataset.get("info", {}).get("seed")
    if seed is not None and seed != read_manifest(split.path)["source"].get("seed"):
        raise UserError(f"{path}: of images drawn with seed {seed}, but those of {split.path} are of another")
    return instances


def read_scenes(path: str, split: CaptionDataset) -> Instances:
    """Return the instances of a split of drawn shapes. Raises UserError when the file annotates other images, or has no
    scenes."""
    instances = read_instances(path, split)
    if instances is None or not instances.has_scenes:
        raise UserError(
            f"--instances {path!r}: lacks the scenes of drawn shapes; give the file that "
            "python -m preprocess shapes wrote"
        )
    return instances


def grounding_scores(counts: Sequence[GroundingCounts], suffix: str = "") -> list[Score]:
    """Return percentages over all words that name an object; `suffix`, added to the names, says of which captions."""
    table = np.array(counts, np.float64).reshape(-1, len(GroundingCounts._fields))
    columns = {
        "attention correctness": 1,
        "attention correctness of the centre": 4,
        "pointing": 2,
        "pointing of the centre": 5,
        "chance of both": 3,
    }
    scores = [Score(name + suffix, table[:, [column, 0]]) for name, column in columns.items()]
    return [*scores, Score("words that name an object" + suffix, table[:, :1], lambda sums: sums[..., 0])]


def attention_entropy(weights: Sequence[NDArray[np.floating]]) -> Score:
    """Return the mean entropy of the attention [T, L] of each caption, in nats per word."""
    logs = [np.log(w, where=w > 0, out=np.zeros_like(w)) for w in weights]
    sums = [[-float((w * log).sum()), len(w)] for w, log in zip(weights, logs, strict=True)]
    return Score("attention entropy", np.array(sums), ratio)


def attended_regions(weights: Sequence[NDArray[np.floating]]) -> Score:
    """Return at how many different regions the attention [T, L] of a caption has its maximum, a mean over the captions.

    1: it stays at one region for all T words.
    """
    return Score("attended regions", np.array([(len(set(w.argmax(-1))), 1) for w in weights], np.float64), ratio)


def _inside(weights: NDArray[np.float64], mask: Mask, grid: FeatureGrid) -> tuple[float, float]:
    """Return the fraction of attention [L] inside the mask, and whether its maximum is inside."""
    attention = upsample(weights[None], grid)[0]
    return float(attention[mask].sum() / max(attention.sum(), 1e-12)), float(mask[peak(attention, grid)])


def _read(path: str | Path) -> COCO:
    """Read an instance file. Raises almost anything if it is not one; UserError if pycocotools could not survive it."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO(str(path))
    if not coco.cats:
        raise UserError(f"{path}: has no categories; {REMEDY}")
    for number, image in coco.imgs.items():
        height, width = int(image["height"]), int(image["width"])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise UserError(
                f"{path}: image {number} has {height} x {width} pixels, but must have 1 to {MAX_PIXELS / 1e6:.0f} "
                f"million; {REMEDY}"
            )
    for number, annotation in coco.anns.items():
        image = coco.imgs.get(annotation["image_id"])  # of another image, it is never drawn
        if image and (problem := _outline_problem(annotation.get("segmentation"), image["height"], image["width"])):
            raise UserError(f"{path}: annotation {number} {problem}; {REMEDY}")
    return coco


def _outline_problem(outline: Any, height: int, width: int) -> str:
    """Return why pycocotools may not see an outline, which it draws without looking at its numbers, or ""."""
    if isinstance(outline, dict) and {"size", "counts"} <= outline.keys():
        right = outline["size"] == [height, width]
        return "" if right else f"has an RLE of {outline['size']}, but its image has {height} x {width} pixels"
    if not (isinstance(outline, list) and outline and all(len(corners) >= 6 for corners in outline)):
        return "has neither polygons of three corners or more, nor an RLE"
    side = max(height, width)  # outlines may leave the image a little
    for corners in outline:
        values = np.array(corners, np.float64)
        if values.ndim > 1 or not np.abs(values - side / 2).max() <= 1.5 * side:  # neither are NaN and infinity
            return f"has corners far outside its image of {height} x {width} pixels"
        if len(corners) * side > MAX_PERIMETER:
            return f"has a polygon of {len(corners) // 2} corners, too many for its image of {height} x {width} pixels"
    return ""
