"""Maps lie where the attention is; figures are drawn without a display."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caption.visualise import Look, draw_attention, draw_curves, upsample


@pytest.mark.parametrize(("grid", "size"), [(7, 224), (14, 224), (8, 64), (3, 32)])
def test_the_maximum_lies_in_the_strongest_cell(grid: int, size: int) -> None:
    weights = torch.full((grid * grid, grid * grid), 0.1)
    weights.fill_diagonal_(1)  # map i: cell i
    maps = upsample(weights, (grid, grid), size)
    assert maps.shape == (grid * grid, size, size) and maps.min() >= 0
    for cell, attention in enumerate(maps):
        row, column = divmod(int(attention.argmax()), size)
        assert (row * grid // size, column * grid // size) == divmod(cell, grid)


def test_smooth_and_nothing_lost() -> None:
    weights = torch.rand(1, 49, generator=torch.Generator().manual_seed(0)).softmax(-1)
    attention = upsample(weights, (7, 7), 224)[0]
    assert np.abs(np.diff(attention, axis=0)).max() < 0.1 * attention.max()
    assert attention.mean() == pytest.approx(weights.mean().item(), rel=0.02)


def test_figure(tmp_path: Path) -> None:
    """The first panel is the picture, the next ones are bright where the model looked and nowhere else."""
    image = np.full((3, 32, 32), 255, np.uint8)
    maps = np.zeros((2, 32, 32), np.float32)
    maps[0, :16], maps[1, 16:] = 1, 1
    draw_attention(image, ["up", "down"], [Look(maps, (2, 2))], "up down", tmp_path / "figure.png")
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


def test_several_looks_and_the_cell_chosen(tmp_path: Path) -> None:
    """Two models, one below the other; the second chose a cell, which alone is outlined in black and white."""
    image = np.full((3, 32, 32), 128, np.uint8)
    maps = np.ones((1, 32, 32), np.float32)
    looks = [Look(maps, (2, 2), name="soft"), Look(maps, (2, 2), [3], "hard")]
    draw_attention(image, ["word"], looks, "word", tmp_path / "figure.png")
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


def test_curves(tmp_path: Path) -> None:
    records = [
        {
            "epoch": epoch,
            "train": {"cross_entropy": 3 / epoch},
            "val": {"cross_entropy": 4 / epoch},
            "scores": {f"BLEU-{n}": 10.0 * epoch / n for n in (1, 2, 3, 4)},
        }
        for epoch in (1, 2, 3)
    ]
    draw_curves(records, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 800
