"""The strings data set and its disjoint splits, the encoders with shared weights, and the string scores."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from nltk import edit_distance
from pycocotools.coco import COCO
from torch import nn
from torch.nn.functional import conv2d

from caption.config import EncoderConfig
from caption.data.dataset import CaptionDataset
from caption.data.hdf5 import read_manifest, read_vocabulary
from caption.data.vocabulary import SPECIALS
from caption.encoders.cnn import NETWORKS, SharedBlock
from caption.errors import UserError
from caption.evaluation.string_accuracy import is_string_set, string_accuracy
from preprocess import strings as module
from preprocess.__main__ import main as preprocess
from preprocess.strings import CHARACTERS, FONTS, Strings, boxes, read_font, sample_layout, sample_string, split_of

COUNTS = (60, 8, 12)


def make(path: Path, *more: str) -> Path:
    preprocess(["strings", "--output", str(path), "--count", *map(str, COUNTS), *more])
    return path


@pytest.fixture(scope="module")
def strings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("strings") / "strings.h5", "--workers", "0")


def test_the_same_seed_gives_the_same_bytes(strings: Path, tmp_path: Path) -> None:
    """The number of workers does not matter; another seed gives other strings."""
    again = make(tmp_path / "again.h5", "--workers", "2")
    assert again.read_bytes() == strings.read_bytes()
    instances = "again_instances.json", "strings_instances.json"
    assert (tmp_path / instances[0]).read_bytes() == strings.with_name(instances[1]).read_bytes()
    other = CaptionDataset(make(tmp_path / "other.h5", "--seed", "2"), "test")
    assert other.references() != CaptionDataset(strings, "test").references()


def test_no_string_is_in_two_splits() -> None:
    texts = {split: {sample_string(3, split, n) for n in range(400)} for split in ("train", "val", "test")}
    assert not texts["train"] & texts["val"] and not (texts["train"] | texts["val"]) & texts["test"]
    assert {split_of(text) for text in texts["test"]} == {"test"}
    counts = Counter(split_of(sample_string(3, "train", 0) + str(n)) for n in range(3000))
    assert counts["train"] / 3000 == pytest.approx(0.8, abs=0.03) and counts["val"] > 200 < counts["test"]


def test_words_numbers_and_random_characters_occur() -> None:
    texts = [sample_string(1, "train", number) for number in range(600)]
    assert {len(text) for text in texts} == {2, 3, 4, 5, 6}
    assert set("".join(texts)) == set(CHARACTERS)
    assert 100 < sum(text.isdigit() for text in texts) < 400 and 100 < sum(text.isalpha() for text in texts) < 400


def test_captions_are_the_strings_by_character(strings: Path) -> None:
    """A character a word, so that the vocabulary is the characters of train and nothing is unknown."""
    assert read_manifest(strings)["source"] == {"reader": "strings", "seed": 1}
    for split, count in zip(("train", "val", "test"), COUNTS, strict=True):
        strings_of_split = [sample_string(1, split, number) for number in range(count)]
        references = CaptionDataset(strings, split).references()
        assert [texts[0].replace(" ", "") for texts in references] == strings_of_split
        assert references == [[" ".join(text)] for text in strings_of_split] and is_string_set(
            [[t.split()] for (t,) in references]
        )
    words = read_vocabulary(strings).words
    train_strings = [sample_string(1, "train", number) for number in range(COUNTS[0])]
    assert set(words) == {*SPECIALS, *"".join(train_strings)} <= {*SPECIALS, *CHARACTERS}


@pytest.mark.parametrize("name", FONTS)
def test_every_font_draws_every_character(name: str) -> None:
    """All glyphs differ: none is the box that replaces a missing one."""
    font = read_font(name, 40)
    shapes = [np.asarray(font.getmask(character)).tobytes() for character in CHARACTERS]
    assert all(np.frombuffer(shape, np.uint8).sum() > 3000 for shape in shapes)
    assert len(set(shapes)) == len(CHARACTERS)


def test_all_characters_lie_in_the_image() -> None:
    """Rotated, slanted and placed at random, no string touches an edge, and the boxes contain the characters."""
    side = 256
    for number in range(40):
        text = sample_string(1, "test", number)
        layout = sample_layout(random.Random(number), text, side)
        corners = np.array(boxes(layout, text))
        assert corners.min() >= 0 and corners.max() <= side
        ink = np.asarray(module.draw_mask(layout, text, side)) > 127
        rows, columns = np.nonzero(ink)
        low, high = corners.min((0, 1)), corners.max((0, 1))
        assert ink.sum() > 100 and columns.min() >= low[0] - 2 and columns.max() <= high[0] + 2
        assert rows.min() >= low[1] - 2 and rows.max() <= high[1] + 2
        assert (np.diff(corners.mean(1)[:, 0]) > 0).all()  # from left to right


def test_boxes_lie_on_their_characters(strings: Path) -> None:
    """In each outline of the instance file there are pixels that are far from the background's colour."""
    coco = COCO(str(strings.with_name("strings_instances.json")))
    data = CaptionDataset(strings, "test")
    for index, image_id in enumerate(data.image_ids):
        image = data.read_images([index])[0].numpy().astype(float)
        annotations = sorted(coco.imgToAnns[image_id], key=lambda annotation: annotation["id"])
        names = [coco.cats[annotation["category_id"]]["name"] for annotation in annotations]
        assert " ".join(names) == data.references()[index][0]
        masks = [coco.annToMask(annotation) > 0 for annotation in annotations]
        ground = np.median(image[:, ~np.any(masks, 0)], 1)
        for mask, annotation in zip(masks, annotations, strict=True):
            assert annotation["area"] == pytest.approx(mask.sum(), abs=0.35 * annotation["area"] + 6)
            assert np.abs(image[:, mask].T - ground).sum(1).max() > 70
    assert not {entry["split"] for entry in coco.imgs.values()} - {"val", "test"}


def test_an_image_does_not_depend_on_the_counts() -> None:
    first, again, other = (Strings(output="", seed=seed).draw("test", 4).tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "16", "--overwrite"], r"--size is 16 and --count .*must be at least 32"),
        (["--count", "5", "-1", "5", "--overwrite"], r"--count \(5, -1, 5\).*must be at least 32 and 0"),
        ([], r"strings.h5: exists already; give --overwrite"),
    ],
)
def test_invalid_options_are_refused(strings: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        preprocess(["strings", "--output", str(strings), *more])
    assert "\n" not in str(caught.value)


def test_a_missing_font_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_font_folder", lambda: tmp_path)
    read_font.cache_clear()
    with pytest.raises(UserError, match="DejaVuSans.ttf: matplotlib's font cannot be read.*by pip") as caught:
        make(tmp_path / "strings.h5")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


# Convolutions with shared weights.


def block(passes: int, recurrent: bool) -> SharedBlock:
    """In double precision, its normalisation as if it had been trained."""
    torch.manual_seed(0)
    made = SharedBlock(8, passes, recurrent).double()
    for value in (made.norm.weight, made.norm.bias):
        nn.init.normal_(value, 1.0, 0.5)
    return made


def normal(x: torch.Tensor, made: SharedBlock) -> torch.Tensor:
    """Every channel of every image a group of its own."""
    deviation = (x.var((2, 3), correction=0, keepdim=True) + made.norm.eps).sqrt()
    scaled = (x - x.mean((2, 3), keepdim=True)) / deviation
    return scaled * made.norm.weight[:, None, None] + made.norm.bias[:, None, None]


X = torch.randn(2, 8, 5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_block_is_its_equation(recurrent: bool) -> None:
    """Pass by pass, with one W_rec."""
    made = block(3, recurrent)
    fed = conv2d(X, made.feedforward.weight, padding=1)
    h = normal(fed, made).clamp(min=0)
    for _ in range(3):
        h = normal(conv2d(h, made.recurrent.weight, padding=1) + (fed if recurrent else 0), made).clamp(min=0)
    torch.testing.assert_close(made(X), h)


def test_without_a_pass_it_is_the_plain_convolution() -> None:
    made = block(0, True)
    plain = nn.Sequential(made.feedforward, made.norm, nn.ReLU())
    assert torch.equal(made(X), plain(X))


def test_recursive_is_recurrent_without_the_input_at_later_passes() -> None:
    """Both begin with h_0; from then on the recurrent block alone adds the input: with W_ff = 0 it is the recursive one
    (of an input that is zero behind W_ff, too), and with any other it is not."""
    recursive, recurrent = block(3, False), block(3, True)
    assert torch.equal(recursive.recurrent.weight, recurrent.recurrent.weight)
    assert not torch.allclose(recursive(X), recurrent(X))
    for made in (recursive, recurrent):
        nn.init.zeros_(made.feedforward.weight)
    assert torch.equal(recursive(X), recurrent(X)) and recursive(X).max() > 0


@pytest.mark.parametrize("name", ["recursive_cnn", "recurrent_cnn"])
def test_weights_are_shared(name: str) -> None:
    """Their number does not depend on the passes; all of them get a gradient."""
    counts = []
    for passes in (1, 4):
        network = NETWORKS[name](passes)
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
        network(torch.randn(2, 3, 16, 16)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert len(set(counts)) == 1


def test_every_pass_adds_to_the_gradient_of_the_shared_weights() -> None:
    """As if each pass had weights of its own, and their gradients were added."""
    made = block(2, True)
    made(X).sum().backward()
    kernels = [made.recurrent.weight.detach().clone().requires_grad_() for _ in range(2)]
    fed = conv2d(X, made.feedforward.weight, padding=1)
    h = made.norm(fed).relu()
    for kernel in kernels:
        h = made.norm(fed + conv2d(h, kernel, padding=1)).relu()
    own = torch.autograd.grad(h.sum(), kernels)
    assert all(gradient.abs().max() > 0 for gradient in own)
    torch.testing.assert_close(made.recurrent.weight.grad, own[0] + own[1])


def test_passes_of_other_encoders_are_refused() -> None:
    assert EncoderConfig(name="recursive_cnn", recurrence_steps=5).recurrence_steps == 5
    with pytest.raises(UserError, match="encoder.recurrence_steps is 2, but small_cnn has none; add --encoder.name"):
        EncoderConfig(name="small_cnn", recurrence_steps=2)
    with pytest.raises(UserError, match="encoder.recurrence_steps is 0, but must be at least 1"):
        EncoderConfig(name="recurrent_cnn", recurrence_steps=0)


# Scores.


def test_exact_match_and_character_error_rate() -> None:
    """By hand: one right; one substitution of 3; one insertion to 2; all 4 characters missing."""
    written = [list("ab1"), list("xyz"), list("abc"), []]
    right = [list("ab1"), list("xyy"), list("ab"), list("1234")]
    exact, errors = string_accuracy(written, right)
    assert (exact.name, errors.name) == ("exact match", "character error rate")
    assert exact.value == 25 and exact.per_image.tolist() == [100, 0, 0, 0]
    assert errors.value == pytest.approx(100 * (0 + 1 + 1 + 4) / (3 + 3 + 2 + 4))
    assert errors.per_image.tolist() == pytest.approx([0, 100 / 3, 50, 100])


def test_character_error_rate_is_nltk_s() -> None:
    chance = np.random.default_rng(0)
    pairs = [["".join(chance.choice(list("ab1"), size)) for size in chance.integers(1, 7, 2)] for _ in range(50)]
    total = sum(edit_distance(*pair) for pair in pairs)
    errors = string_accuracy([list(ours) for ours, _ in pairs], [list(right) for _, right in pairs])[1]
    assert errors.value == pytest.approx(100 * total / sum(len(right) for _, right in pairs))


def test_instances_hold_only_what_is_known(strings: Path) -> None:
    content = json.loads(strings.with_name("strings_instances.json").read_text())
    assert content["info"] == {"description": "strings", "seed": 1}
    assert [category["name"] for category in content["categories"]] == list(CHARACTERS)
