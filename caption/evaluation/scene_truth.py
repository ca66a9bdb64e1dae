"""Is what a caption of drawn shapes says grammatical, and is it true? Parsed by a grammar, checked on the scene."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from nltk import CFG, Tree
from nltk.parse import BottomUpLeftCornerChartParser, ParserI

from caption.evaluation.bootstrap import Score

# What `preprocess shapes` writes. The first object stands in a relation to each of the others.
GRAMMAR = """
    Caption -> Statement | 'there' 'is' Statement
    Statement -> Object | Object Relations
    Relations -> Relation Object | Relation Object 'and' Relations
    Object -> 'a' Size Colour Shape
    Size -> Small | Large
    Small -> 'small' | 'little'
    Large -> 'large' | 'big'
    Colour -> 'red' | 'green' | 'blue' | 'yellow' | 'purple' | 'orange'
    Shape -> 'circle' | 'square' | 'triangle' | 'star' | 'cross' | 'diamond'
    Relation -> Left | Right | Above | Below | Beside
    Left -> 'left' 'of' | 'to' 'the' 'left' 'of'
    Right -> 'right' 'of' | 'to' 'the' 'right' 'of'
    Above -> 'above' | 'over'
    Below -> 'below' | 'under'
    Beside -> 'beside'
"""

CLEAR = 1.6  # up to this ratio of |dx| and |dy|, an object is both beside and above (or below) the other
NEAR = 0.25  # largest gap between objects beside each other, as a share of the picture's side
FAULTS = ("shape", "colour", "size", "relation")


class SceneObject(NamedTuple):
    """An object of a scene; its centre and its radius as shares of the picture's side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


class ParsedCaption(NamedTuple):
    """What a caption says."""

    things: list[dict[str, str]]  # shape, colour, size of every object, in the order of the words
    relations: list[str]  # of the first object to each of the others


class Verdict(NamedTuple):
    """What is wrong with a caption. One that is not grammatical is neither true nor complete."""

    grammatical: bool
    faults: frozenset[str] = frozenset()  # of FAULTS
    complete: bool = False  # all objects of the scene are told

    @property
    def truthful(self) -> bool:
        return self.grammatical and not self.faults

    @property
    def notes(self) -> list[str]:
        """In words, for people."""
        if not self.grammatical:
            return ["not grammatical"]
        return [f"wrong {fault}" for fault in FAULTS if fault in self.faults] or ["truthful"]


def parse(words: Sequence[str]) -> ParsedCaption | None:
    """What the words say, or None when they are no sentence of the grammar (which is not ambiguous)."""
    parser = _parser()
    try:
        tree = next(iter(parser.parse(list(words))), None)
    except ValueError:  # a word that the grammar does not have
        return None
    if tree is None:
        return None
    things = [
        {
            "shape": node[3][0],
            "colour": node[2][0],
            "size": node[1][0].label().lower(),
        }
        for node in _nodes(tree, "Object")
    ]
    return ParsedCaption(things, [node[0].label().lower() for node in _nodes(tree, "Relation")])


@cache
def _parser() -> ParserI:
    return BottomUpLeftCornerChartParser(CFG.fromstring(GRAMMAR))


def _nodes(tree: Tree, label: str) -> list[Tree]:
    return list(tree.subtrees(lambda node: node.label() == label))


def judge(words: Sequence[str], scene: Sequence[SceneObject]) -> Verdict:
    """Hold a caption against its scene, in which no two objects have one shape: the noun says which object is meant.

    A shape that is not there, or is told twice, is a fault of shape. Of one that is not there, colour and size cannot
    be judged, nor relations to it.
    """
    said = parse(words)
    if said is None:
        return Verdict(False)
    by_shape = {thing.shape: thing for thing in scene}
    faults = set()
    meant = [by_shape.get(thing["shape"]) for thing in said.things]
    if None in meant or len(set(meant)) < len(meant):
        faults.add("shape")
    for told, thing in zip(said.things, meant, strict=True):
        if thing is not None:
            faults |= {name for name in ("colour", "size") if told[name] != getattr(thing, name)}
    first, *others = meant
    for relation, other in zip(said.relations, others, strict=True):
        if first is not None and other is not None and first is not other and not holds(relation, first, other):
            faults.add("relation")
    return Verdict(True, frozenset(faults), {thing for thing in meant if thing} == set(scene))


def holds(relation: str, a: SceneObject, b: SceneObject) -> bool:
    """Whether a stands in that relation to b. Nearly diagonal, an object is, say, both left of the other and above."""
    dx, dy = b.x - a.x, b.y - a.y
    if relation == "beside":
        gap = math.hypot(dx, dy) - a.radius - b.radius
        return CLEAR * abs(dx) >= abs(dy) and gap < NEAR
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return CLEAR * along >= abs(across) and along > 0


def read_scene(annotations: Sequence[Mapping[str, Any]], categories: Mapping[int, str]) -> list[SceneObject]:
    """The objects of one picture from the instance file that `preprocess shapes` wrote."""
    return [
        SceneObject(categories[a["category_id"]], a["colour"], a["size"], a["centre"][0], a["centre"][1], a["radius"])
        for a in annotations
    ]


def truth_scores(verdicts: Sequence[Verdict], only: Sequence[bool] | None = None) -> list[Score]:
    """Shares of the captions, or of some of them, in percent: grammatical, truthful, complete; and failing on each of
    FAULTS."""
    counted = np.ones(len(verdicts)) if only is None else np.asarray(only, np.float64)
    columns = {
        "grammatical": [verdict.grammatical for verdict in verdicts],
        "truthful": [verdict.truthful for verdict in verdicts],
        "truthful and complete": [verdict.truthful and verdict.complete for verdict in verdicts],
        **{f"wrong {fault}": [fault in verdict.faults for verdict in verdicts] for fault in FAULTS},
    }
    return [Score(name, np.stack([counted * np.array(column), counted], 1)) for name, column in columns.items()]
