"""All kinds of images become upright RGB squares; bad ones are named."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption.data import images
from caption.data.images import BadImage, decode_jpeg, encode_jpeg, fit_image, open_image, to_array

RED = (200, 30, 40)


def left_red(size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Return an image that is red on the left half and white on the right."""
    image = Image.new("RGB", size, "white")
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


def colours(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a pixel of the left quarter and one of the right."""
    image = open_image(path)
    assert image.mode == "RGB"
    middle = image.height // 2
    return image.getpixel((image.width // 4, middle)), image.getpixel((3 * image.width // 4, middle))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("png", mode) for mode in ("RGB", "P", "RGBA")),
        *(("jpg", mode) for mode in ("RGB", "CMYK")),
        *(("tiff", mode) for mode in ("RGB", "P", "CMYK", "RGBA")),
        *(("gif", mode) for mode in ("RGB", "P", "RGBA")),
    ],
)
def test_all_colour_modes_become_rgb(tmp_path: Path, kind: str, mode: str) -> None:
    path = tmp_path / f"image.{kind}"
    left_red().convert(mode).save(path)
    left, right = colours(path)
    assert np.allclose(left, RED, atol=30) and np.allclose(right, 255, atol=10)


def test_grayscale_becomes_rgb_with_and_without_alpha(tmp_path: Path) -> None:
    for mode in ("L", "LA", "1"):
        left_red().convert(mode).save(tmp_path / "gray.png")
        left, right = colours(tmp_path / "gray.png")
        assert left[0] == left[1] == left[2] < 128 and right == (255, 255, 255)


def test_transparency_is_blended_with_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 20, 20))
    image.save(tmp_path / "clear.png")
    assert colours(tmp_path / "clear.png") == (RED, (255, 255, 255))
    palette = image.convert("P")
    palette.save(tmp_path / "clear.gif", transparency=palette.getpixel((30, 10)))
    assert colours(tmp_path / "clear.gif")[1] == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.zeros((20, 40), np.uint16)
    values[:, :20], values[:, 20:] = 0x4000, 0xFFFF
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert colours(tmp_path / "deep.png") == ((64,) * 3, (255,) * 3)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    left_red().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    left, right = colours(tmp_path / "turned.jpg")
    assert open_image(tmp_path / "turned.jpg").size == (40, 20)
    assert np.allclose(left, RED, atol=30) and np.allclose(right, 255, atol=10)


@pytest.mark.parametrize(("bits", "white"), [(8, 255), (10, 63), (12, 255), (14, 63), (16, 255)])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_of_which_fewer_are_used_are_not_black(tmp_path: Path, bits: int, white: int, kind: str) -> None:
    """Eight and twelve bits are told from sixteen by the largest value; what lies between counts as the next."""
    values = np.zeros((20, 40), np.uint16)
    values[:, 20:] = 2**bits - 1
    Image.fromarray(values).save(tmp_path / f"deep.{kind}")
    assert colours(tmp_path / f"deep.{kind}") == ((0,) * 3, (white,) * 3)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_of_which_twelve_are_used_are_refused(tmp_path: Path, channels: int) -> None:
    """Pillow keeps the upper eight bits of a channel alone: the image would be nearly black."""
    values = np.zeros((20, 40, channels), np.uint16)
    for name, largest in (("twelve.png", 2**12 - 1), ("sixteen.png", 2**16 - 1)):
        values[:, 20:] = largest
        write_deep_png(tmp_path / name, values)
    with pytest.raises(BadImage, match=r"twelve.png: nearly black, its colours use 12 bits or fewer of 16; save it"):
        open_image(tmp_path / "twelve.png")
    assert colours(tmp_path / "sixteen.png")[1] == (255,) * 3
    write_deep_png(tmp_path / "black.png", values[:, :20, :3])
    assert open_image(tmp_path / "black.png").getextrema() == ((0, 0),) * 3


def write_deep_png(path: Path, values: np.ndarray) -> None:
    """Write colours uint16 [rows, columns, 3 or 4] as PNG, which Pillow cannot."""
    rows, columns, channels = values.shape
    header = struct.pack(">IIBBBBB", columns, rows, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def test_postscript_under_the_name_of_a_photo_is_not_interpreted(tmp_path: Path) -> None:
    """Pillow would start Ghostscript on it."""
    Image.new("RGB", (40, 20)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "photo.jpg")
    with pytest.raises(BadImage, match=r"photo.jpg: of unknown kind, not an image that is read \(JPEG, PNG"):
        open_image(tmp_path / "photo.jpg")


def test_a_pipe_or_a_device_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for ever
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(BadImage, match="is a folder, a device or a pipe"):
            open_image(path)


def test_only_what_is_decoded_of_an_image_counts_for_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A telephone's JPEG of 200 million pixels is decoded at an eighth; a progressive one needs its full size."""
    monkeypatch.setattr(images, "MAX_PIXELS", 100 * 100)
    large = Image.new("RGB", (800, 800), RED)
    large.save(tmp_path / "large.jpg")
    assert open_image(tmp_path / "large.jpg", 50).size == (100, 100)
    large.save(tmp_path / "progressive.jpg", progressive=True)
    large.save(tmp_path / "large.png")
    for path, size in ((tmp_path / "progressive.jpg", 50), (tmp_path / "large.png", 50), (tmp_path / "large.jpg", 0)):
        with pytest.raises(BadImage, match="too large, 800 x 800 pixels, but at most"):
            open_image(path, size)


@pytest.mark.parametrize("bad", ["missing", "empty", "text", "truncated", "folder"])
def test_bad_images_are_named_with_the_reason(tmp_path: Path, bad: str) -> None:
    path = tmp_path / f"{bad}.jpg"
    if bad == "empty":
        path.touch()
    elif bad == "text":
        path.write_text("<html>404 Not Found</html>")
    elif bad == "truncated":
        Image.effect_noise((200, 200), 90).save(tmp_path / "whole.jpg")
        path.write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    elif bad == "folder":
        path.mkdir()
    with pytest.raises(BadImage, match=f"{bad}.jpg: "):
        open_image(path)


def test_crop_keeps_the_centre_and_squash_everything() -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste(RED, (0, 0, 90, 100))  # the left third: outside the central square
    cropped, squashed = (to_array(fit_image(image, 50, fit)) for fit in ("crop", "squash"))
    assert cropped.shape == squashed.shape == (3, 50, 50) and cropped.dtype == np.uint8
    assert cropped.min() == 255
    assert (squashed[:, 25, 5] == RED).all() and (squashed[:, 25, 45] == 255).all()


def test_an_image_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(to_array(fit_image(Image.fromarray(pixels), 32, "crop")), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(640, 480), (481, 900), (448, 448), (2000, 1500), (447, 600)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    reduced, full = open_image(tmp_path / "large.jpg", 224), open_image(tmp_path / "large.jpg")
    assert full.size == size and min(reduced.size) >= 224
    assert (min(reduced.size) < min(size)) == (min(size) >= 448)
    for fit in ("crop", "squash"):
        a, b = (to_array(fit_image(image, 224, fit)).astype(int) for image in (reduced, full))
        assert np.abs(a - b).mean() < 1 and np.abs(a - b).max() < 20


def test_a_jpeg_is_encoded_and_decoded() -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))
    pixels = to_array(small.resize((64, 64), Image.Resampling.BICUBIC))
    decoded = np.empty_like(pixels)
    decode_jpeg(encode_jpeg(pixels, 95), decoded)
    assert np.abs(decoded.astype(int) - pixels).mean() < 2
    assert len(encode_jpeg(pixels, 30)) < len(encode_jpeg(pixels, 95)) < pixels.nbytes / 4
