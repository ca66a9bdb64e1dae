"""The grammar accepts what the set writes; every kind of fault is found, and nothing else."""

import pytest

from caption.evaluation.scene_truth import (
    FAULTS,
    ParsedCaption,
    SceneObject,
    Verdict,
    holds,
    judge,
    parse,
    truth_scores,
)
from preprocess.shapes import make_scene

SCENE = [
    SceneObject("circle", "red", "large", 0.25, 0.5, 0.22),
    SceneObject("square", "blue", "small", 0.75, 0.52, 0.15),
    SceneObject("star", "green", "small", 0.3, 0.9, 0.15),
]


def verdict(text: str) -> Verdict:
    return judge(text.split(), SCENE)


def test_every_caption_of_the_set_is_true_and_complete() -> None:
    for number in range(150):
        things, _, captions = make_scene(3, "test", number)
        scene = [SceneObject(*thing, thing.radius) for thing in things]
        for caption in captions:
            found = judge(caption.split(), scene)
            assert found.truthful and found.complete, caption


def test_parse() -> None:
    text = "there is a large red circle to the left of a little blue square and over a small green star"
    found = parse(text.split())
    assert found == ParsedCaption(
        [
            {"shape": "circle", "colour": "red", "size": "large"},
            {"shape": "square", "colour": "blue", "size": "small"},
            {"shape": "star", "colour": "green", "size": "small"},
        ],
        ["left", "above"],
    )


@pytest.mark.parametrize(
    "text",
    ["", "a", "a red circle", "a large red dog", "a large red circle left a small blue square", "large red circle",
     "a large red circle and a small blue square", "a large red circle above", "a red large circle"],
)  # fmt: skip
def test_not_grammatical(text: str) -> None:
    found = verdict(text)
    assert found == Verdict(False) and not found.truthful and found.notes == ["not grammatical"]


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a large red circle left of a small blue square", ""),
        ("a large red circle beside a small blue square", ""),
        ("a small green star below a large red circle", ""),
        ("a large red circle right of a small blue square", "relation"),
        ("a large red circle above a small blue square", "relation"),
        ("a large blue circle left of a small blue square", "colour"),
        ("a small red circle left of a small blue square", "size"),
        ("a small green circle right of a large red square", "size colour relation"),
        ("a large red cross", "shape"),
        ("a large red cross right of a small green square", "shape colour"),  # no relation to what is not there
        ("a large red circle above a large red circle", "shape"),  # told twice
    ],
)
def test_faults(text: str, faults: str) -> None:
    found = verdict(text)
    assert found.grammatical and found.faults == set(faults.split()) and found.truthful == (not faults)
    assert not found.complete
    assert found.notes == ([f"wrong {fault}" for fault in FAULTS if fault in faults.split()] or ["truthful"])


def test_complete() -> None:
    assert verdict("a large red circle left of a small blue square and above a small green star").complete
    assert verdict("a large blue circle left of a small blue square and above a small green star").complete


def test_diagonal_relations_hold_both_ways() -> None:
    a, b = SCENE[0], SceneObject("cross", "red", "small", 0.65, 0.85, 0.15)  # right and below, 0.4 and 0.35
    assert holds("left", a, b) and holds("above", a, b) and not holds("right", a, b) and not holds("below", a, b)
    far = SceneObject("cross", "red", "small", 0.92, 0.55, 0.15)
    assert holds("left", a, far) and not holds("above", a, far)
    assert not holds("beside", a, far) and holds("beside", a, SCENE[1])
    assert holds("right", far, a) and holds("below", b, a)


def test_shares() -> None:
    verdicts = [Verdict(False), Verdict(True, frozenset({"colour"}), True), Verdict(True, frozenset(), True)]
    found = {score.name: score.value for score in truth_scores(verdicts)}
    assert found["grammatical"] == pytest.approx(200 / 3) and found["truthful"] == pytest.approx(100 / 3)
    assert found["truthful and complete"] == pytest.approx(100 / 3) and found["wrong colour"] == pytest.approx(100 / 3)
    assert found["wrong shape"] == 0
    some = {score.name: score.value for score in truth_scores(verdicts, [False, True, True])}
    assert some["truthful"] == pytest.approx(50) and some["grammatical"] == pytest.approx(100)
