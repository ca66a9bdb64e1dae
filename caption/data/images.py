"""Open image files safely and fit them into a square; used for preprocessing and for captioning alike."""

import contextlib
import io
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from caption.config.model import Fit, Interpolation
from caption.errors import UserError

# The formats that are opened. Pillow knows forty more; a PostScript file, whatever its name, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
MAX_PIXELS = 100_000_000  # of an image as it is decoded; with transparency it takes 1.6 GB of memory
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit, which knows nothing of a JPEG that is decoded smaller


class CropBox(NamedTuple):
    """The part of an image that becomes the model's square, in fractions of the image's width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


class BadImage(UserError):
    """An image that cannot be used; the message gives its path and the reason."""


def open_image(path: str | Path, size: int = 0) -> Image.Image:
    """Open an image of any common format as upright 8-bit RGB.

    EXIF rotation is applied, 16 bits are scaled to 8, transparent pixels are blended with white, and an animation is
    reduced to its first frame. With `size`, a JPEG whose sides are at least twice as long is decoded at a half, a
    quarter or an eighth of its resolution by omitting the high frequencies of its blocks, which is faster and smooth.
    Raises BadImage if the file is missing, no regular file, unreadable, truncated, of another format than FORMATS,
    would be decoded to more than MAX_PIXELS, or has colours of 16 bits of which only 12 are used.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a FIFO would wait for its writer, perhaps for ever
            raise BadImage(f"{path}: is a folder, a device or a pipe, not an image file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd EXIF blocks
            with Image.open(path, formats=readable_formats()) as image:
                # Decoding a progressive JPEG takes the memory of its full size, whatever the size that comes out.
                full = image.size if image.info.get("progressive") else (0, 0)
                if size:
                    image.draft(None, (size, size))
                width, height = max(full, image.size)
                if width * height > MAX_PIXELS:
                    raise BadImage(
                        f"{path}: too large, {width} x {height} pixels, but at most {MAX_PIXELS / 1e6:.0f} million can "
                        "be decoded; make it smaller"
                    )
                deep = any("16" in str(tile.args) for tile in image.tile)
                image.load()
                if deep and image.mode in ("RGB", "RGBA"):
                    _check_depth(path, image)
                _turn_upright(image)
                return to_rgb(image)
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage(f"{path}: no such image") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise BadImage(f"{path}: {_describe_content(Path(path))}, not an image that is read ({kinds})") from None
    except Exception as error:  # Pillow's parsers raise exceptions of almost any type
        raise BadImage(f"{path}: unreadable or truncated image ({error})") from None


def _check_depth(path: str | Path, image: Image.Image) -> None:
    """Raise BadImage for colours of 16 bits of which only the lower 12 are used: of them, Pillow keeps the upper 8."""
    largest = max(high for _, high in image.getextrema()[:3])  # type: ignore[misc]
    if 0 < largest < 2 ** (12 - 8):
        raise BadImage(f"{path}: nearly black, its colours use 12 bits or fewer of 16; save it with 8 bits a channel")


@cache
def readable_formats() -> list[str]:
    """Return those of FORMATS that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation. An image with a garbled EXIF block stays as it is."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return  # Pillow would take a while to find nothing
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _describe_content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return "an empty file"
    return "a page of HTML" if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) else "of unknown kind"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to RGB with 8 bits per channel."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):  # 16-bit grayscale, which `convert` would clip at 255
        values = np.asarray(image)
        # The file does not say how many of the 16 bits are used: cameras and scanners often use 12 of them.
        shift = next((bits - 8 for bits in (8, 12) if values.max() < 2**bits), 8)
        image = Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown scale; save the image with 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_image(image: Image.Image, size: int, fit: Fit, interpolation: Interpolation = "bilinear") -> Image.Image:
    """Return the image as a square with sides of `size` pixels. "crop" resizes the shorter side and keeps the centre,
    as in the paper; "squash" keeps the full image and changes its aspect ratio."""
    if image.size == (size, size):
        return image
    method = Image.Resampling[interpolation.upper()]
    if fit == "crop":
        return ImageOps.fit(image, (size, size), method)
    return image.resize((size, size), method)


def crop_box(size: tuple[int, int], fit: Fit) -> CropBox:
    """Return the part that `fit_image` keeps of an image with `size` (width, height)."""
    width, height = size
    if fit == "squash":
        return CropBox()
    side = min(size)
    return CropBox((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image as uint8 [3, S, S], the form in which images are stored and encoded."""
    planes = bytearray().join(image.tobytes("raw", band) for band in "RGB")  # 10 % faster than NumPy's transpose
    return np.frombuffer(planes, np.uint8).reshape(3, image.height, image.width)


def reuse_memory() -> None:
    """Let Pillow keep memory blocks between images, which makes opening many of them about 12 % faster."""
    Image.core.set_blocks_max(8)  # type: ignore[attr-defined]  # of up to 16 MB


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode an image uint8 [3, S, S] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(content: bytes | bytearray, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG file of RGB pixels into `out`, uint8 [3, S, S]."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        out[:] = np.asarray(image).transpose(2, 0, 1)
