"""Maps of attention lie exactly over the regions of the encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from caption.config import EncoderConfig
from caption.data.images import CropBox, Fit, crop_box, fit_image, open_image, to_array
from caption.encoders.grid import FeatureGrid
from caption.encoders.registry import build_encoder
from caption.visualise.upsample import center_prior, peak, upsample

GRIDS = [
    FeatureGrid.even(7, 7, 224),
    FeatureGrid.even(14, 14, 224),
    FeatureGrid.even(8, 8, 64),
    FeatureGrid(7, 7, 224, 0.0, 32.0),
    FeatureGrid(8, 8, 299, 37.0, 32.0),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_peak_is_the_centre_of_the_cell_with_most_attention(grid: FeatureGrid) -> None:
    count = grid.rows * grid.columns
    weights = torch.full((count, count), 0.1).fill_diagonal_(1).numpy()  # map i: cell i
    for cell, attention in enumerate(upsample(weights, grid)):
        middle = [grid.first + grid.step * n for n in divmod(cell, grid.columns)]
        assert np.abs(np.array(peak(attention, grid)) - middle).max() <= 0.5
        left, top = grid.corner(cell)
        assert (top + grid.step / 2, left + grid.step / 2) == pytest.approx(middle)


@pytest.mark.parametrize("grid", GRIDS)
def test_uniform_attention_is_a_uniform_map(grid: FeatureGrid) -> None:
    count = grid.rows * grid.columns
    assert np.allclose(upsample(np.full((1, count), 1 / count), grid), 1 / count)


def test_upsampling_is_smooth_linear_and_within_range() -> None:
    grid, chance = FeatureGrid.even(7, 7, 224), np.random.default_rng(0)
    one, other = chance.dirichlet(np.ones(49), 2)
    maps = upsample(np.stack([one, other, 0.3 * one + 0.7 * other]), grid)
    assert np.allclose(maps[2], 0.3 * maps[0] + 0.7 * maps[1], atol=1e-7)
    assert np.abs(np.diff(maps, axis=1)).max() < 0.1 * maps.max()
    assert maps[0].min() >= one.min() and maps[0].max() <= one.max()


def test_with_a_window_the_map_is_the_same_inside_and_zero_outside() -> None:
    grid, weights = FeatureGrid.even(4, 4, 32), np.random.default_rng(0).dirichlet(np.ones(16), 2)
    crop = CropBox(0.25, 0.0, 0.5, 1.0)  # of an image of 64 x 32 pixels
    full = upsample(weights, grid, (32, 64), crop)
    assert np.allclose(full[:, :, 16:48], upsample(weights, grid))
    assert full[:, :, :16].max() == 0 and full[:, :, 48:].max() == 0
    double = upsample(weights, grid, (64, 64))
    assert np.allclose(double.reshape(2, 32, 2, 32, 2).mean((2, 4)), upsample(weights, grid), atol=2e-3)


def test_the_center_prior_peaks_at_the_centre_of_the_image() -> None:
    for grid in [*GRIDS, FeatureGrid.even(1, 1, 32), FeatureGrid(1, 1, 224, 0.0, 32.0)]:
        weights = center_prior(grid)
        assert weights.sum() == pytest.approx(1) and (weights > 0).sum() <= 4
        row, column = peak(upsample(weights[None], grid)[0], grid)
        middle = (grid.size - 1) / 2
        nearest = max(0.5, abs(middle - grid.first)) if grid.rows == 1 else grid.step / 2
        assert abs(row - middle) <= nearest and abs(column - middle) <= nearest


@pytest.mark.parametrize(
    ("name", "size", "padding"),
    [
        ("small_cnn", 64, "torchvision"),
        ("recursive_cnn", 64, "torchvision"),
        ("recurrent_cnn", 64, "torchvision"),
        ("mobilenet_v2", 224, "torchvision"),
        ("mobilenet_v2", 224, "tensorflow"),
        ("mobilenet_v2", 200, "tensorflow"),  # of sides 200, 100, 50, 25 and 13, two are odd
        ("resnet18", 224, "torchvision"),
        ("vgg11", 224, "torchvision"),
        ("densenet121", 224, "torchvision"),
        ("swin_t", 224, "torchvision"),
    ],
)
def test_cells_are_centred_on_what_encoders_see(name: str, size: int, padding: Any) -> None:
    """The squared gradient of a region with respect to the pixels is centred on the cell."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name=name, finetune_from="all", padding=padding), size).eval()
    grid = encoder.feature_grid
    index = grid.rows // 2
    pixels = torch.randn(1, 3, size, size, requires_grad=True)
    features = encoder.backbone(pixels)
    region = (features if isinstance(features, torch.Tensor) else features["regions"])[0, :, index, index]
    (gradient,) = torch.autograd.grad((region * torch.randn_like(region)).sum(), pixels)
    power, line = gradient.square().sum((0, 1)), torch.arange(float(size))
    for axis in (0, 1):
        centre = (power.sum(1 - axis) @ line / power.sum()).item()
        assert centre == pytest.approx(grid.first + grid.step * index, abs=0.2 * grid.step)


def bright_square(path: Path, size: tuple[int, int], centre: tuple[float, float], turn: int) -> None:
    """Save a dark image of (width, height) with a bright square around the centre (x, y), in pixels of the upright
    image, as a camera does that was held with EXIF's orientation `turn`."""
    image = Image.new("RGB", size, (40, 40, 40))
    x, y = round(centre[0]), round(centre[1])
    image.paste((250, 250, 250), (x - 24, y - 24, x + 24, y + 24))
    back = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    (image if back is None else image.transpose(back)).save(path, exif=exif, quality=95)


SMALL = [(fit, *shape) for fit in ("crop", "squash") for shape in [((224, 224), 1), ((448, 300), 1), ((300, 500), 6)]]
SHAPES = [("small_cnn", "", *shape) for shape in [*SMALL, ("crop", (520, 260), 8), ("squash", (260, 520), 3)]]
DEEP = [("resnet18", "layer2"), ("mobilenet_v2", "features.6"), ("vgg11", "features.10")]
SHAPES += [(*deep, *shape) for deep in DEEP for shape in [("crop", (520, 260), 8), ("squash", (260, 420), 3)]]


@pytest.mark.parametrize(("name", "layer", "fit", "size", "turn"), SHAPES)
def test_the_map_lies_on_what_the_encoder_sees(
    name: str, layer: str, fit: Fit, size: tuple[int, int], turn: int, tmp_path: Path
) -> None:
    """The encoder sees the square in the regions that differ between an image with and one without it. A map of
    attention on them lies on the square to a third of a cell, whatever the image's shape, crop and rotation. (With a
    grid that divides the image evenly, ResNet's map would be half a cell off.)"""
    side = 96 if name == "small_cnn" else 224
    encoder = build_encoder(EncoderConfig(name=name, layer=layer, finetune_from="all"), side).eval()
    for module in encoder.modules():  # a convolution that averages: a region is centred on what it sees
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    seen = crop_box(size, fit)
    for fraction in ((0.35, 0.4), (0.55, 0.65)):  # of what the model sees
        centre = [size[i] * (seen[i] + fraction[i] * seen[i + 2]) for i in (0, 1)]
        bright_square(tmp_path / "bright.jpg", size, (centre[0], centre[1]), turn)
        bright_square(tmp_path / "dark.jpg", size, (-1e4, -1e4), turn)
        images = (open_image(tmp_path / f"{kind}.jpg", side) for kind in ("bright", "dark"))
        squares = np.stack([to_array(fit_image(image, side, fit)) for image in images])
        with torch.no_grad():
            bright, dark = encoder(torch.from_numpy(squares))
        weights = (bright - dark).square().sum(-1)
        weights = (weights / weights.sum()).numpy()
        image = open_image(tmp_path / "bright.jpg")
        assert image.size == size
        attention = upsample(weights[None], encoder.feature_grid, (size[1], size[0]), seen)[0].astype(float) ** 2
        across, down = (attention.sum(axis) @ np.arange(size[axis]) / attention.sum() for axis in (0, 1))
        step = [encoder.feature_grid.step / side * size[i] * seen[i + 2] for i in (0, 1)]  # of a cell, in pixels
        assert abs(across - centre[0]) < step[0] / 3 and abs(down - centre[1]) < step[1] / 3
