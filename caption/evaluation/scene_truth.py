"""Check captions of the `shapes` data set: parse them with its grammar and compare them with their scene."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from nltk import CFG, Tree
from nltk.parse import BottomUpLeftCornerChartParser, ParserI

from caption.data import scenes
from caption.data.scenes import RELATION_PHRASES, SIZE_WORDS, SceneObject, relation_holds
from caption.evaluation.bootstrap import Score

ERRORS = ("shape", "colour", "size", "relation")


class ParsedCaption(NamedTuple):
    """The content of a caption."""

    objects: list[dict[str, str]]  # shape, colour and size of every object, in the order of the caption
    relations: list[str]  # of the first object to each of the others


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


def parse(words: Sequence[str]) -> ParsedCaption | None:
    """Return the content of a caption, or None if it is not grammatical. The grammar is unambiguous."""
    try:
        tree = next(iter(_parser().parse(list(words))))
    except (ValueError, StopIteration):  # a word that the grammar lacks, or no parse
        return None
    objects = [
        {"shape": node[3][0], "colour": node[2][0], "size": node[1][0].label()} for node in _nodes(tree, "Object")
    ]
    return ParsedCaption(objects, [node[0].label() for node in _nodes(tree, "Relation")])


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


def _nodes(tree: Tree, label: str) -> list[Tree]:
    return list(tree.subtrees(lambda node: node.label() == label))


def judge(words: Sequence[str], scene: Sequence[SceneObject]) -> Verdict:
    """Compare a caption with its scene. All objects of a scene differ in shape, so the noun identifies the object.

    A shape that is not in the scene, or is mentioned twice, is an error of shape. For a shape that is not in the
    scene, neither colour and size nor relations are judged.
    """
    parsed = parse(words)
    if parsed is None:
        return Verdict(False)
    by_shape = {item.shape: item for item in scene}
    errors = set()
    targets = [by_shape.get(mention["shape"]) for mention in parsed.objects]
    if None in targets or len(set(targets)) < len(targets):
        errors.add("shape")
    for mention, target in zip(parsed.objects, targets, strict=True):
        if target is not None:
            errors |= {name for name in ("colour", "size") if mention[name] != getattr(target, name)}
    first, *others = targets
    for relation, other in zip(parsed.relations, others, strict=True):
        if first and other and first is not other and not relation_holds(relation, first, other):
            errors.add("relation")
    return Verdict(True, frozenset(errors), {target for target in targets if target} == set(scene))


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
