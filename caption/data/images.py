"""Open pictures safely and fit them into a square: the only pixel code, for preprocessing and captioning alike."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from caption.config.model import Fit
from caption.errors import UserError

# EXIF's orientation -> what brings the picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CropBox(NamedTuple):
    """The part of a picture that the model saw as its square, in shares of the picture's width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


class BadImage(UserError):
    """A picture that cannot be used, with its name and the reason."""


def open_image(path: str | Path, size: int = 0) -> Image.Image:
    """Read a picture of any common kind as upright 8-bit RGB.

    EXIF rotation is applied, 16-bit is scaled to 8, transparency is laid on white; of an animation
    the first frame counts. With `size`, a JPEG whose sides are both at least twice as long is decoded at a half, a
    quarter or an eighth of its own, by leaving out the high frequencies of its blocks: faster, and smooth.
    Raises BadImage when the file is missing, unreadable, truncated or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but bearable pictures, odd EXIF blocks
            with Image.open(path) as image:
                if size:
                    image.draft(None, (size, size))
                image.load()
                return to_rgb(_upright(image))
    except FileNotFoundError:
        raise BadImage(f"{path}: no such picture") from None
    except UnidentifiedImageError:
        raise BadImage(f"{path}: {_what_it_is(Path(path))}, not a picture that Pillow can read") from None
    except Exception as error:  # Pillow's parsers raise almost anything
        raise BadImage(f"{path}: unreadable or truncated picture ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held. A picture with a garbled EXIF block stays as it is."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return image  # to look for what is not there takes a while
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return "an empty file"
    return "a page of HTML" if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) else "of unknown kind"


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB, 8 bits a channel."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):  # 16-bit grayscale; a plain convert would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown scale; save the picture with 8 or 16 bits")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_image(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """A square of `size` pixels. "crop": the shorter side is resized and the centre kept, as in the paper;
    "squash": the whole picture, its proportions changed."""
    if image.size == (size, size):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return image.resize((size, size), Image.Resampling.BILINEAR)


def crop_box(size: tuple[int, int], fit: Fit) -> CropBox:
    """The part of a picture of that width and height that `fit_image` makes the square of."""
    width, height = size
    if fit == "squash":
        return CropBox()
    side = min(size)
    return CropBox((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """RGB picture -> uint8 [3, S, S]; the one form in which pictures are stored and enter the encoder."""
    planes = bytearray().join(image.tobytes("raw", band) for band in "RGB")  # a tenth faster than numpy's transposition
    return np.frombuffer(planes, np.uint8).reshape(3, image.height, image.width)


def read_square(path: str | Path, size: int, fit: Fit) -> NDArray[np.uint8]:
    """A picture on disk as the model sees it, uint8 [3, S, S]. Raises BadImage."""
    return to_array(fit_image(open_image(path, size), size, fit))


def reuse_memory() -> None:
    """Let Pillow keep some blocks of memory from one picture to the next: opening many takes an eighth less time."""
    Image.core.set_blocks_max(8)  # type: ignore[attr-defined]  # of up to 16 MB


def encode_jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """Picture uint8 [3, S, S] -> a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(content: bytes | bytearray, out: NDArray[np.uint8]) -> None:
    """A JPEG file of RGB pixels -> `out`, uint8 [3, S, S]."""
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        out[:] = np.asarray(image).transpose(2, 0, 1)
