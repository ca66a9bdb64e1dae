"""The scenes of the `shapes` data set: what they consist of, how captions word it, and what each relation means.

`preprocess.shapes` draws and describes scenes by these definitions; `caption.evaluation.scene_truth` judges captions by
them. Positions and lengths are fractions of the image's side; x grows to the right and y downwards.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS = {  # RGB
    "red": (214, 40, 40),
    "green": (42, 157, 72),
    "blue": (38, 84, 214),
    "yellow": (248, 220, 40),
    "purple": (138, 43, 190),
    "orange": (243, 112, 16),
}
SIZES = {"small": 0.15, "large": 0.22}  # radius

# Wordings with their relative frequencies. The first is the most frequent: a model that always chose it would be right
# most of the time.
OPENINGS = {"": 6, "there is ": 1}
SIZE_WORDS = {"small": {"small": 3, "little": 1}, "large": {"large": 3, "big": 1}}
RELATION_PHRASES = {
    "left": {"left of": 4, "to the left of": 1},
    "right": {"right of": 4, "to the right of": 1},
    "above": {"above": 4, "over": 1},
    "below": {"below": 4, "under": 1},
    "beside": {"beside": 1},
}
MAX_GAP_BESIDE = 0.25  # between objects that are beside each other
CLEAR_RATIO = 1.6  # of the longer to the shorter of |dx| and |dy|; above it, only one direction holds


def word_kinds() -> dict[str, str]:
    """Return the kind of each word by which a caption describes its scene: colours, shapes, sizes or relations.

    A word in the phrases of several relations, such as "of" or "to", names none of them and has no kind.
    """
    phrases = [" ".join(wordings).split() for wordings in RELATION_PHRASES.values()]
    uses = Counter(word for words in phrases for word in set(words))
    kinds: dict[str, Iterable[str]] = {
        "colours": COLOURS,
        "shapes": SHAPES,
        "sizes": [word for words in SIZE_WORDS.values() for word in words],
        "relations": [word for word, count in uses.items() if count == 1],
    }
    return {word: kind for kind, words in kinds.items() for word in words}


class SceneObject(NamedTuple):
    """One object of a scene and the position of its centre."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        return SIZES[self.size]


def distance(a: SceneObject, b: SceneObject) -> float:
    """Return the distance between the centres."""
    return math.dist((a.x, a.y), (b.x, b.y))


def are_close(a: SceneObject, b: SceneObject) -> bool:
    """Return whether the gap between the objects is small enough for "beside"."""
    return distance(a, b) - a.radius - b.radius < MAX_GAP_BESIDE


def main_direction(a: SceneObject, b: SceneObject) -> str:
    """Return the direction in which a lies from b: left, right, above or below, along the longer of |dx| and |dy|."""
    if abs(a.x - b.x) > abs(a.y - b.y):
        return "left" if a.x < b.x else "right"
    return "above" if a.y < b.y else "below"


def is_clear(a: SceneObject, b: SceneObject) -> bool:
    """Return whether the main direction is the only one that holds."""
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    return max(dx, dy) / max(min(dx, dy), 1e-9) > CLEAR_RATIO


def relation_holds(relation: str, a: SceneObject, b: SceneObject) -> bool:
    """Return whether a stands in the relation to b. Near the diagonal two directions hold, such as left and above."""
    dx, dy = b.x - a.x, b.y - a.y
    if relation == "beside":
        return CLEAR_RATIO * abs(dx) >= abs(dy) and are_close(a, b)
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return CLEAR_RATIO * along >= abs(across) and along > 0
