"""A synthetic data set of coloured shapes in relation to each other, with the mask of every object.

The truth of a caption and the place of each of its objects are known; `caption.data.scenes` defines both. An image has
one to three objects of different shapes, so that a noun identifies its object. Some pairs of shape and colour do not
occur in training; every fifth test image has one of them and is marked `unseen` in the instance file.
"""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from caption.data import scenes
from caption.data.scenes import COLOURS, SHAPES, SIZES, SceneObject
from preprocess.synthetic import Scene, Synthetic

UNSEEN_PAIRS = (("circle", "purple"), ("square", "green"), ("triangle", "blue"), ("star", "orange"))
UNSEEN_EVERY = 5  # one in so many test images
CAPTIONS = {"train": 3, "val": 5, "test": 5}  # per image; to train, more images are worth more than more captions
APART = 1.2  # least distance of two centres, in sums of their radii; MIN_GAP comes to it
MIN_GAP = 0.04  # between two objects, as a fraction of the side
BESIDE_EVERY = 5  # one in so many relations of close objects side by side is worded as beside
SUPERSAMPLING = 4  # images are drawn so many times as large, for smooth edges


@dataclass(frozen=True, kw_only=True)
class Shapes(Synthetic):
    """Synthetic images of coloured shapes; the mask of every object is written to OUTPUT's name + _instances.json."""

    def run(self) -> None:
        self.write("masks", "shape", SHAPES)

    def scene(self, split: str, number: int) -> Scene:
        objects, unseen, captions = sample_scene(self.seed, split, number)
        return Scene(captions, [_annotation(item, self.size) for item in objects], {"unseen": unseen})

    def draw(self, split: str, number: int) -> Image.Image:
        _, objects, _ = _begin_scene(self.seed, split, number)  # without captions: half of the time of a scene
        return draw_scene(objects, self.size, scene_seed(self.seed, split, number))


def scene_seed(seed: int, split: str, number: int) -> str:
    return f"{seed} {split} {number}"


def sample_scene(seed: int, split: str, number: int) -> tuple[list[SceneObject], bool, list[str]]:
    """Return the objects of an image, whether one is an unseen pair of shape and colour, and the captions."""
    rng, objects, unseen = _begin_scene(seed, split, number)
    return objects, unseen, [sample_caption(rng, objects, reorder=split == "test") for _ in range(CAPTIONS[split])]


def _begin_scene(seed: int, split: str, number: int) -> tuple[random.Random, list[SceneObject], bool]:
    """Return the generator of an image after its objects are chosen, those, and whether one is an unseen pair."""
    rng = random.Random(scene_seed(seed, split, number))
    unseen = split == "test" and number % UNSEEN_EVERY == 0
    count = rng.choices((1, 2, 3), (1, 3, 2))[0]
    objects = sample_objects(rng, count, unseen) if split == "test" else sample_seen_objects(rng, count)
    return rng, objects, unseen


def sample_objects(rng: random.Random, count: int, unseen: bool) -> list[SceneObject]:
    """Return objects that do not touch, the first in a clear relation to each of the others.

    Only the test split is made in this way, so that its images remain the same: it takes several times as long as
    `sample_seen_objects`.
    """
    while True:
        objects: list[SceneObject] = []
        for shape in rng.sample(SHAPES, count):
            size = rng.choice(tuple(SIZES))
            margin = SIZES[size] + MIN_GAP / 2
            x, y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
            objects.append(SceneObject(shape, rng.choice(tuple(COLOURS)), size, x, y))
        if has_unseen_pair(objects) != unseen:
            continue
        pairs = itertools.combinations(objects, 2)
        if not all(scenes.distance(a, b) > APART * (a.radius + b.radius) + MIN_GAP for a, b in pairs):
            continue
        # The image shows which object the captions begin with: a large one before a small one, then the upper left.
        objects.sort(key=lambda item: (item.size != "large", item.x + item.y))
        if all(scenes.is_clear(objects[0], other) for other in objects[1:]):
            return objects


def sample_seen_objects(rng: random.Random, count: int) -> list[SceneObject]:
    """Return objects with the distribution of `sample_objects`, without an unseen pair of shape and colour."""
    layout = sample_layout(rng, count)
    while True:
        shapes, colours = rng.sample(SHAPES, count), rng.choices(tuple(COLOURS), k=count)
        objects = [SceneObject(*item) for item in zip(shapes, colours, *layout, strict=True)]
        if not has_unseen_pair(objects):
            return objects


def sample_layout(rng: random.Random, count: int) -> tuple[list[str], list[float], list[float]]:
    """Return the sizes and the coordinates x and y of objects that do not touch, the first in a clear relation to each
    of the others, in the order of `sample_objects`: the first valid one of many candidates."""
    generator = np.random.default_rng(rng.getrandbits(64))
    names = tuple(SIZES)
    candidates = 8**count  # of one object all are valid, of three one in 400
    while True:
        sizes = generator.integers(len(SIZES), size=(candidates, count))
        radii = np.array(tuple(SIZES.values()))[sizes]
        margins = radii + MIN_GAP / 2
        x, y = margins + (1 - 2 * margins) * generator.random((2, candidates, count))
        apart = np.ones(candidates, bool)
        for a, b in itertools.combinations(range(count), 2):
            distances = np.hypot(x[:, a] - x[:, b], y[:, a] - y[:, b])
            apart &= distances > APART * (radii[:, a] + radii[:, b]) + MIN_GAP
        for index in apart.nonzero()[0]:
            order = np.argsort(x[index] + y[index] - 10 * (sizes[index] == names.index("large")))  # large ones first
            (x0, *x_others), (y0, *y_others) = x[index, order].tolist(), y[index, order].tolist()
            offsets = [(abs(x - x0), abs(y - y0)) for x, y in zip(x_others, y_others, strict=True)]
            if all(max(offset) > scenes.CLEAR_RATIO * min(offset) for offset in offsets):
                return [names[size] for size in sizes[index, order]], [x0, *x_others], [y0, *y_others]


def has_unseen_pair(objects: Sequence[SceneObject]) -> bool:
    return any((item.shape, item.colour) in UNSEEN_PAIRS for item in objects)


def sample_caption(rng: random.Random, objects: Sequence[SceneObject], reorder: bool) -> str:
    """Return a true and complete caption of a scene, its wording chosen at random.

    With `reorder`, one caption in five names the objects in another order. Only references do: a model that learns from
    captions of two orders mixes them, and gives one object the shape of the other (docs/results.md, "True captions").
    """
    first, *others = objects
    opening = _choose(rng, scenes.OPENINGS)
    if not others:
        return opening + _noun_phrase(rng, first)
    if len(others) == 1 and rng.random() < 0.2 and reorder:  # the same relation, from the other object's side
        first, others = others[0], [first]
    if len(others) == 2 and rng.random() < 0.2 and reorder:
        others.reverse()
    relations = " and ".join(f"{_relation_phrase(rng, first, other)} {_noun_phrase(rng, other)}" for other in others)
    return f"{opening}{_noun_phrase(rng, first)} {relations}"


def _noun_phrase(rng: random.Random, item: SceneObject) -> str:
    return f"a {_choose(rng, scenes.SIZE_WORDS[item.size])} {item.colour} {item.shape}"


def _relation_phrase(rng: random.Random, a: SceneObject, b: SceneObject) -> str:
    direction = scenes.main_direction(a, b)
    if direction in ("left", "right") and scenes.are_close(a, b) and rng.randrange(BESIDE_EVERY) == 0:
        (phrase,) = scenes.RELATION_PHRASES["beside"]
        return phrase
    return _choose(rng, scenes.RELATION_PHRASES[direction])


def _choose(rng: random.Random, frequencies: Mapping[str, int]) -> str:
    return rng.choices(list(frequencies), list(frequencies.values()))[0]


def outline(item: SceneObject) -> list[tuple[float, float]]:
    """Return the corners of an object, as fractions of the side."""
    radius = item.radius
    return [(item.x + radius * x, item.y + radius * y) for x, y in CORNERS[item.shape]]


def _ring(corners: int, angle: float, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
    angles = [angle + 2 * math.pi * i / corners for i in range(corners)]
    return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii * corners, strict=False)]


_UP = -math.pi / 2
_ARM = 0.38  # half the width of a plus sign's bars
_CROSS = [
    (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
    (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
]  # fmt: skip
CORNERS = {  # of each shape, with its centre at 0 and a radius of 1
    "circle": _ring(64, 0),
    "square": _ring(4, math.pi / 4, (1.15,)),
    "triangle": _ring(3, _UP, (1.2,)),
    "star": _ring(10, _UP, (1.25, 0.6)),
    "cross": [(x * 1.1, y * 1.1) for x, y in _CROSS],
    "diamond": [(0, -1.25), (0.75, 0), (0, 1.25), (-0.75, 0)],
}


def draw_scene(objects: Sequence[SceneObject], size: int, seed: str) -> Image.Image:
    """Draw a scene: RGB, size x size."""
    rng = random.Random(seed + " picture")  # another word would give other images
    background = tuple(rng.randint(205, 245) for _ in range(3))
    image = Image.new("RGB", (SUPERSAMPLING * size,) * 2, background)
    for item in objects:
        colour = tuple(max(0, min(255, c + rng.randint(-12, 12))) for c in COLOURS[item.colour])
        _fill(image, item, colour)
    return image.resize((size, size), Image.Resampling.BOX)


def _fill(image: Image.Image, item: SceneObject, colour: int | tuple[int, ...]) -> None:
    side = image.width
    ImageDraw.Draw(image).polygon([(side * x, side * y) for x, y in outline(item)], fill=colour)


def _annotation(item: SceneObject, size: int) -> dict[str, Any]:
    """Return the annotation of an object, with its colour, size, centre and radius (as fractions of the side)."""
    image = Image.new("L", (SUPERSAMPLING * size,) * 2)
    _fill(image, item, 255)
    mask = np.asarray(image.reduce(SUPERSAMPLING)) > 127
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "category_id": SHAPES.index(item.shape) + 1,
        "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        "area": float(coco_mask.area(code)),
        "bbox": [float(value) for value in coco_mask.toBbox(code)],
        "iscrowd": 0,
        "colour": item.colour,
        "size": item.size,
        "centre": [item.x, item.y],
        "radius": item.radius,
    }
