"""When the model looks: means over the words of a kind and over those of one word, with what each image adds."""

import math

import numpy as np
import pytest

from caption.data.scenes import COLOURS, SHAPES, SceneObject, word_kinds
from caption.encoders.grid import FeatureGrid
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.gates import FUNCTION_WORDS, LISTED, MIN_COUNT, gate_scores
from caption.evaluation.metrics import score_captions
from caption.evaluation.table import score_table
from preprocess.shapes import sample_scene

KINDS = {"a": "function words", "red": "colours", "star": "shapes"}


def test_means_are_over_words_and_not_over_images() -> None:
    captions = [["a", "red", "star"], ["a", "a"], []]
    gates = [np.array([0.1, 0.9, 0.5]), np.array([0.3, 0.2]), np.array([])]
    scores = {score.name: score for score in gate_scores(captions, gates, KINDS)}
    values = {name: score.value for name, score in scores.items()}
    assert values == pytest.approx(
        {"all words, gate": 40, "colours, gate": 90, "shapes, gate": 50, "function words, gate": 20}
    )
    assert [*values] == ["all words, gate", "colours, gate", "shapes, gate", "function words, gate"]  # falling
    first, second, empty = scores["function words, gate"].per_image
    assert (first, second) == pytest.approx((10, 25)) and math.isnan(empty)


def test_frequent_words_are_listed_from_both_ends_each_once() -> None:
    """All words that occur often enough, where they are few; else those with the highest and the lowest means."""
    for count in (3, 2 * LISTED - 1, 2 * LISTED + 5):
        words = [f"w{i:02}" for i in range(count)]
        captions = [words] * MIN_COUNT + [["rare"] * (MIN_COUNT - 1)]
        gates = [np.linspace(0, 1, count)] * MIN_COUNT + [np.full(MIN_COUNT - 1, 0.5)]
        names = [score.name for score in gate_scores(captions, gates, {})][1:]
        expected = words[::-1] if count <= 2 * LISTED else words[: -LISTED - 1 : -1] + words[:LISTED][::-1]
        assert names == [f'"{word}", gate' for word in expected]


def test_every_word_of_a_shapes_caption_has_its_kind() -> None:
    """What is no colour, shape, size or relation is a function word."""
    kinds = word_kinds()
    assert {word for word, kind in kinds.items() if kind == "relations"} == {
        "left", "right", "above", "over", "below", "under", "beside"
    }  # fmt: skip
    assert {word for word, kind in kinds.items() if kind == "sizes"} == {"small", "little", "large", "big"}
    assert all(kinds[word] == "colours" for word in COLOURS) and all(kinds[word] == "shapes" for word in SHAPES)
    written = {word for n in range(200) for text in sample_scene(3, "test", n)[2] for word in text.split()}
    assert written - kinds.keys() == {"a", "and", "is", "of", "the", "there", "to"} <= FUNCTION_WORDS


class Scenes:
    """Instances of drawn scenes."""

    has_scenes = True

    def scene(self, image: int) -> list[SceneObject]:
        return []


@pytest.mark.parametrize(
    ("kind", "scenes", "expected"),
    [
        ("ptb", False, ["all words", "content words", "function words"]),
        ("ptb", True, ["all words", "relations", "shapes", "function words"]),
        ("unicode", False, ["all words"]),
    ],
)
def test_kinds_are_those_of_the_language_and_of_the_scenes(kind: str, scenes: bool, expected: list[str]) -> None:
    """The closed list is English; of scenes, the words of a relation are no function words."""
    captions = CaptionSet(
        ["the star above the star"], [["a star"]], word_kind=kind, gates=[np.array([0, 0.6, 1, 0, 0.6])]
    )
    captions.instances = Scenes() if scenes else None
    found = gate_scores(captions.words, captions.gates, captions.word_kinds)
    assert [score.name for score in found] == [f"{label}, gate" for label in expected]


def test_gates_are_a_block_of_the_table_of_scores() -> None:
    grid, gates = FeatureGrid.even(1, 1, 16), [np.array([0.25, 0.75])]
    captions = CaptionSet(["a dog"], [["a dog"]], gates=gates, grid=grid)
    lines = score_table(score_captions(captions, ["gates"]).values, {}).splitlines()
    assert [line.split() for line in lines] == [
        ["gate", "95", "%", "interval"], ["all", "words", "50.00"],
        ["content", "words", "75.00"], ["function", "words", "25.00"],
    ]  # fmt: skip
