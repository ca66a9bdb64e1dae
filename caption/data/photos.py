"""An image to caption: the square that a model reads, and the image as figures and pages show it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from caption.config.model import Fit, ImageConfig
from caption.data.images import BadImage, CropBox, crop_box, fit_image, open_image, readable_formats, to_array, to_rgb
from caption.errors import UserError

SHOWN = 448  # longer side of an image in figures and pages, in pixels
MAX_ASPECT = 8  # of the longer side to the shorter; of a longer image, figures and pages show what the model saw

# A path, an image, or an array or tensor of bytes: [rows, columns], [rows, columns, channels] or channels first.
Source = str | Path | Image.Image | NDArray[np.uint8] | Any


class Photo(NamedTuple):
    """An image in the form in which one model reads it."""

    square: NDArray[np.uint8]  # [3, S, S]
    shown: Image.Image  # RGB, at most SHOWN pixels to a side
    window: CropBox  # the part of `shown` that is the square


def load_photo(source: Source, config: ImageConfig) -> Photo:
    """Return the image for a model with these squares. See `load_photos`."""
    return load_photos(source, [config])[0]


def load_photos(source: Source, configs: Sequence[ImageConfig], show: bool = True) -> list[Photo]:
    """Return the image for models with these squares, one photo each, which show the same image.

    Without `show`, it is shown as it was opened for the model, perhaps small: nothing is to be drawn.

    Raises BadImage for a file that cannot be read, and for an image too long to be shown whole if the models see
    different parts of it; UserError for an array that is no image of bytes.
    """
    images = {size: open_source(source, size) for size in {config.size for config in configs}}
    smallest = images[min(images)]
    shown, windows = smallest, [CropBox()] * len(configs)
    if show:
        shown, windows = _image_to_show(source, smallest, [config.fit for config in configs])
    squares = [
        to_array(fit_image(images[config.size], config.size, config.fit, config.interpolation)) for config in configs
    ]
    return [Photo(square, shown, window) for square, window in zip(squares, windows, strict=True)]


def open_source(source: Source, size: int = 0) -> Image.Image:
    """Return the image as upright 8-bit RGB; a large JPEG file may be decoded at a smaller size, at least `size`.

    Raises BadImage for a file that cannot be read, and UserError for an array that is no image of bytes.
    """
    if isinstance(source, str | Path):
        return open_image(source, size)
    if isinstance(source, Image.Image):
        return to_rgb(ImageOps.exif_transpose(source))
    values = np.asarray(source)
    channels = (1, 3, 4)
    if values.ndim == 3 and values.shape[2] not in channels and values.shape[0] in channels:
        values = values.transpose(1, 2, 0)
    is_image = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in channels)
    if values.dtype != np.uint8 or not is_image or 0 in values.shape:
        raise UserError(
            f"an image is an array {list(values.shape)} of {values.dtype}, but must be a path, a PIL image, or an "
            "array of uint8, [rows, columns, 3] or [3, rows, columns]"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(values.squeeze(2) if values.shape[2:] == (1,) else values)))


def _image_to_show(source: Source, image: Image.Image, fits: Sequence[Fit]) -> tuple[Image.Image, list[CropBox]]:
    """Return the image at the size of figures and pages, and the part of it that a model of each fit saw.

    A large JPEG that was decoded smaller is decoded again. Of an image too long to be seen whole, the model's square is
    shown. Raises BadImage for such an image if the fits differ, so that there is no such square.
    """
    if isinstance(source, str | Path) and max(image.size) < SHOWN:
        with Image.open(source, formats=readable_formats()) as original:  # reads the header alone
            reduced = max(original.size) > max(image.size)
        image = open_image(source, SHOWN) if reduced else image
    if max(image.size) > MAX_ASPECT * min(image.size):
        if len(set(fits)) > 1:
            raise BadImage(
                f"{source}: of an image this long the two models see different parts; compare on another one"
            )
        return fit_image(image, SHOWN, fits[0]), [CropBox()] * len(fits)
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return shown, [crop_box(image.size, fit) for fit in fits]
