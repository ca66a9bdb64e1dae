"""Pages in a real browser are lit where attention is."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from caption.data.images import CropBox
from caption.encoders.grid import FeatureGrid
from caption.errors import UserError
from caption.evaluation.report import CHUNK, write_report
from caption.evaluation.results import Results
from caption.search import Hypothesis
from caption.visualise.figures import MIN_BRIGHTNESS
from caption.visualise.html import PIXELS, image_entry, write_page
from caption.visualise.upsample import upsample

GRID = FeatureGrid(3, 3, 96, 10.0, 32.0)


def hypothesis(words: int, seed: int, locations: list[int] | None = None) -> Hypothesis:
    weights = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(9, 0.3), words + 1)).float()
    return Hypothesis(
        list(range(4, 4 + words)),
        -1.5 - seed,
        True,
        weights,
        None if locations is None else torch.tensor(locations),
        0.1 * torch.arange(words + 1),
        word_log_probabilities=-torch.arange(words + 1).float(),
    )


def brightness(page: Any, viewer: str = "article") -> np.ndarray:
    """Return the brightness with which a page shows an image, [PIXELS, PIXELS] in [MIN_BRIGHTNESS, 1]."""
    opacity = page.evaluate(
        f"""() => {{
            const canvas = document.querySelector("{viewer} canvas");
            return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
        }}"""
    )
    return 1 - np.array(opacity).reshape(PIXELS, PIXELS, 4)[..., 3] / 255


def expected(weights: torch.Tensor) -> np.ndarray:
    attention = upsample(weights.numpy()[None], GRID, (PIXELS, PIXELS))[0]
    return MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * attention / attention.max()


@pytest.fixture
def captions(tmp_path: Path) -> tuple[Path, list[Hypothesis]]:
    """A page of a wide image, of which the model saw the right half, with two captions; and of another image."""
    hypotheses = [hypothesis(3, 0), hypothesis(2, 1, [8, 0, 4])]
    words = [["a", "red", "</script>"], ["one", "two"]]
    image = Image.new("RGB", (200, 100), (255, 255, 255))
    entries = [
        image_entry(image, CropBox(0.5, 0, 0.5, 1), "wide.png", list(zip(words, hypotheses, strict=True))),
        image_entry(image, CropBox(), "other.png", [(["x", "y"], hypothesis(2, 2))]),
    ]
    write_page(tmp_path / "page.html", "title & <more>", GRID, entries)
    return tmp_path / "page.html", hypotheses


def test_the_image_is_lit_by_the_word_under_the_pointer(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    path, hypotheses = captions
    page.goto(path.as_uri())
    assert page.title() == "title & <more>" and page.locator("article").count() == 2
    frame = page.locator("article .window").first
    assert not frame.is_visible()
    for t, word in enumerate(["a", "red", "</script>"]):
        page.locator("article").first.locator(".word").nth(t).hover()
        assert page.locator("article .word").nth(t).inner_text() == word
        assert np.abs(brightness(page) - expected(hypotheses[0].weights[t])).max() < 0.01
        assert f"gate {hypotheses[0].gates[t]:.2f}" in page.locator("article .details").first.inner_text()
        assert f"p = {math.exp(-t):.2f}" in page.locator("article .details").first.inner_text()
    image, window = page.locator("article .image").first.bounding_box(), frame.bounding_box()
    assert image["width"] == pytest.approx(2 * image["height"], rel=0.01)
    assert window["x"] == pytest.approx(image["x"] + image["width"] / 2, abs=1)
    assert window["width"] == pytest.approx(image["width"] / 2, abs=1)
    page.mouse.move(5, 5)
    assert not frame.is_visible()


def test_words_that_the_model_was_not_sure_of_are_pale(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    """Yet legible, and as strong as the others while they are pointed at."""
    page.goto(captions[0].as_uri())
    opacity = "word => Number(getComputedStyle(word).opacity)"
    words = page.locator("article").first.locator(".word")
    found = [words.nth(t).evaluate(opacity) for t in range(3)]
    assert found == pytest.approx([0.55 + 0.45 * math.exp(-t) for t in range(3)], abs=1e-3) and min(found) > 0.55
    words.nth(2).hover()
    assert words.nth(2).evaluate(opacity) == 1


def test_the_image_is_dark_outside_what_the_model_saw(
    page: Any, captions: tuple[Path, list[Hypothesis]], tmp_path: Path
) -> None:
    page.goto(captions[0].as_uri())
    page.locator("article .word").first.click()
    page.locator("article .image").first.screenshot(path=tmp_path / "shot.png")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L")) / 255
    left, right = np.split(shot[10:-10, 10:-10], 2, axis=1)
    assert np.allclose(left, MIN_BRIGHTNESS, atol=0.02) and right.max() > 0.95


def test_the_attention_of_each_head_can_be_chosen(page: Any, tmp_path: Path) -> None:
    """The chosen word stays chosen."""
    several = hypothesis(3, 0)
    heads = torch.from_numpy(np.random.default_rng(1).dirichlet(np.full(9, 0.3), (4, 2))).float()
    several = several._replace(heads=heads, weights=heads.mean(1))
    image = Image.new("RGB", (100, 100), (255, 255, 255))
    captions = [(["a", "red", "dog"], several)]
    write_page(
        tmp_path / "page.html", "heads", GRID, [image_entry(image, CropBox(), "a.png", captions, ["one", "two"])]
    )
    page.goto((tmp_path / "page.html").as_uri())
    page.locator(".word").nth(1).click()
    assert np.abs(brightness(page) - expected(several.weights[1])).max() < 0.01
    for number, name in enumerate(["one", "two"]):
        page.locator("select").select_option(name)
        assert np.abs(brightness(page) - expected(heads[1, number])).max() < 0.01
        largest = round(100 * heads[1, number].max().item())
        assert f"largest weight: {largest} %" in page.locator(".details").inner_text()
    page.locator("select").select_option("all heads")
    assert np.abs(brightness(page) - expected(several.weights[1])).max() < 0.01


def test_arrow_keys_choose_words_and_captions(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    path, hypotheses = captions
    page.goto(path.as_uri())
    pressed = page.locator("article").first.locator(".word[aria-pressed=true]")
    for key, word in (("ArrowRight", "a"), ("ArrowRight", "red"), ("ArrowLeft", "a"), ("ArrowLeft", "a")):
        page.keyboard.press(key)
        assert pressed.inner_text() == word
    page.keyboard.press("ArrowDown")  # the second caption
    page.keyboard.press("ArrowRight")
    assert pressed.inner_text() == "one"
    assert np.abs(brightness(page) - expected(hypotheses[1].weights[0])).max() < 0.01
    cell, frame = page.locator("article .cell").first, page.locator("article .window").first.bounding_box()
    left, top = GRID.corner(8)
    box = cell.bounding_box()
    assert box["x"] == pytest.approx(frame["x"] + (left + 0.5) / 96 * frame["width"], abs=1)
    assert box["y"] == pytest.approx(frame["y"] + (top + 0.5) / 96 * frame["height"], abs=1)
    page.locator("article .beams button").first.click()
    page.keyboard.press("ArrowRight")
    assert pressed.inner_text() == "a" and not cell.is_visible()
    page.keyboard.press("Escape")
    assert pressed.count() == 0


def write_texts(path: Path, texts: list[str], separator: str) -> None:
    """Write a page of an image with captions of these words, which are also its references."""
    words = [text.split() for text in texts]
    captions = [(caption, hypothesis(len(caption), n)) for n, caption in enumerate(words)]
    entry = image_entry(Image.new("RGB", (100, 100)), CropBox(), "a.png", captions, separator=separator)
    write_page(path, "texts", GRID, [{**entry, "references": texts}])


def test_arabic_runs_from_the_right(page: Any, tmp_path: Path) -> None:
    """Its words, its bars, its lists and the arrow keys; the image, the numbers and the rest stay where they were."""
    write_texts(tmp_path / "page.html", ["كلب بني يجري", "رجل يركب"], " ")
    page.goto((tmp_path / "page.html").as_uri())
    boxes = [word.bounding_box() for word in page.locator(".word").all()]
    assert boxes[0]["x"] > boxes[1]["x"] > boxes[2]["x"]
    text = page.locator(".text").bounding_box()
    for name in (".caption", ".beams button", ".references"):
        end = page.evaluate(
            """(name) => {
                const range = document.createRange();
                range.selectNodeContents(document.querySelector(name).firstChild);
                return range.getBoundingClientRect().right;
            }""",
            name,
        )
        assert end == pytest.approx(text["x"] + text["width"], abs=25), name
    bar = "getComputedStyle(document.querySelectorAll('.word')[1], '::after')"
    assert page.evaluate(f"parseFloat({bar}.right) < parseFloat({bar}.left)")
    number = page.locator(".beams span").first
    assert number.inner_text() == "-1.50" and number.evaluate("e => getComputedStyle(e).direction") == "ltr"
    assert page.locator(".image").bounding_box()["x"] < text["x"]
    assert page.locator(".details").evaluate("e => getComputedStyle(e).direction") == "ltr"
    pressed = page.locator(".word[aria-pressed=true]")
    for key, word in (("ArrowLeft", "كلب"), ("ArrowLeft", "بني"), ("ArrowRight", "كلب"), ("ArrowRight", "كلب")):
        page.keyboard.press(key)
        assert pressed.inner_text() == word


def test_characters_stand_without_spaces_on_a_page(page: Any, tmp_path: Path) -> None:
    write_texts(tmp_path / "page.html", ["一 只 狗", "一 人"], "")
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator(".caption").text_content() == "一只狗" and page.locator(".word").count() == 3
    assert page.locator(".beams button").all_text_contents() == ["一只狗 -1.50", "一人 -2.50"]


def test_a_page_fits_a_phone_and_can_be_coloured(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(captions[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(box["height"] >= 24 for box in (word.bounding_box() for word in page.locator(".word").all()))
    page.locator("article .word").first.click()
    dark = page.evaluate("Array.from(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 9, 9).data)")
    page.get_by_role("button", name="in colour").click()
    coloured = page.evaluate(
        "Array.from(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 9, 9).data)"
    )
    assert max(dark[0::4]) == 0 and max(coloured[0::4]) + max(coloured[2::4]) > 40


class WhiteImages:
    """A split of white images, in the part of CaptionDataset that a report reads."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read_images(self, indices: list[int]) -> torch.Tensor:
        return torch.full((len(indices), 3, 96, 96), 255, dtype=torch.uint8)


def write(
    folder: Path,
    words: list[list[str]],
    hypotheses: list[Hypothesis],
    references: list[str],
    scores: list[float],
    records: list[dict[str, Any]],
) -> None:
    """Write a report of images with these captions, the same references and these CIDEr-D; every second image has a
    note."""
    count = len(words)
    captions = SimpleNamespace(
        words=words,
        references=[references] * count,
        notes=[["wrong size"] * (n % 2) for n in range(count)],
        grid=GRID,
        word_kind="ptb",
    )
    images = [{"file_name": f"{n}.png", "scores": {"CIDEr-D": scores[n]}} for n in range(count)]
    results = Results({"CIDEr-D": 59.5, "vocabulary used": 7}, {"CIDEr-D": (50.0, 70.0)}, images)
    write_report(folder, "run", "how", WhiteImages(count), captions, hypotheses, results, records)


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, list[Hypothesis]]:
    """A report of 120 images; the score of image n is n * 7 % 120."""
    count = 120
    assert count > 2 * CHUNK
    hypotheses = [hypothesis(2, n) for n in range(count)]
    record = {"train": {"cross_entropy": 1.0}, "val": {"cross_entropy": 1.0}, "scores": {"BLEU-4": 1.0}}
    records = [
        {**record, "epoch": n, "examples": {"3.png": f"epoch {n}"}, "CIDEr-D of examples": {"3.png": 50.0 * n}}
        for n in (1, 2)
    ]
    words, scores = [["image", f"n{n}"] for n in range(count)], [n * 7 % 120 for n in range(count)]
    write(tmp_path / "report", words, hypotheses, ["a <b> reference"], scores, records)
    return tmp_path / "report" / "index.html", hypotheses


def test_arrow_keys_begin_with_the_first_image_and_colour_changes_all(
    page: Any, report: tuple[Path, list[Hypothesis]]
) -> None:
    """Also after sorting; colour changes every image that is lit."""
    page.goto(report[0].as_uri())
    pressed = page.locator(".word[aria-pressed=true]")
    for order in ("worst", "best"):
        page.select_option("#order", order)
        page.locator("#end").focus()
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("article:first-child .window.visible")
        assert pressed.all_inner_texts() == ["image"]
    page.locator("article:nth-child(2) .word").first.click()
    page.wait_for_selector("article:nth-child(2) .window.visible")
    page.get_by_role("button", name="in colour").click()
    for child in (1, 2):
        opacity = brightness(page, f"article:nth-child({child})")
        assert np.allclose(opacity, 0.3, atol=0.01)


def test_a_report_removes_the_files_of_an_earlier_one(report: tuple[Path, list[Hypothesis]]) -> None:
    folder = report[0].parent
    (folder / "mine.txt").write_text("stays")
    assert (folder / "curves.svg").exists() and (folder / "data" / "attention-0002.js").exists()
    write(folder, [["a", "b"]], [hypothesis(2, 0)], [], [1.0], [])
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "mine.txt",
        "report.json",
        "index.html",
        "images/000000.jpg",
        "data/attention-0000.js",
        "data/index.js",
    }


def test_a_report_never_touches_files_of_the_user(report: tuple[Path, list[Hypothesis]], tmp_path: Path) -> None:
    """Neither in a folder that is not a report's, nor beside a report, whatever its list says."""
    photographs, folder, outside = tmp_path / "photographs", report[0].parent, tmp_path / "outside.jpg"
    outside.write_text("stays")
    (photographs / "images").mkdir(parents=True)
    for name in ("index.html", "images/1001773457.jpg", "images/000000.jpg"):
        (photographs / name).write_text("mine")
    one = ([["a", "b"]], [hypothesis(2, 0)], [], [1.0], [])
    with pytest.raises(UserError, match="holds files, but no report of this version; give an empty folder"):
        write(photographs, *one)
    assert {path.read_text() for path in photographs.rglob("*") if path.is_file()} == {"mine"}

    (folder / "images" / "1001773457.jpg").write_text("mine")
    write(folder, *one)
    (folder / "curves.svg").write_text("mine")
    with pytest.raises(UserError, match=r"curves\.svg is not of the earlier report"):
        write(folder, *one[:-1], [{"epoch": 1, "train": {}, "val": {}, "scores": {}, "examples": {}}])
    assert (folder / "index.html").exists()
    for name in ("images/1001773457.jpg", "curves.svg"):
        assert (folder / name).read_text() == "mine"

    (folder / "report.json").write_text('{"files": ["images/../../outside.jpg"]}')
    with pytest.raises(UserError, match="no report of this version"):
        write(folder, *one)
    assert outside.exists()


def test_a_report_can_be_sorted_filtered_and_searched(page: Any, report: tuple[Path, list[Hypothesis]]) -> None:
    """It grows while one scrolls, and loads attention when it is needed."""
    path, hypotheses = report
    page.goto(path.as_uri())
    names = lambda: page.locator("article h3").all_inner_texts()  # noqa: E731
    assert "50.00 to 70.00" in page.locator("table").first.inner_text()
    page.get_by_text("epoch by epoch").click()
    assert [cell.strip() for cell in page.locator(".examples td:nth-child(3)").all_inner_texts()] == [
        "epoch 1",
        "epoch 2",
    ]
    page.get_by_text("epoch by epoch").click()
    worst = sorted(range(120), key=lambda n: n * 7 % 120)
    assert names()[:20] == [f"{n}.png" for n in worst[:20]]
    assert len(names()) < 120
    page.mouse.move(5, 300)  # beside the list, so that nothing passes under the pointer
    for count in range(40, 121, 20):
        page.mouse.wheel(0, 20000)
        page.wait_for_function(f"document.querySelectorAll('article').length >= {count}")
    assert names() == [f"{n}.png" for n in worst] and "120 of 120" in page.locator("#end").inner_text()

    page.evaluate("scrollTo(0, 0)")
    page.select_option("#order", "best")
    assert names()[:5] == [f"{n}.png" for n in worst[:-6:-1]]
    assert page.locator("head script").count() == 0  # no attention is loaded yet
    page.locator("article .word").first.hover()
    page.wait_for_selector("article .window.visible")
    assert np.abs(brightness(page) - expected(hypotheses[worst[-1]].weights[0])).max() < 0.01
    assert page.locator("head script").count() == 1
    page.select_option("#note", "wrong size")
    assert all(int(name.removesuffix(".png")) % 2 for name in names())
    page.fill("#search", "n101")
    assert names() == ["101.png"] and page.locator("article li").all_inner_texts() == ["a <b> reference"]


def test_a_report_grows_until_the_window_is_full(page: Any, report: tuple[Path, list[Hypothesis]]) -> None:
    """An addition that leaves the end in view is followed by another: a tall window, or a scroll faster than it."""
    page.set_viewport_size({"width": 1000, "height": 12000})
    page.goto(report[0].as_uri())
    page.wait_for_function("document.getElementById('end').getBoundingClientRect().top > innerHeight")
    assert page.locator("article").count() < 120


@pytest.mark.slow
def test_a_report_of_five_thousand_images_opens_in_two_seconds(page: Any, tmp_path: Path) -> None:
    """From a page of a few megabytes."""
    count, one = 5000, hypothesis(12, 0)
    words = [f"word{n}" for n in range(12)]
    write(tmp_path, [words] * count, [one] * count, [" ".join(words)] * 5, [n % 97 for n in range(count)], [])
    page.goto((tmp_path / "index.html").as_uri())
    assert page.locator("article").count() >= 20
    ready = page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    assert ready < 2000
