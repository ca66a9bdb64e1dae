"""A captioned set drawn from a seed: coloured shapes in relation to each other, and the mask of every object.

The right caption and the right place of each of its words are known. A picture holds one to three objects, no two of
one shape, so that a noun names one object. Some pairs of shape and colour are never trained on; a fifth of the test
pictures holds one and is marked `unseen` in the instance file.
"""

import math
import random
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from caption.progress import ProgressBar
from preprocess.synthetic import Drawn, file_name, image_id, split_and_number, write_drawn

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 72),
    "blue": (38, 84, 214),
    "yellow": (248, 220, 40),
    "purple": (138, 43, 190),
    "orange": (243, 112, 16),
}
SIZES = {"small": 0.15, "large": 0.22}  # radius, as a share of the picture's side
UNSEEN = (("circle", "purple"), ("square", "green"), ("triangle", "blue"), ("star", "orange"))
UNSEEN_SHARE = 5  # every fifth test picture

# Wordings with their weights. The first is the usual one: a reader who always took it would be right most of the time.
SIZE_WORDS = {"small": (("small", 3), ("little", 1)), "large": (("large", 3), ("big", 1))}
RELATION_WORDS = {
    "left": (("left of", 4), ("to the left of", 1)),
    "right": (("right of", 4), ("to the right of", 1)),
    "above": (("above", 4), ("over", 1)),
    "below": (("below", 4), ("under", 1)),
}
BESIDE = 5  # one in so many relations of neighbours side by side is told as beside
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
OPENINGS = (("", 6), ("there is ", 1))
GAP = 0.04  # smallest distance between two objects, as a share of the side
NEIGHBOURS = 0.25  # largest gap between objects that are beside each other
CLEAR = 1.6  # the longer of |dx|, |dy| over the shorter, so that a relation is beyond dispute


class SceneObject(NamedTuple):
    """One object; centre and radius as shares of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        return SIZES[self.size]


@dataclass(frozen=True, kw_only=True)
class Shapes(Drawn):
    """A synthetic set of coloured shapes, with the mask of every object in OUTPUT's name + _instances.json."""

    def run(self) -> None:
        self.check()
        scenes = [(split, number, *make_scene(self.seed, split, number)) for split, number in self.numbers()]
        instances = instance_file([(s, n, t, u) for s, n, t, u, _ in scenes], self.size, self.seed)
        captioned = ((split, number, captions) for split, number, _, _, captions in scenes)
        write_drawn(self, "shapes", captioned, partial(draw_named, seed=self.seed, size=self.size), instances)


def draw_named(name: str, seed: int, size: int) -> Image.Image:
    """The picture of that file name."""
    split, number = split_and_number(name)
    things, _, _ = make_scene(seed, split, number)
    return draw_scene(things, size, scene_seed(seed, split, number))


def scene_seed(seed: int, split: str, number: int) -> str:
    return f"{seed} {split} {number}"


def make_scene(seed: int, split: str, number: int) -> tuple[list[SceneObject], bool, list[str]]:
    """The objects of a picture, whether they hold an unseen combination, and five captions."""
    chance = random.Random(scene_seed(seed, split, number))
    unseen = split == "test" and number % UNSEEN_SHARE == 0
    things = place_things(chance, chance.choices((1, 2, 3), (1, 3, 2))[0], unseen)
    return things, unseen, describe(chance, things, 5)


def place_things(chance: random.Random, count: int, unseen: bool) -> list[SceneObject]:
    """Objects that do not touch, the first in a clear relation to each of the others."""
    while True:
        things: list[SceneObject] = []
        for shape in chance.sample(SHAPES, count):
            size = chance.choice(tuple(SIZES))
            margin = SIZES[size] + GAP / 2
            x, y = chance.uniform(margin, 1 - margin), chance.uniform(margin, 1 - margin)
            things.append(SceneObject(shape, chance.choice(tuple(COLOURS)), size, x, y))
        # Whom a caption begins with must be visible: the large before the small, then the upper left.
        things.sort(key=lambda thing: (thing.size != "large", thing.x + thing.y))
        first = things[0]
        apart = all(
            math.dist(a[3:], b[3:]) > 1.2 * (a.radius + b.radius) + GAP
            for i, a in enumerate(things)
            for b in things[:i]
        )
        clear = all(_ratio(first, other) > CLEAR for other in things[1:])
        if apart and clear and any((t.shape, t.colour) in UNSEEN for t in things) == unseen:
            return things


def _ratio(a: SceneObject, b: SceneObject) -> float:
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    return max(dx, dy) / max(min(dx, dy), 1e-9)


def relation(a: SceneObject, b: SceneObject) -> str:
    """Where a is, seen from b."""
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


def describe(chance: random.Random, things: list[SceneObject], count: int) -> list[str]:
    """So many captions of a scene, each in words drawn anew."""
    return [_sentence(chance, things) for _ in range(count)]


def _sentence(chance: random.Random, things: list[SceneObject]) -> str:
    first, *others = things
    opening = _pick(chance, OPENINGS)
    if not others:
        return opening + _name(chance, first)
    if len(others) == 1 and chance.random() < 0.2:  # the same relation, seen from the other
        first, others = others[0], [first]
    if len(others) == 2 and chance.random() < 0.2:
        others.reverse()
    parts = " and ".join(f"{_relation_words(chance, first, other)} {_name(chance, other)}" for other in others)
    return f"{opening}{_name(chance, first)} {parts}"


def _name(chance: random.Random, thing: SceneObject) -> str:
    size = _pick(chance, SIZE_WORDS[thing.size])
    return f"a {size} {thing.colour} {thing.shape}"


def _relation_words(chance: random.Random, a: SceneObject, b: SceneObject) -> str:
    where = relation(a, b)
    near = math.dist(a[3:], b[3:]) - a.radius - b.radius < NEIGHBOURS
    if where in ("left", "right") and near and chance.randrange(BESIDE) == 0:
        return "beside"
    return _pick(chance, RELATION_WORDS[where])


def _pick(chance: random.Random, choices: tuple[tuple[str, int], ...]) -> str:
    return chance.choices([word for word, _ in choices], [weight for _, weight in choices])[0]


def outline(thing: SceneObject) -> list[tuple[float, float]]:
    """Corners of an object, as shares of the side."""

    def ring(corners: int, turn: float, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
        angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
        return [(r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii * corners, strict=False)]

    up = -math.pi / 2
    corners = {
        "circle": ring(64, 0),
        "square": ring(4, math.pi / 4, (1.15,)),
        "triangle": ring(3, up, (1.2,)),
        "star": ring(10, up, (1.25, 0.6)),
        "cross": [(x * 1.1, y * 1.1) for x, y in _CROSS],
        "diamond": [(0, -1.25), (0.75, 0), (0, 1.25), (-0.75, 0)],
    }[thing.shape]
    return [(thing.x + thing.radius * x, thing.y + thing.radius * y) for x, y in corners]


_ARM = 0.38  # half the width of a plus sign's bars
_CROSS = [
    (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
    (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
]  # fmt: skip


def draw_scene(things: list[SceneObject], size: int, seed: str) -> Image.Image:
    """The picture: RGB, size x size, edges smoothed by drawing four times as large."""
    chance = random.Random(seed + " picture")
    background = tuple(chance.randint(205, 245) for _ in range(3))
    large = Image.new("RGB", (4 * size, 4 * size), background)
    draw = ImageDraw.Draw(large)
    for thing in things:
        colour = tuple(max(0, min(255, c + chance.randint(-12, 12))) for c in COLOURS[thing.colour])
        draw.polygon([(4 * size * x, 4 * size * y) for x, y in outline(thing)], fill=colour)
    return large.resize((size, size), Image.Resampling.BOX)


def draw_mask(thing: SceneObject, size: int) -> Image.Image:
    """Where an object is: mode L, size x size, 255 inside."""
    large = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(large).polygon([(4 * size * x, 4 * size * y) for x, y in outline(thing)], fill=255)
    return large.resize((size, size), Image.Resampling.BOX).point(lambda value: 255 if value > 127 else 0)


def instance_file(scenes: list[tuple[str, int, list[SceneObject], bool]], size: int, seed: int) -> dict[str, Any]:
    """COCO's instance format, and what truth is told by: colour, size, centre and radius (shares of the side)
    of an object, and which pictures hold an unseen combination."""
    images, annotations = [], []
    for split, number, things, unseen in ProgressBar(scenes, "masks", "pictures"):
        identity = image_id(split, number)
        images.append(
            {
                "id": identity,
                "file_name": file_name("shapes", split, number),
                "width": size,
                "height": size,
                "split": split,
                "unseen": unseen,
            }
        )
        annotations += [_annotation(thing, size, identity, i) for i, thing in enumerate(things)]
    categories = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES, 1)]
    info = {"description": "shapes", "seed": seed}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _annotation(thing: SceneObject, size: int, image: int, number: int) -> dict[str, Any]:
    mask = np.asfortranarray(np.asarray(draw_mask(thing, size)) > 0, dtype=np.uint8)
    code = coco_mask.encode(mask)
    return {
        "id": 10 * image + number + 1,
        "image_id": image,
        "category_id": SHAPES.index(thing.shape) + 1,
        "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        "area": float(coco_mask.area(code)),
        "bbox": [float(value) for value in coco_mask.toBbox(code)],
        "iscrowd": 0,
        "colour": thing.colour,
        "size": thing.size,
        "centre": [thing.x, thing.y],
        "radius": thing.radius,
    }
