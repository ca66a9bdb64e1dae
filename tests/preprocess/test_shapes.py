"""The shapes data set: its captions are true, its masks match the colours, and unseen pairs are only tested."""

import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from caption.data.dataset import CaptionDataset
from caption.data.scenes import COLOURS, SHAPES, SceneObject
from preprocess import synthetic
from preprocess.shapes import UNSEEN_PAIRS, sample_objects, sample_scene, sample_seen_objects

NAME = r"a (small|little|large|big) (\w+) (\w+)"
WHERE = r"(left of|to the left of|right of|to the right of|above|over|below|under|beside)"
SENTENCE = re.compile(rf"(?:there is )?{NAME}(?: {WHERE} {NAME}(?: and {WHERE} {NAME})?)?$")


def holds(where: str, a: SceneObject, b: SceneObject) -> bool:
    dx, dy = b.x - a.x, b.y - a.y
    if where == "beside":
        return abs(dx) > abs(dy)
    if "left" in where or "right" in where:
        return abs(dx) > abs(dy) and (dx > 0) == ("left" in where)
    return abs(dy) > abs(dx) and (dy > 0) == (where in ("above", "over"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_caption_is_true(split: str) -> None:
    for number in range(150):
        objects, _, captions = sample_scene(7, split, number)
        by_shape = {item.shape: item for item in objects}
        assert len(by_shape) == len(objects) and len(captions) == (3 if split == "train" else 5)
        for caption in captions:
            match = SENTENCE.match(caption)
            assert match, caption
            parts = match.groups()
            names = [parts[i : i + 3] for i in (0, 4, 8) if parts[i]]
            mentioned = [by_shape[shape] for _, _, shape in names]
            assert len(mentioned) == len(objects)
            for (size, colour, _), item in zip(names, mentioned, strict=True):
                assert colour == item.colour and (size in ("large", "big")) == (item.size == "large")
            for where, other in zip((parts[3], parts[7]), mentioned[1:], strict=False):
                assert holds(where, mentioned[0], other), caption


@pytest.mark.parametrize(
    ("split", "digest"), [("train", "960341567b584335"), ("val", "bf653f10c6fee5ad"), ("test", "6353aca816f93a40")]
)
def test_a_seed_gives_the_same_scenes_in_every_version(split: str, digest: str) -> None:
    scenes = [sample_scene(1, split, number) for number in range(100)]
    plain = [([tuple(item) for item in objects], unseen, captions) for objects, unseen, captions in scenes]
    assert hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("count", [1, 2, 3])
def test_scenes_are_distributed_as_in_the_test_split(count: int) -> None:
    """The quick sampler and that of the test split agree in the mean of everything that describes a scene."""
    scenes = [
        np.array(
            [
                [
                    (item.x, item.y, item.x**2, item.y**2, item.radius, *(item.shape == s for s in SHAPES))
                    + tuple(item.colour == colour for colour in COLOURS)
                    for item in sample(random.Random(f"{count} {number}"))
                ]
                for number in range(1000)
            ],
            float,
        ).reshape(1000, -1)
        for sample in (lambda rng: sample_objects(rng, count, False), lambda rng: sample_seen_objects(rng, count))
    ]
    quick, slow = scenes
    error = np.sqrt((quick.var(0) + slow.var(0)) / 1000)
    assert (abs(quick.mean(0) - slow.mean(0)) <= 4 * error + 1e-9).all()


def test_unseen_pairs_occur_in_the_test_split_only() -> None:
    for split in ("train", "val", "test"):
        for number in range(200):
            objects, unseen, _ = sample_scene(1, split, number)
            assert any((t.shape, t.colour) in UNSEEN_PAIRS for t in objects) == unseen
            assert unseen == (split == "test" and number % 5 == 0)


def test_wordings_vary_and_cover_all_words() -> None:
    captions = [sample_scene(1, "train", number)[2] for number in range(100)]
    assert np.mean([len(set(each)) for each in captions]) > 2.4
    words = {word for each in captions for caption in each for word in caption.split()}
    assert words >= {*SHAPES, *COLOURS, "little", "big", "beside", "over", "under", "there"}


def test_captions_that_are_learnt_name_the_objects_in_one_order() -> None:
    """The large one before the small one, then the upper left; references may begin with another object."""
    for split, one_order in (("train", True), ("val", True), ("test", False)):
        in_order = []
        for number in range(100):
            objects, _, captions = sample_scene(1, split, number)
            for caption in captions:
                in_order.append([word for word in caption.split() if word in SHAPES] == [o.shape for o in objects])
        assert all(in_order) == one_order and np.mean(in_order) > 0.7


def test_masks_lie_on_their_objects(shapes: Path) -> None:
    """The image has the object's colour inside each mask, and the background's outside all masks."""
    path = shapes.with_name("shapes_instances.json")
    coco, data = COCO(str(path)), CaptionDataset(shapes, "test")
    for index, image_id in enumerate(data.image_ids):
        image = data.read_images([index])[0].numpy().astype(int)
        everything = np.zeros((32, 32), bool)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation) > 0
            everything |= mask
            assert abs(np.median(image[:, mask], 1) - COLOURS[annotation["colour"]]).max() <= 14
            assert annotation["area"] == mask.sum() > 20
            assert coco.cats[annotation["category_id"]]["name"] in " ".join(data.references()[index])
        assert image[:, ~everything].mean() > 180
    entries = json.loads(path.read_text())["images"]
    assert [e["unseen"] for e in entries if e["split"] == "test"] == [True, False, False, False, False] * 2


def test_an_image_does_not_depend_on_the_counts() -> None:
    assert sample_scene(3, "test", 4) == sample_scene(3, "test", 4) != sample_scene(4, "test", 4)
    assert len({synthetic.image_id(split, n) for split in ("train", "val", "test") for n in range(5)}) == 15
