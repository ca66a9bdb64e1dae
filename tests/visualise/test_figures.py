"""Figures are bright where attention is, and are drawn without a display."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from caption.data.images import CropBox
from caption.encoders.grid import FeatureGrid
from caption.visualise.figures import MIN_BRIGHTNESS, AttentionMaps, brightness, draw_attention, draw_curves

GRID = FeatureGrid.even(2, 2, 32)
UP_AND_DOWN = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_panels_are_bright_where_attention_is(tmp_path: Path) -> None:
    """The first panel is the image; the others are bright where attention is and nowhere else."""
    image = np.full((32, 32, 3), 255, np.uint8)
    fine = np.repeat(UP_AND_DOWN, 16, axis=1)  # rows 0 to 3 of 8, rows 4 to 7
    maps = AttentionMaps(fine, FeatureGrid.even(8, 8, 32))
    draw_attention(image, ["up", "down"], [maps], tmp_path / "figure.png")
    drawn = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
    dark = (drawn > 40) & (drawn < 62)  # a fifth of white
    panel = drawn.shape[1] // 3
    middle = np.flatnonzero(dark.any(1)).mean()
    halves = [
        (dark[: int(middle), i * panel : (i + 1) * panel].sum(), dark[int(middle) :, i * panel : (i + 1) * panel].sum())
        for i in range(3)
    ]
    assert max(halves[0]) == 0
    assert halves[1][1] > 5 * halves[1][0] and halves[2][0] > 5 * halves[2][1] and halves[2][0] > 10000


def test_the_cell_that_hard_attention_chose_is_outlined(tmp_path: Path) -> None:
    """Of two models, one below the other, only the second chose a cell, which alone is outlined."""
    image = np.full((32, 32, 3), 128, np.uint8)
    even = np.full((1, 4), 0.25)
    maps = [AttentionMaps(even, GRID, name="soft"), AttentionMaps(even, GRID, [3], "hard")]
    draw_attention(image, ["word"], maps, tmp_path / "figure.png")
    drawn = np.asarray(Image.open(tmp_path / "figure.png").convert("L")).astype(int)
    grey = np.abs(drawn - 128) < 2
    rows, columns = (np.flatnonzero(grey.any(axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    panels = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = {  # away from titles: the middle of each panel's lower right quarter, and of its upper left
        (row, column, corner): panels[
            int(height * y) - 12 : int(height * y) + 12, int(width * x) - 12 : int(width * x) + 12
        ]
        for row in (0, 1)
        for column in (0, 1)
        for corner, y, x in (
            ("middle", row * 0.55 + 0.225, column * 0.51 + 0.245),
            ("upper left", row * 0.55 + 0.06, column * 0.51 + 0.06),
        )
    }
    outlined = {place for place, pixels in inside.items() if pixels.min() < 60}
    assert outlined == {(1, 1, "middle")}  # the corner of the cell, which lies in the panel's middle


def test_brightness_is_relative_to_the_maximum_of_each_word() -> None:
    light = brightness(AttentionMaps(np.array([[0.1, 0, 0, 0], [0.9, 0.1, 0, 0]]), GRID), (32, 32))
    assert light.max((1, 2)).tolist() == pytest.approx([1, 1]) and light.min() == pytest.approx(
        MIN_BRIGHTNESS, abs=0.03
    )


def test_the_image_is_dark_outside_the_window() -> None:
    light = brightness(AttentionMaps(np.full((1, 4), 0.25), GRID, window=CropBox(0.25, 0, 0.5, 1)), (32, 64))
    assert (
        np.allclose(light[:, :, 16:48], 1)
        and np.allclose(light[:, :, :16], MIN_BRIGHTNESS)
        and np.allclose(light[:, :, 48:], MIN_BRIGHTNESS)
    )


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "jpg", "gif"])
@pytest.mark.parametrize("shape", [(32, 96, 3), (96, 32, 3)])
def test_every_format_is_written_completely(tmp_path: Path, ending: str, shape: tuple[int, int, int]) -> None:
    """For wide and tall images; no temporary file is left."""
    maps = AttentionMaps(UP_AND_DOWN, GRID, [0, 3])
    draw_attention(np.full(shape, 200, np.uint8), ["up", "down"], [maps], tmp_path / f"figure.{ending}")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF", b"<?xm", b"\xff\xd8\xff\xe0", b"GIF8")
    if ending in ("png", "jpg"):
        width, height = Image.open(path).size
        assert (width > 2 * height) == (shape[1] > shape[0])


def test_an_animation_shows_one_word_after_the_other(tmp_path: Path) -> None:
    """The image, then bright above, then bright below."""
    white = np.full((32, 32, 3), 255, np.uint8)
    draw_attention(white, ["up", "down"], [AttentionMaps(UP_AND_DOWN, GRID)], tmp_path / "figure.gif")
    frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(Image.open(tmp_path / "figure.gif"))]
    middle = [frame[:, frame.shape[1] // 2] for frame in frames]  # a line down the image
    upper, lower = ([int(line[len(line) * n // 10]) for line in middle] for n in (3, 8))
    assert len(frames) == 3 and upper[0] > 200 and lower[0] > 200
    assert upper[1] > 200 > 100 > lower[1] and lower[2] > 200 > 100 > upper[2]


def test_curves_are_drawn_from_the_log(tmp_path: Path) -> None:
    records = [
        {
            "epoch": epoch,
            "train": {"cross_entropy": 3 / epoch},
            "val": {"cross_entropy": 4 / epoch},
            "scores": {f"BLEU-{n}": 10.0 * epoch / n for n in (1, 2, 3, 4)} | {"CIDEr-D": 20.0 * epoch},
        }
        for epoch in (1, 2, 3)
    ]
    draw_curves(records, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 800
