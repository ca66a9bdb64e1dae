"""Names are found in captions, masks where they are known, and maps that are right, wrong or ignorant score so."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from caption.data.images import fit_image
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.categories import NAMES, plural
from caption.evaluation.grounding import GroundingCounts, Instances, grounding_scores

CELLS = FeatureGrid.even(4, 4, 16)


def instance_file(path: Path, objects: list[tuple[int, str, tuple[slice, slice]]], size: tuple[int, int]) -> Path:
    """Pictures of (height, width), with boxes of the named categories."""
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
def objects(tmp_path: Path) -> Instances:
    """Picture 5, 8 x 8: a star in its upper left quarter, two squares on the right."""
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


def test_hits_and_misses(objects: Instances) -> None:
    """Words that name nothing, or nothing in the picture, do not count; any object of the category will do."""
    words = ["a", "star", "squares", "square", "square", "circle"]
    found = objects.look(words, looking_at(5, 0, 3, 15, 12, 0), 5, CELLS)
    assert (found.words, found.hits) == (4, 3)  # the square in the lower left is not there
    assert found.area == pytest.approx((0.25 + 3 * 0.3125), abs=0.02)
    assert found.centre_hits == 1  # the star, one of whose corners is the middle of the picture
    assert objects.look(["a", "circle"], looking_at(0, 0), 5, CELLS) == GroundingCounts()
    assert objects.look(["star"], looking_at(0), 6, CELLS) == GroundingCounts()  # another picture


def test_correctness_is_the_share_inside(objects: Instances) -> None:
    inside = objects.look(["star"], looking_at(0), 5, CELLS).inside
    outside = objects.look(["star"], looking_at(15), 5, CELLS).inside
    even = objects.look(["star"], np.full((1, 16), 1 / 16), 5, CELLS)
    assert inside > 0.9 and outside < 0.01
    assert even.inside == pytest.approx(even.area) == pytest.approx(0.25)  # attention that knows nothing: chance
    half = objects.look(["star"], (looking_at(0) + looking_at(15)) / 2, 5, CELLS).inside
    assert half == pytest.approx((inside + outside) / 2, rel=0.1)


def test_scores_are_shares_of_all_words(objects: Instances) -> None:
    found = [
        objects.look(["star", "star"], looking_at(0, 15), 5, CELLS),
        objects.look(["star"], looking_at(0), 5, CELLS),
        GroundingCounts(),
    ]
    scores = {score.name: score for score in grounding_scores(found, ", references")}
    assert scores["pointing, references"].value == pytest.approx(200 / 3)
    assert scores["chance of both, references"].value == pytest.approx(25)
    assert scores["words that name an object, references"].value == 3
    assert np.isnan(scores["pointing, references"].per_image[2])


def test_what_the_crop_leaves_out_does_not_count(tmp_path: Path) -> None:
    """A wide picture: the model sees its middle; a dog at its left end is not there for it."""
    boxes = [(1, "dog", (slice(0, 8), slice(0, 4))), (2, "dog", (slice(0, 8), slice(12, 16)))]
    path = instance_file(tmp_path / "wide.json", boxes, (8, 32))
    objects = Instances(path, partial(fit_image, size=16, fit="crop"))
    assert objects.look(["dog"], looking_at(0), 1, CELLS) == GroundingCounts()
    seen = objects.look(["dog"], looking_at(4), 2, CELLS)  # columns 12 to 16 of 32: the left quarter of the middle
    assert seen.words == seen.hits == 1 and seen.inside > 0.8


def test_polygons_and_crowds_as_coco_has_them(tmp_path: Path) -> None:
    """An outline, and a crowd in runs of pixels down the columns."""
    common = {"image_id": 1, "category_id": 1}
    annotations = [
        {**common, "id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        {**common, "id": 2, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [48, 16]}},  # the last two columns
    ]
    images, categories = [{"id": 1, "height": 8, "width": 8}], [{"id": 1, "name": "person"}]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    mask = Instances(path, partial(fit_image, size=8, fit="squash")).mask(1, 1)
    assert mask[:4, :4].all() and mask[:, 6:].all() and mask.sum() == 32


def test_names_of_several_words(tmp_path: Path) -> None:
    """The longest name counts: a hot dog is no dog. Its attention is the mean of its words'."""
    boxes = [(1, name, (slice(0, 4), slice(0, 4))) for name in ("dog", "hot dog", "person", "wine glass", "bus")]
    objects = Instances(instance_file(tmp_path / "i.json", boxes, (8, 8)), partial(fit_image, size=16, fit="squash"))
    text = "two men eat hot dogs and a puppy drinks three glasses of wine near double decker buses"
    caption = text.split()
    names = {start: (" ".join(caption[start:stop]), category) for start, stop, category in objects.named(caption)}
    category = {entry["name"]: number for number, entry in objects.coco.cats.items()}
    assert names == {
        1: ("men", category["person"]),
        3: ("hot dogs", category["hot dog"]),
        7: ("puppy", category["dog"]),
        10: ("glasses of wine", category["wine glass"]),
        14: ("double decker", category["bus"]),
        16: ("buses", category["bus"]),
    }
    found = objects.look(["hot", "dog"], looking_at(0, 15), 1, CELLS)
    assert found.words == 1 and 0.4 < found.inside < 0.6


def test_the_table_of_names() -> None:
    """All of COCO's categories; no word stands for two."""
    forms = [{form for one in (name, *others) for form in (one, plural(one))} for name, others in NAMES.items()]
    assert len(NAMES) == 80 and sum(map(len, forms)) == len(set().union(*forms))
    assert [plural(name) for name in ("dog", "bus", "baby", "knife", "child", "glass of wine", "hot dog", "skis")] == [
        "dogs", "buses", "babies", "knives", "children", "glasses of wine", "hot dogs", "skis",
    ]  # fmt: skip


def test_what_is_named_otherwise(tmp_path: Path) -> None:
    """Compounds and colours that look like names; categories in capitals and with underscores."""
    names = ("Person", "bus", "orange", "Traffic_light", "skis", "train", "dining table", "tie")
    boxes = [(1, name, (slice(0, 4), slice(0, 4))) for name in names]
    objects = Instances(instance_file(tmp_path / "i.json", boxes, (8, 8)), lambda image: image)

    def named(text: str) -> list[str]:
        caption = text.split()
        return [" ".join(caption[start:stop]) for start, stop, _ in objects.named(caption)]

    assert named("a man in an orange shirt near traffic lights peels oranges") == ["man", "traffic lights", "oranges"]
    assert named("a couple of dogs at a bus stop by the train tracks") == []
    assert named("people play table tennis in tie dye near a bus and a jet ski") == ["people", "bus"]


def test_instances_of_other_pictures_are_refused(objects: Instances) -> None:
    objects.check_covers([5], ["anything.jpg"], "file, test")  # it tells no names
    with pytest.raises(UserError, match=r"has no picture 6 \(x.jpg\) of file, test; give that split's instances"):
        objects.check_covers([5, 6], ["5.jpg", "x.jpg"], "file, test")
    objects.coco.imgs[5]["file_name"] = "val2014/five.jpg"
    objects.check_covers([5], ["images/five.jpg"], "file, test")
    with pytest.raises(UserError, match="its picture 5 is five.jpg, in file, test six.jpg"):
        objects.check_covers([5], ["six.jpg"], "file, test")


@pytest.mark.parametrize("outline", [[], [[0, 0, 1, 1]], {"size": [8, 8]}, None])
def test_unusable_outlines_are_found_at_once(objects: Instances, tmp_path: Path, outline: object) -> None:
    content = json.loads(Path(objects.path).read_text())
    content["annotations"][1]["segmentation"] = outline
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotation 2 has neither polygons"):
        Instances(tmp_path / "bad.json", lambda image: image)


@pytest.mark.parametrize("text", ["{", "[]", '{"annotations": [], "images": []}'])
def test_what_is_no_instance_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(UserError, match="not a COCO instance file"):
        Instances(tmp_path / "no.json", lambda image: image)
