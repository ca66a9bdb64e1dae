"""BLEU against hand-made cases, results files against pycocotools, pointing against known masks."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from caption.errors import UserError
from caption.metrics.bleu import bleu
from caption.metrics.grounding import Pointing, pointing, read_instances
from caption.runlog import coco_results


def test_bleu_by_hand() -> None:
    """Six words against seven: precisions 6/6, 4/5, 2/4 and 1/3 of 1- to 4-grams."""
    reference, caption = ["the", "cat", "sat", "on", "the", "red", "mat"], ["the", "cat", "on", "the", "red", "mat"]
    scores = bleu([[reference]], [caption])
    precisions = [6 / 6, 4 / 5, 2 / 4, 1 / 3]
    penalty = math.exp(1 - 7 / 6)
    for n in (1, 2, 3, 4):
        plain = 100 * math.prod(precisions[:n]) ** (1 / n)
        assert scores[f"BLEU-{n} without BP"] == pytest.approx(plain)
        assert scores[f"BLEU-{n}"] == pytest.approx(plain * penalty)
    assert scores["length ratio"] == pytest.approx(6 / 7)


def test_bleu_uses_every_reference_and_is_a_corpus_score() -> None:
    references = [[["a", "b", "c", "d"], ["a", "b", "x", "y"]], [["e", "f", "g", "h"]]]
    assert bleu(references, [["a", "b", "c", "d"], ["e", "f", "g", "h"]])["BLEU-4"] == pytest.approx(100)
    half = bleu(references, [["a", "b", "x", "y"], ["e", "f", "g", "z"]])
    assert half["BLEU-4"] == pytest.approx(100 * (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25)  # counts pooled, not means


def test_bleu_of_nothing_is_zero() -> None:
    assert bleu([[["a", "b"]]], [[]])["BLEU-1"] == 0


def test_results_are_taken_by_pycocotools(tmp_path: Path) -> None:
    truth = COCO()
    truth.dataset = {"images": [{"id": 3}, {"id": 7}], "annotations": []}
    (tmp_path / "results.json").write_text(coco_results([3, 7], ["a dog", "a cät"]))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(str(tmp_path / "results.json"))
    assert [results.imgToAnns[i][0]["caption"] for i in (3, 7)] == ["a dog", "a cät"]


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Picture 5, 8 x 8: a star in its upper left quarter, a square in its lower right."""
    annotations = []
    for number, rows in enumerate((slice(0, 4), slice(4, 8)), 1):
        mask = np.zeros((8, 8), np.uint8, order="F")
        mask[rows, rows] = 1
        code = coco_mask.encode(mask)
        code["counts"] = code["counts"].decode()
        annotations.append({"id": number, "image_id": 5, "category_id": number, "segmentation": code, "iscrowd": 0})
    categories = [{"id": 1, "name": "star"}, {"id": 2, "name": "square"}]
    content = {
        "images": [{"id": 5, "width": 8, "height": 8}],
        "annotations": annotations,
        "categories": categories,
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_pointing(instances: Path) -> None:
    """Hits and misses where they are known; words that name nothing in the picture do not count."""
    maps = np.zeros((4, 16, 16), np.float32)
    maps[0, 2, 3] = 1  # a: names nothing
    maps[1, 2, 3] = 1  # star: upper left, a hit
    maps[2, 2, 13] = 1  # square: upper right, a miss
    maps[3, 14, 9] = 1  # square: lower right, a hit

    def fit(image: Image.Image) -> Image.Image:
        return image.resize((16, 16), Image.Resampling.NEAREST)

    coco = read_instances(instances)
    assert pointing(["a", "star", "square", "square"], maps, coco, 5, fit) == Pointing(2, 3)
    assert pointing(["a", "circle"], maps[:2], coco, 5, fit) == Pointing(0, 0)
    assert Pointing(2, 3).percent == pytest.approx(66.67, abs=0.01) and Pointing(0, 0).percent == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"annotations": [], "images": []}'])
def test_what_is_no_instance_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(UserError, match="not a COCO instance file"):
        read_instances(tmp_path / "no.json")
