"""The grammar accepts all generated captions; every kind of error is found, and nothing else."""

import pytest

from caption.data.scenes import SceneObject, relation_holds
from caption.evaluation.scene_truth import (
    ERRORS,
    ParsedCaption,
    Verdict,
    find_slots,
    judge,
    judge_slots,
    parse,
    reword,
    truth_scores,
)
from preprocess.shapes import sample_scene

SCENE = [
    SceneObject("circle", "red", "large", 0.25, 0.5),
    SceneObject("square", "blue", "small", 0.75, 0.52),
    SceneObject("star", "green", "small", 0.3, 0.9),
]


def verdict(text: str) -> Verdict:
    return judge(text.split(), SCENE)


def test_every_caption_of_the_set_is_true_and_complete() -> None:
    for number in range(150):
        scene, _, captions = sample_scene(3, "test", number)
        for caption in captions:
            result = judge(caption.split(), scene)
            assert result.truthful and result.complete, caption


def test_parse_returns_objects_and_relations() -> None:
    text = "there is a large red circle to the left of a little blue square and over a small green star"
    assert parse(text.split()) == ParsedCaption(
        [
            {"shape": "circle", "colour": "red", "size": "large"},
            {"shape": "square", "colour": "blue", "size": "small"},
            {"shape": "star", "colour": "green", "size": "small"},
        ],
        ["left", "above"],
    )


def test_slots_are_where_a_caption_says_something() -> None:
    words = "there is a large red circle to the left of a little blue square and over a small green star".split()
    slots = find_slots(words)
    assert slots is not None
    assert all(tuple(words[slot.start : slot.start + len(slot.words)]) == slot.words for slot in slots)
    assert [(slot.kind, slot.meaning, slot.item) for slot in slots if slot.kind in ("shape", "relation")] == [
        ("shape", "circle", 0), ("relation", "left", 1), ("shape", "square", 1), ("relation", "above", 2),
        ("shape", "star", 2),
    ]  # fmt: skip
    assert slots[4].wordings == [("small",), ("little",)] and slots[1].wordings == [("red",)]


def test_what_is_false_is_told_from_what_is_true_and_from_what_cannot_be_judged() -> None:
    """The colour of a shape that is not there cannot be, nor its relation."""
    slots = find_slots("a small red circle right of a small red square and above a large green cross".split())
    assert slots is not None
    judged = [(slot.kind, true) for slot, true in judge_slots(slots, SCENE)]
    assert judged == [
        ("size", False), ("colour", True), ("shape", True), ("relation", False), ("size", True), ("colour", False),
        ("shape", True), ("shape", False),
    ]  # fmt: skip


def test_rewordings_are_all_captions_of_one_meaning() -> None:
    for number in range(10):
        captions = sample_scene(3, "test", number)[2]
        words = captions[0].split()
        slots = find_slots(words)
        assert slots is not None
        found = reword(words, slots)
        assert words in found and len({" ".join(each) for each in found}) == len(found)
        assert all(parse(each) == parse(words) for each in found[:8])
        relations = sum(slot.kind == "relation" and slot.meaning != "beside" for slot in slots)
        assert len(found) == 2 ** (1 + sum(slot.kind == "size" for slot in slots) + relations)
        assert all((each.split() in found) == (parse(each.split()) == parse(words)) for each in captions)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a red circle", "a large red dog", "a large red circle left a small blue square", "large red circle",
     "a large red circle and a small blue square", "a large red circle above", "a red large circle"],
)  # fmt: skip
def test_ungrammatical_captions_are_neither_true_nor_complete(text: str) -> None:
    result = verdict(text)
    assert result == Verdict(False) and not result.truthful and result.notes == ["not grammatical"]


@pytest.mark.parametrize(
    ("text", "errors"),
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
        ("a large red circle above a large red circle", "shape"),  # mentioned twice
    ],
)
def test_every_kind_of_error_is_found_and_nothing_else(text: str, errors: str) -> None:
    result = verdict(text)
    assert result.grammatical and result.errors == set(errors.split()) and result.truthful == (not errors)
    assert not result.complete
    assert result.notes == ([f"wrong {error}" for error in ERRORS if error in errors.split()] or ["truthful"])


def test_a_caption_with_all_objects_is_complete_even_if_wrong() -> None:
    assert verdict("a large red circle left of a small blue square and above a small green star").complete
    assert verdict("a large blue circle left of a small blue square and above a small green star").complete


def test_diagonal_relations_hold_both_ways() -> None:
    a, b = SCENE[0], SceneObject("cross", "red", "small", 0.65, 0.85)  # right and below, 0.4 and 0.35
    assert relation_holds("left", a, b) and relation_holds("above", a, b)
    assert not relation_holds("right", a, b) and not relation_holds("below", a, b)
    far = SceneObject("cross", "red", "small", 0.92, 0.55)
    assert relation_holds("left", a, far) and not relation_holds("above", a, far)
    assert not relation_holds("beside", a, far) and relation_holds("beside", a, SCENE[1])
    assert relation_holds("right", far, a) and relation_holds("below", b, a)


def test_scores_are_percentages_of_the_counted_captions() -> None:
    verdicts = [Verdict(False), Verdict(True, frozenset({"colour"}), True), Verdict(True, frozenset(), True)]
    scores = {score.name: score.value for score in truth_scores(verdicts)}
    assert scores["grammatical"] == pytest.approx(200 / 3) and scores["truthful"] == pytest.approx(100 / 3)
    assert scores["truthful and complete"] == pytest.approx(100 / 3) and scores["wrong colour"] == pytest.approx(
        100 / 3
    )
    assert scores["wrong shape"] == 0
    counted = {score.name: score.value for score in truth_scores(verdicts, [False, True, True])}
    assert counted["truthful"] == pytest.approx(50) and counted["grammatical"] == pytest.approx(100)
