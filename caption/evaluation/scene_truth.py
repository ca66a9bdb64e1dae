"""Check captions of the `shapes` data set: parse them with its grammar and compare them with their scene."""

import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from nltk import CFG
from nltk.parse import BottomUpLeftCornerChartParser, ParserI

from caption.data import scenes
from caption.data.scenes import RELATION_PHRASES, SIZE_WORDS, SceneObject, relation_holds
from caption.evaluation.bootstrap import Score

ERRORS = ("shape", "colour", "size", "relation")


class ParsedCaption(NamedTuple):
    """The content of a caption."""

    objects: list[dict[str, str]]  # shape, colour and size of every object, in the order of the caption
    relations: list[str]  # of the first object to each of the others


class Slot(NamedTuple):
    """Words of a caption that say one thing of its image."""

    kind: str  # one of ERRORS
    start: int  # its first word
    words: tuple[str, ...]
    meaning: str  # such as "small" of the word "little"
    item: int  # number of its object in the caption; of a relation, of the second object

    @property
    def wordings(self) -> list[tuple[str, ...]]:
        """All words that mean the same."""
        phrases = {"size": SIZE_WORDS, "relation": RELATION_PHRASES}.get(self.kind, {}).get(
            self.meaning, [self.meaning]
        )
        return [tuple(phrase.split()) for phrase in phrases]


class Verdict(NamedTuple):
    """The errors of a caption. An ungrammatical caption is neither truthful nor complete."""

    grammatical: bool
    errors: frozenset[str] = frozenset()  # of ERRORS
    complete: bool = False  # all objects of the scene are mentioned

    @property
    def truthful(self) -> bool:
        return self.grammatical and not self.errors

    @property
    def notes(self) -> list[str]:
        """The verdict in words."""
        if not self.grammatical:
            return ["not grammatical"]
        return [f"wrong {error}" for error in ERRORS if error in self.errors] or ["truthful"]


def find_slots(words: Sequence[str]) -> list[Slot] | None:
    """Return what a caption says, in the order of its words, or None if it is not grammatical. The grammar is
    unambiguous."""
    try:
        tree = next(iter(_parser().parse(list(words))))
    except (ValueError, StopIteration):  # a word that the grammar lacks, or no parse
        return None
    starts: dict[tuple[int, ...], int] = {}  # node of each slot -> its first word
    for number, leaf in enumerate(tree.treepositions("leaves")):
        for depth in range(1, len(leaf)):
            if tree[leaf[:depth]].label().lower() in ERRORS:
                starts.setdefault(leaf[:depth], number)
    slots: list[Slot] = []
    for position, start in starts.items():
        node = tree[position]
        kind, item = node.label().lower(), sum(slot.kind == "shape" for slot in slots)
        meaning = node[0] if kind in ("colour", "shape") else node[0].label()
        slots.append(Slot(kind, start, tuple(node.leaves()), meaning, item))
    return slots


def reword(words: Sequence[str], slots: Sequence[Slot]) -> list[list[str]]:
    """Return all captions that say the same things in the same order, this one among them, from its slots."""
    begin = slots[0].start - 1  # its first "a"
    segments: list[list[tuple[str, ...]]] = [[tuple(opening.split()) for opening in scenes.OPENINGS]]
    for slot in slots:
        segments += [[tuple(words[begin : slot.start])], slot.wordings]
        begin = slot.start + len(slot.words)
    return [[word for phrase in phrases for word in phrase] for phrases in itertools.product(*segments)]


def parse(words: Sequence[str]) -> ParsedCaption | None:
    """Return the content of a caption, or None if it is not grammatical."""
    slots = find_slots(words)
    if slots is None:
        return None
    objects: list[dict[str, str]] = [{} for _ in range(slots[-1].item + 1)]
    for slot in slots:
        if slot.kind != "relation":
            objects[slot.item][slot.kind] = slot.meaning
    return ParsedCaption(objects, [slot.meaning for slot in slots if slot.kind == "relation"])


@cache
def _parser() -> ParserI:
    """Return a parser of the captions that `preprocess.shapes` writes."""
    rules: dict[str, Iterable[str]] = {
        "Caption": [f"{_terminals(opening)} Statement" for opening in scenes.OPENINGS],
        "Statement": ["Object", "Object Relations"],
        "Relations": ["Relation Object", "Relation Object 'and' Relations"],  # of the first object to the others
        "Object": ["'a' Size Colour Shape"],
        "Size": SIZE_WORDS,
        "Colour": map(_terminals, scenes.COLOURS),
        "Shape": map(_terminals, scenes.SHAPES),
        "Relation": RELATION_PHRASES,
        **{name: map(_terminals, phrases) for name, phrases in (SIZE_WORDS | RELATION_PHRASES).items()},
    }
    grammar = "\n".join(f"{name} -> {' | '.join(alternatives)}" for name, alternatives in rules.items())
    return BottomUpLeftCornerChartParser(CFG.fromstring(grammar))


def _terminals(phrase: str) -> str:
    return " ".join(f"'{word}'" for word in phrase.split())


def judge_slots(slots: Sequence[Slot], scene: Sequence[SceneObject]) -> list[tuple[Slot, bool]]:
    """Return whether each thing that a caption says is true of its scene. All objects of a scene differ in shape, so
    the noun identifies the object.

    A shape is false if it is not in the scene or was mentioned before. For a shape that is not in the scene, neither
    colour and size nor relations are judged, nor is the relation of an object to itself: they are left out.
    """
    by_shape = {item.shape: item for item in scene}
    named = [by_shape.get(slot.meaning) for slot in slots if slot.kind == "shape"]
    judged = []
    for slot in slots:
        first, target = named[0], named[slot.item]
        if slot.kind == "shape":
            judged.append((slot, target is not None and target not in named[: slot.item]))
        elif slot.kind == "relation" and first and target and first is not target:
            judged.append((slot, relation_holds(slot.meaning, first, target)))
        elif slot.kind != "relation" and target:
            judged.append((slot, slot.meaning == getattr(target, slot.kind)))
    return judged


def judge(words: Sequence[str], scene: Sequence[SceneObject]) -> Verdict:
    """Compare a caption with its scene; see `judge_slots`."""
    slots = find_slots(words)
    if slots is None:
        return Verdict(False)
    errors = frozenset(slot.kind for slot, true in judge_slots(slots, scene) if not true)
    named = {slot.meaning for slot in slots if slot.kind == "shape"}
    return Verdict(True, errors, {item.shape for item in scene} <= named)


def truth_scores(verdicts: Sequence[Verdict], only: Sequence[bool] | None = None) -> list[Score]:
    """Return the percentages of captions that are grammatical, truthful, complete, and wrong by each of ERRORS. `only`
    marks the captions to count; by default, all of them."""
    counted = np.ones(len(verdicts)) if only is None else np.asarray(only, np.float64)
    columns = {
        "grammatical": [verdict.grammatical for verdict in verdicts],
        "truthful": [verdict.truthful for verdict in verdicts],
        "truthful and complete": [verdict.truthful and verdict.complete for verdict in verdicts],
        **{f"wrong {error}": [error in verdict.errors for verdict in verdicts] for error in ERRORS},
    }
    return [Score(name, np.stack([counted * np.array(column), counted], 1)) for name, column in columns.items()]
