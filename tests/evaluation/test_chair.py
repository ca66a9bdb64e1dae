"""CHAIR counts the objects that captions name and that are neither annotated nor named by a reference."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import evaluate
from caption.config import SearchConfig
from caption.data.dataset import CaptionDataset
from caption.data.images import fit_image
from caption.evaluation.bootstrap import Score
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.categories import NAMES
from caption.evaluation.chair import chair
from caption.evaluation.grounding import Instances
from caption.evaluation.metrics import score_captions

OBJECTS = {1: ["person", "bicycle"], 2: ["dog"], 3: []}
REFERENCES = [["A man rides past a parked car."], ["a puppy", "Puppy on a couch"], ["an empty field"]]
CAPTIONS = [
    "a woman with a bike near a car and a dog",  # 4 objects: the reference has the car, but nothing the dog
    "a dog and a dog with a cat on a sofa",  # 4 objects: the reference has the couch, but nothing the cat
    "a green field",
]


@pytest.fixture
def instances(tmp_path: Path) -> Instances:
    """OBJECTS, all at the left end of wide images, of which the model sees the middle."""
    numbers = {name: number for number, name in enumerate(NAMES, 1)}
    content = {
        "images": [{"id": image, "height": 8, "width": 32} for image in OBJECTS],
        "annotations": [
            {"image_id": image, "category_id": numbers[name], "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
            for image, names in OBJECTS.items()
            for name in names
        ],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return Instances(tmp_path / "instances.json", partial(fit_image, size=8, fit="crop"))


def scores(
    instances: Instances, captions: list[str], references: list[list[str]] = REFERENCES, order: tuple = (0, 1, 2)
) -> dict[str, Score]:
    columns = [[column[i] for i in order] for column in (captions, references, list(OBJECTS))]
    return {score.name: score for score in chair(CaptionSet(*columns, instances=instances).object_mentions)}


def test_chair_is_as_counted_by_hand(instances: Instances) -> None:
    found = scores(instances, CAPTIONS)
    assert found["CHAIRi"].value == pytest.approx(100 * 2 / 8)
    assert found["CHAIRs"].value == pytest.approx(100 * 2 / 3)
    assert np.array_equal(found["CHAIRi"].per_image, [25, 25, np.nan], equal_nan=True)
    assert found["CHAIRs"].per_image.tolist() == [100, 100, 0]


def test_chair_does_not_depend_on_the_order_of_captions(instances: Instances) -> None:
    one, two = scores(instances, CAPTIONS), scores(instances, CAPTIONS, order=(2, 0, 1))
    assert [one[name].value for name in one] == pytest.approx([two[name].value for name in one])


def test_naming_an_object_again_changes_chair_of_objects_alone(instances: Instances) -> None:
    base = scores(instances, CAPTIONS)
    for again, expected in (("a dog", 3 / 9), ("a car", 2 / 9)):  # the first is hallucinated
        found = scores(instances, [f"{CAPTIONS[0]} and {again}", *CAPTIONS[1:]])
        assert found["CHAIRi"].value == pytest.approx(100 * expected)
        assert found["CHAIRs"].value == base["CHAIRs"].value


def test_a_caption_equal_to_a_reference_never_hallucinates(instances: Instances) -> None:
    """Whatever it names; of the same captions all objects are hallucinated where nothing is annotated or written."""
    chance = random.Random(1)
    names = [name for category, others in NAMES.items() for name in (category, *others)]
    for _ in range(50):
        captions = [" ".join(chance.choices(names, k=6)) for _ in OBJECTS]
        found = scores(instances, captions, [["a field", text] for text in captions])
        assert found["CHAIRi"].value == found["CHAIRs"].value == 0
        assert scores(instances, captions, [[], [], []])["CHAIRi"].per_image[2] == 100


@pytest.mark.parametrize(
    ("caption", "categories"),
    [
        ("a hot dog beside a pit bull and a puppy dog", ["hot dog", "dog", "dog"]),
        ("a toilet seat near toilet paper", ["toilet"]),
        ("two wine glasses on a table runner", ["wine glass"]),
        ("a teddy bear and a panda bear", ["teddy bear", "bear"]),
        ("a passenger train and passenger jets", ["train", "airplane"]),
        ("a trolley car behind a pickup truck and a taxi cab", ["train", "truck", "car"]),
        ("a pitcher of water by a dvd player", []),
        ("a snow man at a zebra crossing", []),
        ("a cup cake on a bed of lettuce", ["cake"]),
        ("a tv remote on a sofa bed", ["remote", "couch"]),
        ("a ball player at a ball game", ["person"]),
        ("a flat screen tv over a step stool", ["tv"]),
        ("a man at a farmer 's market", ["person"]),
    ],
)
def test_a_double_word_is_one_object_or_none(instances: Instances, caption: str, categories: list[str]) -> None:
    names = {number: category["name"] for number, category in instances.coco.cats.items()}
    assert [names[category] for _, _, category in instances.named(caption.split())] == categories


def test_chair_is_scored_only_with_instances(instances: Instances) -> None:
    captions = CaptionSet(CAPTIONS, REFERENCES, list(OBJECTS))
    assert not any(name.startswith("CHAIR") for name in score_captions(captions).values)
    captions = CaptionSet(CAPTIONS, REFERENCES, list(OBJECTS), instances=instances)
    assert score_captions(captions).values["CHAIRi"] == pytest.approx(25)


def test_a_comparison_of_two_runs_has_chair(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On shapes: of references, and of captions that name a shape that the image does not have."""
    split = CaptionDataset(shapes, "test")
    instances = Instances(shapes.with_name("shapes_instances.json"), lambda image: image)
    every = [category["name"] for category in instances.coco.cats.values()]
    texts: dict[str, list[str]] = {"true": [], "false": []}
    for image_id, references in zip(split.image_ids, split.references(), strict=True):
        seen = {item.shape for item in instances.scene(image_id)}
        texts["true"].append(references[0])
        texts["false"].append(f"a {next(shape for shape in every if shape not in seen)}")
    for name, captions in texts.items():
        images = [{"image_id": n, "caption": text} for n, text in zip(split.image_ids, captions, strict=True)]
        content = {
            "data": str(shapes),
            "search": vars(SearchConfig()),
            "precision": "fp32",
            "seed": 1,
            "images": images,
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores_test.json").write_text(json.dumps(content))
    runs = [str(tmp_path / name) for name in texts]
    evaluate.main(["--compare", *runs, "--instances", str(instances.path), "--no-java"])
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    for name in ("CHAIRi", "CHAIRs"):
        assert lines[name][1:4] == ["0.00", "100.00", "+100.00"] and lines[name][-1] == "real"
