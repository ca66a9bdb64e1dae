"""A synthetic data set for reading: images of a string of letters and digits, and where each character is.

The caption is the string with every character as a word ("k u b a 4 2"), so that vocabulary, search and scores work as
for any other data set. A digest of the string decides its split, so no training string occurs in val or test, whatever
the counts and the seed.
"""

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from caption.errors import UserError
from preprocess.synthetic import Scene, Synthetic

LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
CHARACTERS = LETTERS + DIGITS
VOWELS = "aeiou"
CONSONANTS = "".join(letter for letter in LETTERS if letter not in VOWELS)
LENGTHS = (2, 3, 4, 5, 6)  # characters in a string
TENTHS = ("train",) * 8 + ("val", "test")  # splits of all possible strings

# The fonts of matplotlib 3.9 and later in which 1 and l differ even in a small image.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "cmss10",
)  # fmt: skip

SUPERSAMPLING = 4  # images are drawn so many times as large, for smooth edges
FONT_HEIGHT = (0.24, 0.42)  # as a fraction of the side; less if the string does not fit
MARGIN = 0.04  # at every edge, as a fraction of the side
MAX_SPACING = 0.1  # between two characters, beyond the font's own, in em
MAX_ROTATION = 8.0  # degrees
MAX_SLANT = 0.2  # horizontal shift per unit of height
MIN_CONTRAST = 90  # between the brightness of text and background, of 255
MAX_BLUR = 0.6  # standard deviation in pixels
MAX_NOISE = 14.0  # standard deviation, of 255


@dataclass(frozen=True, kw_only=True)
class Strings(Synthetic):
    """Synthetic images of short strings to read; the positions of the characters of val and test are written to
    OUTPUT's name + _instances.json."""

    count: tuple[int, int, int] = (40000, 1000, 1000)
    """Images of the train, val and test splits."""

    def run(self) -> None:
        for name in FONTS:
            read_font(name, 16)
        self.write("boxes", "character", CHARACTERS)

    def scene(self, split: str, number: int) -> Scene:
        text, seed = sample_string(self.seed, split, number), string_seed(self.seed, split, number)
        return Scene([" ".join(text)], _annotations(text, self.size, seed) if split != "train" else [], {})

    def draw(self, split: str, number: int) -> Image.Image:
        seed = string_seed(self.seed, split, number)
        return draw_string(sample_string(self.seed, split, number), self.size, seed)


def string_seed(seed: int, split: str, number: int) -> str:
    return f"strings {seed} {split} {number}"


def sample_string(seed: int, split: str, number: int) -> str:
    """Return the string of an image: an invented word, a number, or random characters, of those in its split."""
    rng = random.Random(string_seed(seed, split, number))
    while True:
        length = rng.choice(LENGTHS)
        text = rng.choice((_sample_word, _sample_number, _sample_characters))(rng, length)
        if split_of(text) == split:
            return text


def split_of(text: str) -> str:
    """Return the only split in which a string may occur."""
    return TENTHS[zlib.crc32(text.encode()) % len(TENTHS)]


def _sample_word(rng: random.Random, length: int) -> str:
    """Return alternating consonants and vowels, which can be pronounced."""
    kinds = rng.choice(((CONSONANTS, VOWELS), (VOWELS, CONSONANTS)))
    return "".join(rng.choice(kinds[i % 2]) for i in range(length))


def _sample_number(rng: random.Random, length: int) -> str:
    return str(rng.randrange(10 ** (length - 1), 10**length))


def _sample_characters(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(length))


class Layout(NamedTuple):
    """The typesetting of a string; lengths in pixels of the supersampled image."""

    font: str
    height: int  # of the font: one em
    starts: list[float]  # of every character, along the line
    matrix: tuple[float, float, float, float]  # slant and rotation: x, y on the line -> x, y in the image
    shift: tuple[float, float]  # added after that

    def transform(self, x: float, y: float) -> tuple[float, float]:
        """Map a point of the upright line, relative to the start of its base line, to the image."""
        a, b, c, d = self.matrix
        return a * x + b * y + self.shift[0], c * x + d * y + self.shift[1]


def sample_layout(rng: random.Random, text: str, side: int, heights: tuple[float, float] = FONT_HEIGHT) -> Layout:
    """Return a random font, height, rotation, slant and position with which the string lies within the image.

    `heights` are the smallest and the largest height of the font, as fractions of the side.
    """
    font, max_height = rng.choice(FONTS), rng.uniform(*heights) * side
    spacing, slant = rng.uniform(0, MAX_SPACING), rng.uniform(-MAX_SLANT, MAX_SLANT)
    angle = math.radians(rng.uniform(-MAX_ROTATION, MAX_ROTATION))
    sine, cosine = math.sin(angle), math.cos(angle)
    matrix = (cosine, -cosine * slant - sine, sine, cosine - sine * slant)  # slanted, then rotated
    room = side * (1 - 2 * MARGIN)
    height = round(max_height)
    while True:
        layout = Layout(font, height, _starts(read_font(font, height), text, spacing * height), matrix, (0.0, 0.0))
        xs, ys = zip(*(corner for box in boxes(layout, text) for corner in box), strict=True)
        box_width, box_height = max(xs) - min(xs), max(ys) - min(ys)
        if box_width <= room and box_height <= room:
            left, top = rng.uniform(0, room - box_width), rng.uniform(0, room - box_height)
            return layout._replace(shift=(side * MARGIN + left - min(xs), side * MARGIN + top - min(ys)))
        height = min(height - 1, int(height * room / max(box_width, box_height)))


def _starts(font: ImageFont.FreeTypeFont, text: str, spacing: float) -> list[float]:
    starts = [0.0]
    for character in text[:-1]:
        starts.append(starts[-1] + font.getlength(character) + spacing)
    return starts


def boxes(layout: Layout, text: str) -> list[list[tuple[float, float]]]:
    """Return the four corners of the bounding box of every character, in pixels of the supersampled image."""
    font, corners = read_font(layout.font, layout.height), []
    for character, start in zip(text, layout.starts, strict=True):
        left, top, right, bottom = font.getbbox(character, anchor="ls")
        box = ((left, top), (right, top), (right, bottom), (left, bottom))
        corners.append([layout.transform(start + x, y) for x, y in box])
    return corners


def _font_folder() -> Path:
    import matplotlib  # slow to import, and needed by this data set only

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(1024)
def read_font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """Return a font with the height of an em in pixels. Raises UserError if it cannot be read."""
    path = _font_folder() / f"{name}.ttf"
    try:
        path.stat()  # Pillow itself would go on to search the system's fonts for the name
        # All builds of Pillow have the basic layout, with or without raqm.
        return ImageFont.truetype(str(path), height, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ImportError) as error:
        raise UserError(
            f"{path}: matplotlib's font cannot be read ({error}); install matplotlib and Pillow again by pip"
        ) from None


def draw_string(text: str, size: int, seed: str) -> Image.Image:
    """Draw a string: RGB, size x size."""
    rng = random.Random(seed + " picture")  # another word would give other images
    layout = sample_layout(rng, text, SUPERSAMPLING * size)
    background, foreground = _sample_colours(rng)
    image = Image.new("RGB", (SUPERSAMPLING * size,) * 2, background)
    image.paste(foreground, mask=draw_mask(layout, text, SUPERSAMPLING * size))
    image = image.resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, MAX_BLUR))), np.float64)
    pixels = pixels + np.random.default_rng(rng.getrandbits(64)).normal(0, rng.uniform(0, MAX_NOISE), pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def draw_white(text: str, size: int, rng: random.Random, heights: tuple[float, float]) -> Image.Image:
    """Draw a string in white on black: mode L, size x size, laid out as `sample_layout` does."""
    side = SUPERSAMPLING * size
    mask = draw_mask(sample_layout(rng, text, side, heights), text, side)
    return mask.resize((size, size), Image.Resampling.BOX)


def draw_mask(layout: Layout, text: str, side: int) -> Image.Image:
    """Draw the mask of the characters, mode L, side x side: the upright line, then slanted and rotated."""
    font, (x, y) = read_font(layout.font, layout.height), (side // 8, side // 2)
    line = Image.new("L", (side * 5 // 4, side))
    draw = ImageDraw.Draw(line)
    for character, start in zip(text, layout.starts, strict=True):
        draw.text((x + start, y), character, 255, font, anchor="ls")
    (a, b, c, d), (right, down) = layout.matrix, layout.shift  # the determinant is 1
    inverse = (d, -b, x - d * right + b * down, -c, a, y + c * right - a * down)
    return line.transform((side, side), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def _sample_colours(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the RGB colours of background and text; either may be the brighter one."""
    while True:
        background, foreground = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(_brightness(background) - _brightness(foreground)) >= MIN_CONTRAST:
            return background, foreground


def _brightness(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]  # ITU-R BT.601


def _annotations(text: str, size: int, seed: str) -> list[dict[str, Any]]:
    """Return the annotations of a string: every character is a category, its bounding box the outline."""
    annotations = []
    layout = sample_layout(random.Random(seed + " picture"), text, SUPERSAMPLING * size)
    for character, corners in zip(text, boxes(layout, text), strict=True):
        box = [(x / SUPERSAMPLING, y / SUPERSAMPLING) for x, y in corners]
        xs, ys = zip(*box, strict=True)
        # Twice the area is the sum of the cross products of neighbouring corners.
        area = sum(x * v - u * y for (x, y), (u, v) in zip(box, [*box[1:], box[0]], strict=True)) / 2
        annotations.append(
            {
                "category_id": CHARACTERS.index(character) + 1,
                "segmentation": [[value for corner in box for value in corner]],
                "area": area,
                "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
                "iscrowd": 0,
            }
        )
    return annotations
