"""Pages in a real browser: what lights up is where the model looked."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from caption.data.images import Window
from caption.encoders.grid import FeatureGrid
from caption.evaluation.report import CHUNK, Report, report_entry
from caption.search import Hypothesis
from caption.visualise.figures import DIM
from caption.visualise.html import PIXELS, image_entry, write_page
from caption.visualise.upsample import upsample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GRID = FeatureGrid(3, 3, 96, 10.0, 32.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that may ask nothing of a network and throw no error."""
    context = browser.new_context(viewport={"width": 1000, "height": 700}, offline=True)
    found, errors = context.new_page(), []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("request", lambda request: request.url.startswith(("file:", "data:")) or errors.append(request.url))
    yield found
    context.close()
    assert errors == []


def hypothesis(words: int, seed: int, locations: list[int] | None = None) -> Hypothesis:
    weights = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(9, 0.3), words + 1)).float()
    return Hypothesis(
        list(range(4, 4 + words)), -1.5 - seed, True, weights, locations, [0.1 * n for n in range(words + 1)]
    )


def drawn(page: Any, viewer: str = "article") -> np.ndarray:
    """The light that a page lets through, [PIXELS, PIXELS] in [DIM, 1]."""
    opacity = page.evaluate(
        f"""() => {{
            const canvas = document.querySelector("{viewer} canvas");
            return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
        }}"""
    )
    return 1 - np.array(opacity).reshape(PIXELS, PIXELS, 4)[..., 3] / 255


def expected(weights: torch.Tensor) -> np.ndarray:
    attention = upsample(weights.numpy()[None], GRID, (PIXELS, PIXELS))[0]
    return DIM + (1 - DIM) * attention / attention.max()


@pytest.fixture
def captions(tmp_path: Path) -> tuple[Path, list[Hypothesis]]:
    """A page of a wide picture, of which the model saw the right half, with two captions; and of another picture."""
    found = [hypothesis(3, 0), hypothesis(2, 1, [8, 0, 4])]
    words = [["a", "red", "</script>"], ["one", "two"]]
    picture = Image.new("RGB", (200, 100), (255, 255, 255))
    entries = [
        image_entry(picture, Window(0.5, 0, 0.5, 1), "wide.png", list(zip(words, found, strict=True))),
        image_entry(picture, Window(), "other.png", [(["x", "y"], hypothesis(2, 2))]),
    ]
    write_page(tmp_path / "page.html", "title & <more>", GRID, entries)
    return tmp_path / "page.html", found


def test_attention_of_the_word_under_the_pointer(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    path, found = captions
    page.goto(path.as_uri())
    assert page.title() == "title & <more>" and page.locator("article").count() == 2
    frame = page.locator("article .window").first
    assert not frame.is_visible()
    for t, word in enumerate(["a", "red", "</script>"]):
        page.locator("article").first.locator(".word").nth(t).hover()
        assert page.locator("article .word").nth(t).inner_text() == word
        assert np.abs(drawn(page) - expected(found[0].weights[t])).max() < 0.01
        assert f"β = {found[0].gates[t]:.2f}" in page.locator("article .about").first.inner_text()
    whole, part = page.locator("article .picture").first.bounding_box(), frame.bounding_box()
    assert whole["width"] == pytest.approx(2 * whole["height"], rel=0.01)
    assert part["x"] == pytest.approx(whole["x"] + whole["width"] / 2, abs=1)
    assert part["width"] == pytest.approx(whole["width"] / 2, abs=1)
    page.mouse.move(5, 5)
    assert not frame.is_visible()


def test_outside_what_the_model_saw_it_is_dark(
    page: Any, captions: tuple[Path, list[Hypothesis]], tmp_path: Path
) -> None:
    page.goto(captions[0].as_uri())
    page.locator("article .word").first.click()
    page.locator("article .picture").first.screenshot(path=tmp_path / "shot.png")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L")) / 255
    left, right = np.split(shot[10:-10, 10:-10], 2, axis=1)
    assert np.allclose(left, DIM, atol=0.02) and right.max() > 0.95


def test_heads_one_by_one(page: Any, tmp_path: Path) -> None:
    """A model with several heads has a choice of them; the word stays the one that was chosen."""
    found = hypothesis(3, 0)
    heads = torch.from_numpy(np.random.default_rng(1).dirichlet(np.full(9, 0.3), (4, 2))).float()
    found = found._replace(heads=heads, weights=heads.mean(1))
    picture = Image.new("RGB", (100, 100), (255, 255, 255))
    told = [(["a", "red", "dog"], found)]
    write_page(tmp_path / "page.html", "heads", GRID, [image_entry(picture, Window(), "a.png", told, ["one", "two"])])
    page.goto((tmp_path / "page.html").as_uri())
    page.locator(".word").nth(1).click()
    assert np.abs(drawn(page) - expected(found.weights[1])).max() < 0.01
    for number, name in enumerate(["one", "two"]):
        page.locator("select").select_option(name)
        assert np.abs(drawn(page) - expected(heads[1, number])).max() < 0.01
        share = round(100 * heads[1, number].max().item())
        assert f"at one place: {share} %" in page.locator(".about").inner_text()
    page.locator("select").select_option("all heads")
    assert np.abs(drawn(page) - expected(found.weights[1])).max() < 0.01


def test_arrow_keys_and_beams(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
    path, found = captions
    page.goto(path.as_uri())
    pressed = page.locator("article").first.locator(".word[aria-pressed=true]")
    for key, word in (("ArrowRight", "a"), ("ArrowRight", "red"), ("ArrowLeft", "a"), ("ArrowLeft", "a")):
        page.keyboard.press(key)
        assert pressed.inner_text() == word
    page.keyboard.press("ArrowDown")  # the second caption
    page.keyboard.press("ArrowRight")
    assert pressed.inner_text() == "one"
    assert np.abs(drawn(page) - expected(found[1].weights[0])).max() < 0.01
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


def test_colours_and_a_phone(page: Any, captions: tuple[Path, list[Hypothesis]]) -> None:
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


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, list[Hypothesis]]:
    """A report of 120 pictures; the score of picture n is n * 7 % 120."""
    count = 120
    assert count > 2 * CHUNK
    found = [hypothesis(2, n) for n in range(count)]
    words = [["picture", f"n{n}"] for n in range(count)]
    written = Report(tmp_path / "report", GRID)
    for start in range(0, count, 32):
        numbers = list(range(start, min(count, start + 32)))
        written.write_pictures(numbers, np.full((len(numbers), 3, 96, 96), 255, np.uint8))
    written.write_looks(words, found)
    items = [
        report_entry(
            f"{n}.png", words[n], found[n], ["a <b> reference"], {"CIDEr-D": n * 7 % 120}, ["wrong size"] * (n % 2)
        )
        for n in range(count)
    ]
    record = {"train": {"cross_entropy": 1.0}, "val": {"cross_entropy": 1.0}, "scores": {"BLEU-4": 1.0}}
    records = [
        {**record, "epoch": n, "examples": {"3.png": f"epoch {n}"}, "CIDEr-D of examples": {"3.png": 50.0 * n}}
        for n in (1, 2)
    ]
    values, ranges = {"CIDEr-D": 59.5, "vocabulary used": 7}, {"CIDEr-D": (50.0, 70.0)}
    written.write_index("run", "how", values, ranges, records, items)
    return tmp_path / "report" / "index.html", found


def test_arrow_keys_and_colour_in_a_report(page: Any, report: tuple[Path, list[Hypothesis]]) -> None:
    """They begin with the first picture, after sorting, too; colour changes every picture that is lit."""
    page.goto(report[0].as_uri())
    pressed = page.locator(".word[aria-pressed=true]")
    for order in ("worst", "best"):
        page.select_option("#order", order)
        page.locator("#end").focus()
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("article:first-child .window.on")
        assert pressed.all_inner_texts() == ["picture"]
    page.locator("article:nth-child(2) .word").first.click()
    page.wait_for_selector("article:nth-child(2) .window.on")
    page.get_by_role("button", name="in colour").click()
    for child in (1, 2):
        opacity = drawn(page, f"article:nth-child({child})")
        assert np.allclose(opacity, 0.3, atol=0.01)


def test_nothing_is_left_of_a_larger_report(report: tuple[Path, list[Hypothesis]]) -> None:
    folder = report[0].parent
    (folder / "mine.txt").write_text("stays")
    again = Report(folder, GRID)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"mine.txt"}
    again.write_pictures([0], np.zeros((1, 3, 96, 96), np.uint8))
    assert [path.name for path in (folder / "pictures").iterdir()] == ["000000.jpg"]


def test_report(page: Any, report: tuple[Path, list[Hypothesis]]) -> None:
    """Sorted, filtered and searched; more as one scrolls; attention fetched when it is asked for."""
    path, found = report
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
    for _ in range(8):
        page.mouse.wheel(0, 20000)
        page.wait_for_timeout(60)
    assert names() == [f"{n}.png" for n in worst] and "120 of 120" in page.locator("#end").inner_text()

    page.evaluate("scrollTo(0, 0)")
    page.select_option("#order", "best")
    assert names()[:5] == [f"{n}.png" for n in worst[:-6:-1]]
    assert page.locator("head script").count() == 0  # no attention was asked for yet
    page.locator("article .word").first.hover()
    page.wait_for_selector("article .window.on")
    assert np.abs(drawn(page) - expected(found[worst[-1]].weights[0])).max() < 0.01
    assert page.locator("head script").count() == 1
    page.select_option("#note", "wrong size")
    assert all(int(name.removesuffix(".png")) % 2 for name in names())
    page.fill("#search", "n101")
    assert names() == ["101.png"] and page.locator("article li").all_inner_texts() == ["a <b> reference"]


@pytest.mark.slow
def test_five_thousand_pictures_open_fast(page: Any, tmp_path: Path) -> None:
    """The list is there in less than two seconds, from a page of a few megabytes."""
    count, one = 5000, hypothesis(12, 0)
    words = [f"word{n}" for n in range(12)]
    written = Report(tmp_path, FeatureGrid.even(3, 3, 96))
    written.write_pictures(range(40), np.full((40, 3, 96, 96), 255, np.uint8))
    written.write_looks([words] * count, [one] * count)
    items = [report_entry(f"{n}.png", words, one, [" ".join(words)] * 5, {"CIDEr-D": n % 97}, []) for n in range(count)]
    written.write_index("run", "how", {"CIDEr-D": 50.0}, {}, [], items)
    page.goto((tmp_path / "index.html").as_uri())
    assert page.locator("article").count() >= 20
    ready = page.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    assert ready < 2000
