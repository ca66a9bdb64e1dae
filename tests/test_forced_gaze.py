"""A forced gaze names the object that it falls on; the study counts what captions say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import forced_gaze
from benchmarks.forced_gaze import Case, Outcome, agreement, coverage, gaze, judge, move_gaze, noun_phrases
from caption import checkpoint
from caption.captioner import Captioner
from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset
from caption.data.scenes import SceneObject
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.grounding import read_instances
from caption.files import PRETRAINED
from caption.search import Hypothesis
from preprocess.__main__ import main as preprocess


def test_noun_phrases_are_read_from_ungrammatical_captions_too() -> None:
    words = "there is a little red circle above a large blue left of a star"
    assert [tuple(phrase) for phrase in noun_phrases(words.split())] == [
        (2, "circle", "red", "small"),
        (12, "star", "blue", "large"),
    ]
    assert noun_phrases(["a", "red"]) == []


def test_the_weights_of_an_object_lie_on_its_regions() -> None:
    grid = FeatureGrid.even(2, 3, 6)
    mask = np.zeros((6, 6), bool)
    mask[0:3, 2:4] = True  # two rows of the first row of regions' two, and one of the second's
    covered = coverage(mask, grid).reshape(2, 3)
    assert covered[0].tolist() == [0, 1, 0] and covered[1, 1] > 0 and covered[:, [0, 2]].sum() == 0
    assert gaze(covered.ravel(), "one region").tolist() == [0, 1, 0, 0, 0, 0]
    for kind in forced_gaze.WEIGHTS:
        assert gaze(covered.ravel(), kind).sum() == pytest.approx(1)
    weights = gaze(np.array([0.9, 0.5, 0.4, 0]), "even")
    assert weights == pytest.approx([0.5, 0.5, 0, 0])
    assert gaze(np.array([0.9, 0.3]), "mask") == pytest.approx([0.75, 0.25])


def test_a_phrase_names_an_object_by_all_that_it_says() -> None:
    star = SceneObject("star", "red", "small", 0.5, 0.5)
    free = noun_phrases("a small blue circle".split())
    for caption, named, unsized, as_free in (
        ("a small red star", True, True, False),
        ("a red star left of a small blue circle", True, True, False),
        ("a big red star", False, True, False),
        ("a small blue star", False, False, False),
        ("a small star", False, False, False),
        ("a small blue circle", False, False, True),
        ("a small", False, False, False),
    ):
        case = Case("another", "even", 0, 0, 0, np.ones(1), star)
        outcome = judge(case, Hypothesis([5], 0.0, True, torch.zeros(1, 1)), caption.split(), free)
        assert (outcome.named, outcome.unsized, outcome.as_free) == (named, unsized, as_free), caption


@pytest.fixture(scope="module")
def gazes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Captioner, CaptionDataset, list[Outcome]]:
    """The model that comes with the code, 24 new images, and the outcomes on them."""
    path = tmp_path_factory.mktemp("gazes") / "shapes.h5"
    preprocess(["shapes", "--output", str(path), "--count", "1", "1", "24", "--min-count", "1", "--workers", "0"])
    data = CaptionDataset(path, "test")
    instances = read_instances(str(path.with_name("shapes_instances.json")), data)
    assert instances is not None
    captioner = Captioner.load(PRETRAINED / "shapes")
    return captioner, data, move_gaze(captioner, data, instances, SearchConfig(beam_size=1))


def test_a_forced_gaze_names_the_other_object(gazes: tuple[Captioner, CaptionDataset, list[Outcome]]) -> None:
    """Nine of ten times at least, whatever the free caption begins with."""
    outcomes = gazes[2]
    means = {
        name: np.mean([[o.named, o.as_free] for o in outcomes if o.case.name == name], 0) for name in forced_gaze.NAMES
    }
    assert means["another"][0] > 0.9 and means["another"][1] < 0.05
    assert means["the first"][1] > 0.9 and means["the third"][0] > 0.9 and means["no object"][0] < 0.5


def test_the_command_runs_on_any_model(
    shapes: Path, captioner: Captioner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioner.decoder.output.bias.data[captioner.vocabulary.word_to_index["circle"]] += 3  # a shape, to begin with
    checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
    arguments = ["--checkpoint", str(tmp_path / "best.pt"), "--data", str(shapes)]
    with pytest.raises(UserError, match="lacks the scenes of drawn shapes"):
        forced_gaze.main([*arguments, "--instances", ""])
    forced_gaze.main([*arguments, "--instances", str(shapes.with_name("shapes_instances.json")), "--split", "train"])
    lines = capsys.readouterr().out.splitlines()
    assert "of 40 images have two objects or three" in lines[1]
    assert [line.split("  ")[0] for line in lines[3:7]] == ["another", "another", "another", "the first"]


def test_the_page_writes_the_words_of_the_study(
    gazes: tuple[Captioner, CaptionDataset, list[Outcome]], browser: Any
) -> None:
    captioner, data, outcomes = gazes
    words = agreement(browser, captioner, data, outcomes, 3).split()
    assert words[6] == words[8] and int(words[6]) >= 3 * 7 and words[-2:] == ["3", "images"]
