"""Object names are counts in captions, and right, wrong and uniform attention scores accordingly."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from caption.data.images import fit_image
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation import grounding
from caption.evaluation.categories import NAMES, plural
from caption.evaluation.grounding import GroundingCounts, Instances, grounding_scores

GRID = FeatureGrid.even(4, 4, 16)


def instance_file(path: Path, objects: list[tuple[int, str, tuple[slice, slice]]], size: tuple[int, int]) -> Path:
    """Write an instance file of images of (height, width) with boxes of the named categories."""
    names = sorted({name for _, name, _ in objects})
    annotations = []
    for number, (image_id, name, (rows, columns)) in enumerate(objects, 1):
        mask = np.zeros(size, np.uint8, order="F")
        mask[rows, columns] = 1
        code = coco_mask.encode(mask)
        category = names.index(name) + 1
        annotation = {"id": number, "image_id": image_id, "category_id": category, "iscrowd": 0}
        annotations.append({**annotation, "segmentation": {**code, "counts": code["counts"].decode()}})
    images = [{"id": image, "height": size[0], "width": size[1]} for image in {image for image, _, _ in objects}]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def instances(tmp_path: Path) -> Instances:
    """Image 5, 8 x 8: a star in its upper left quarter, two squares on the right."""
    boxes = [
        (5, "star", (slice(0, 4), slice(0, 4))),
        (5, "square", (slice(0, 2), slice(6, 8))),
        (5, "square", (slice(4, 8), slice(4, 8))),
    ]
    fit = partial(fit_image, size=16, fit="squash")
    return Instances(instance_file(tmp_path / "instances.json", boxes, (8, 8)), fit)


def looking_at(*cells: int) -> np.ndarray:
    """Weights [T, 16], each word at one cell."""
    return np.eye(16)[list(cells)]


def test_attention_on_any_object_of_the_named_category_is_a_hit(instances: Instances) -> None:
    """Words that name nothing, or nothing in the image, do not count; any object of the category will do."""
    words = ["a", "star", "squares", "square", "square", "circle"]
    counts = instances.count(words, looking_at(5, 0, 3, 15, 12, 0), 5, GRID)
    assert (counts.words, counts.hits) == (4, 3)  # the square in the lower left is not there
    assert counts.area == pytest.approx((0.25 + 3 * 0.3125), abs=0.02)
    assert counts.centre_hits == 1  # the star, one of whose corners is the centre of the image
    assert instances.count(["a", "circle"], looking_at(0, 0), 5, GRID) == GroundingCounts()
    assert instances.count(["star"], looking_at(0), 6, GRID) == GroundingCounts()  # another image


def test_correctness_is_the_fraction_of_attention_inside(instances: Instances) -> None:
    inside = instances.count(["star"], looking_at(0), 5, GRID).inside
    outside = instances.count(["star"], looking_at(15), 5, GRID).inside
    even = instances.count(["star"], np.full((1, 16), 1 / 16), 5, GRID)
    assert inside > 0.9 and outside < 0.01
    assert even.inside == pytest.approx(even.area) == pytest.approx(0.25)  # uniform attention: chance
    half = instances.count(["star"], (looking_at(0) + looking_at(15)) / 2, 5, GRID).inside
    assert half == pytest.approx((inside + outside) / 2, rel=0.1)


def test_scores_are_fractions_of_all_words(instances: Instances) -> None:
    counts = [
        instances.count(["star", "star"], looking_at(0, 15), 5, GRID),
        instances.count(["star"], looking_at(0), 5, GRID),
        GroundingCounts(),
    ]
    scores = {score.name: score for score in grounding_scores(counts, ", references")}
    assert scores["pointing, references"].value == pytest.approx(200 / 3)
    assert scores["chance of both, references"].value == pytest.approx(25)
    assert scores["words that name an object, references"].value == 3
    assert np.isnan(scores["pointing, references"].per_image[2])


def test_objects_outside_the_crop_do_not_count(tmp_path: Path) -> None:
    """The model sees the middle of a wide image; a dog at its left end does not count."""
    boxes = [(1, "dog", (slice(0, 8), slice(0, 4))), (2, "dog", (slice(0, 8), slice(12, 16)))]
    path = instance_file(tmp_path / "wide.json", boxes, (8, 32))
    instances = Instances(path, partial(fit_image, size=16, fit="crop"))
    assert instances.count(["dog"], looking_at(0), 1, GRID) == GroundingCounts()
    seen = instances.count(["dog"], looking_at(4), 2, GRID)  # columns 12 to 16 of 32: the left quarter of the crop
    assert seen.words == seen.hits == 1 and seen.inside > 0.8


def test_polygons_and_crowds_of_coco_become_masks(tmp_path: Path) -> None:
    """A polygon, and a crowd as run lengths down the columns."""
    common = {"image_id": 1, "category_id": 1}
    annotations = [
        {**common, "id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        {**common, "id": 2, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [48, 16]}},  # the last two columns
    ]
    images, categories = [{"id": 1, "height": 8, "width": 8}], [{"id": 1, "name": "person"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    mask, _ = Instances(path, partial(fit_image, size=8, fit="squash")).find(1, 1, FeatureGrid.even(4, 4, 8))
    assert mask[:4, :4].all() and mask[:, 6:].all() and mask.sum() == 32


def test_the_longest_name_counts(tmp_path: Path) -> None:
    """A hot dog is no dog. Its attention is the mean of its words'."""
    boxes = [(1, name, (slice(0, 4), slice(0, 4))) for name in ("dog", "hot dog", "person", "wine glass", "bus")]
    instances = Instances(instance_file(tmp_path / "i.json", boxes, (8, 8)), partial(fit_image, size=16, fit="squash"))
    text = "two men eat hot dogs and a puppy drinks three glasses of wine near double decker buses"
    caption = text.split()
    names = {start: (" ".join(caption[start:stop]), category) for start, stop, category in instances.named(caption)}
    category = {entry["name"]: number for number, entry in instances.coco.cats.items()}
    assert names == {
        1: ("men", category["person"]),
        3: ("hot dogs", category["hot dog"]),
        7: ("puppy", category["dog"]),
        10: ("glasses of wine", category["wine glass"]),
        14: ("double decker", category["bus"]),
        16: ("buses", category["bus"]),
    }
    counts = instances.count(["hot", "dog"], looking_at(0, 15), 1, GRID)
    assert counts.words == 1 and 0.4 < counts.inside < 0.6


def test_all_categories_of_coco_have_names_of_their_own() -> None:
    """No word names two categories."""
    forms = [{form for one in (name, *others) for form in (one, plural(one))} for name, others in NAMES.items()]
    assert len(NAMES) == 80 and sum(map(len, forms)) == len(set().union(*forms))
    assert [plural(name) for name in ("dog", "bus", "baby", "knife", "child", "glass of wine", "hot dog", "skis")] == [
        "dogs", "buses", "babies", "knives", "children", "glasses of wine", "hot dogs", "skis",
    ]  # fmt: skip


def test_compounds_and_colours_are_not_names(tmp_path: Path) -> None:
    """Also: categories in capitals and with underscores are named."""
    names = ("Person", "bus", "orange", "Traffic_light", "skis", "train", "dining table", "tie")
    boxes = [(1, name, (slice(0, 4), slice(0, 4))) for name in names]
    instances = Instances(instance_file(tmp_path / "i.json", boxes, (8, 8)), lambda image: image)

    def named(text: str) -> list[str]:
        caption = text.split()
        return [" ".join(caption[start:stop]) for start, stop, _ in instances.named(caption)]

    assert named("a man in an orange shirt near traffic lights peels oranges") == ["man", "traffic lights", "oranges"]
    assert named("a couple of dogs at a bus stop by the train tracks") == []
    assert named("people play table tennis in tie dye near a bus and a jet ski") == ["people", "bus"]


def test_instances_of_other_images_are_refused(instances: Instances) -> None:
    instances.check_covers([5], ["anything.jpg"], "file, test")  # the file has no names
    with pytest.raises(UserError, match=r"has no image 6 \(x.jpg\) of file, test; give that split's instances"):
        instances.check_covers([5, 6], ["5.jpg", "x.jpg"], "file, test")
    instances.coco.imgs[5]["file_name"] = "val2014/five.jpg"
    instances.check_covers([5], ["images/five.jpg"], "file, test")
    with pytest.raises(UserError, match="its image 5 is five.jpg, in file, test six.jpg"):
        instances.check_covers([5], ["six.jpg"], "file, test")


@pytest.mark.parametrize("outline", [[], [[0, 0, 1, 1]], {"size": [8, 8]}, None])
def test_an_unusable_segmentation_is_refused_when_read(instances: Instances, tmp_path: Path, outline: object) -> None:
    content = json.loads(Path(instances.path).read_text())
    content["annotations"][1]["segmentation"] = outline
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotation 2 has neither polygons"):
        Instances(tmp_path / "bad.json", lambda image: image)


NATIVE = [
    ({"size": [1_000_000, 1_000_000], "counts": [0, 10**12]}, "has an RLE of"),
    ({"size": [-8, -8], "counts": "0"}, "has an RLE of"),
    ([[1e30, 0, 5, 5, 5, 0]], "has corners far outside its image of 8 x 8 pixels"),
    ([[math.nan, 0, 5, 5, 5, 0]], "has corners far outside"),
    ([[0, 8] * 50], "has a polygon of 50 corners, too many"),
    ([["x", 0, 5, 5, 5, 0]], "COCO instance file"),
]


@pytest.mark.parametrize(("outline", "problem"), NATIVE)
def test_outlines_that_would_kill_pycocotools_are_refused_when_read(
    instances: Instances, tmp_path: Path, outline: object, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding, "MAX_PERIMETER", 500)
    content = json.loads(Path(instances.path).read_text())
    content["annotations"][1]["segmentation"] = outline
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=problem):
        Instances(tmp_path / "bad.json", lambda image: image)


def test_an_rle_that_lies_about_its_length_gives_one_line(instances: Instances, tmp_path: Path) -> None:
    content = json.loads(Path(instances.path).read_text())
    annotation = content["annotations"][1]
    annotation["segmentation"] = {"size": [8, 8], "counts": [0, 1_000_000]}
    (tmp_path / "bad.json").write_text(json.dumps(content))
    read = Instances(tmp_path / "bad.json", lambda image: image)
    with pytest.raises(UserError, match=r"bad.json: is damaged.*; give a COCO instance file"):
        read.find(annotation["image_id"], annotation["category_id"], GRID)


@pytest.mark.parametrize(
    "broken",
    [
        {"images": [{"id": 5, "height": 10**6, "width": 10**6}]},
        {"images": [{"id": 5, "height": "8", "width": None}]},
        {"images": [{"id": 5}]},
        {"categories": [{"id": 1, "name": 3}]},
        {"categories": [{"id": 1}]},
        {"annotations": [3]},
    ],
)
def test_a_malformed_instance_file_gives_one_line(instances: Instances, tmp_path: Path, broken: dict) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({**json.loads(Path(instances.path).read_text()), **broken}))
    with pytest.raises(UserError, match="bad.json: ") as caught:
        Instances(tmp_path / "bad.json", lambda image: image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"annotations": [], "images": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(UserError, match="COCO instance file"):
        Instances(tmp_path / "no.json", lambda image: image)
