"""A set to learn reading on, drawn from a seed: a string of letters and digits in a picture, and where each stands.

The caption is the string, a word a character ("k u b a 4 2"), so that vocabulary, search and scores are those of any
other set. Which split a string belongs to is told by its own digest: none of train is in val or test, whatever the
counts and the seed.
"""

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from caption.progress import ProgressBar
from preprocess.synthetic import Drawn, file_name, image_id, split_and_number, write_drawn

LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
CHARACTERS = LETTERS + DIGITS
VOWELS = "aeiou"
CONSONANTS = "".join(letter for letter in LETTERS if letter not in VOWELS)
LENGTHS = (2, 3, 4, 5, 6)  # characters in a string
TENTHS = {"train": 8, "val": 1, "test": 1}  # of all strings there are

# Of those that come with every matplotlib from 3.9 on, the ones in which 1 and l differ in a small picture.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "cmss10",
)  # fmt: skip

LARGER = 4  # drawn so many times as large, for smooth edges
EM = (0.24, 0.42)  # height of a font, as a share of the side; less where the string would not fit
MARGIN = 0.04  # at every edge, as a share of the side
SPACING = 0.1  # most that stands between two characters beyond what the font wants, in em
TURN = 8.0  # degrees, most
SLANT = 0.2  # most that a line leans to the right or the left for each of its height
CONTRAST = 90  # least difference of brightness between text and ground, of 255
BLUR = 0.6  # most, standard deviation in pixels
NOISE = 14.0  # most, standard deviation of 255


@dataclass(frozen=True, kw_only=True)
class Strings(Drawn):
    """A synthetic set of short strings to read; where the characters of val and test stand is told in OUTPUT's name +
    _instances.json."""

    count: tuple[int, int, int] = (40000, 1000, 1000)
    """Pictures to train, validate and test."""

    def run(self) -> None:
        self.check()
        for name in FONTS:
            read_font(name, 16)
        texts = [(split, number, make_string(self.seed, split, number)) for split, number in self.numbers()]
        instances = instance_file([each for each in texts if each[0] != "train"], self.size, self.seed)
        captioned = ((split, number, [" ".join(text)]) for split, number, text in texts)
        write_drawn(self, "strings", captioned, partial(draw_named, seed=self.seed, size=self.size), instances)


def draw_named(name: str, seed: int, size: int) -> Image.Image:
    """The picture of that file name."""
    split, number = split_and_number(name)
    return draw_string(make_string(seed, split, number), size, string_seed(seed, split, number))


def string_seed(seed: int, split: str, number: int) -> str:
    return f"strings {seed} {split} {number}"


def make_string(seed: int, split: str, number: int) -> str:
    """The string of a picture: an invented word, a number, or any characters; drawn until it is one of its split."""
    chance = random.Random(string_seed(seed, split, number))
    while True:
        length = chance.choice(LENGTHS)
        text = chance.choice((_word, _number, _any))(chance, length)
        if split_of(text) == split:
            return text


def split_of(text: str) -> str:
    """The only split in which a string is found."""
    shares = [split for split in SPLITS for _ in range(TENTHS[split])]
    return shares[zlib.crc32(text.encode()) % len(shares)]


def _word(chance: random.Random, length: int) -> str:
    """Consonants and vowels in turn, so that it can be pronounced."""
    kinds = chance.choice(((CONSONANTS, VOWELS), (VOWELS, CONSONANTS)))
    return "".join(chance.choice(kinds[i % 2]) for i in range(length))


def _number(chance: random.Random, length: int) -> str:
    return str(chance.randrange(10 ** (length - 1), 10**length))


def _any(chance: random.Random, length: int) -> str:
    return "".join(chance.choice(CHARACTERS) for _ in range(length))


class Layout(NamedTuple):
    """How a string is set; lengths in pixels of the large drawing."""

    font: str
    height: int  # of the font, one em
    starts: list[float]  # where each character begins on the line
    matrix: tuple[float, float, float, float]  # turn and slant: x, y of the line -> x, y of the picture
    shift: tuple[float, float]  # added after that

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point of the upright line, its beginning on the base line being (0, 0) -> the point of the picture."""
        a, b, c, d = self.matrix
        return a * x + b * y + self.shift[0], c * x + d * y + self.shift[1]


def lay_out(chance: random.Random, text: str, side: int) -> Layout:
    """A font, its height, turn and slant, and a place where all of the string is within the picture."""
    font, wanted = chance.choice(FONTS), chance.uniform(*EM) * side
    spacing, slant = chance.uniform(0, SPACING), chance.uniform(-SLANT, SLANT)
    angle = math.radians(chance.uniform(-TURN, TURN))
    sine, cosine = math.sin(angle), math.cos(angle)
    matrix = (cosine, -cosine * slant - sine, sine, cosine - sine * slant)  # slanted, then turned
    room = side * (1 - 2 * MARGIN)
    height = round(wanted)
    while True:
        layout = Layout(font, height, _starts(read_font(font, height), text, spacing * height), matrix, (0.0, 0.0))
        across, down = zip(*(corner for box in boxes(layout, text) for corner in box), strict=True)
        wide, high = max(across) - min(across), max(down) - min(down)
        if wide <= room and high <= room:
            left, top = chance.uniform(0, room - wide), chance.uniform(0, room - high)
            margin = side * MARGIN
            return layout._replace(shift=(margin + left - min(across), margin + top - min(down)))
        height = min(height - 1, int(height * room / max(wide, high)))


def _starts(font: ImageFont.FreeTypeFont, text: str, spacing: float) -> list[float]:
    starts = [0.0]
    for character in text[:-1]:
        starts.append(starts[-1] + font.getlength(character) + spacing)
    return starts


def boxes(layout: Layout, text: str) -> list[list[tuple[float, float]]]:
    """The four corners of the ink of every character, in pixels of the large drawing."""
    font, found = read_font(layout.font, layout.height), []
    for character, start in zip(text, layout.starts, strict=True):
        left, top, right, bottom = font.getbbox(character, anchor="ls")
        corners = ((left, top), (right, top), (right, bottom), (left, bottom))
        found.append([layout.place(start + x, y) for x, y in corners])
    return found


@cache
def _font_folder() -> Path:
    import matplotlib  # takes a while, and only this set needs it

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(1024)
def read_font(name: str, height: int) -> ImageFont.FreeTypeFont:
    """A font of so many pixels an em. Raises UserError when it is not there."""
    path = _font_folder() / f"{name}.ttf"
    try:
        path.stat()  # Pillow itself would go on to look for the name among the system's fonts
        # The basic layout is that of every Pillow, with and without raqm.
        return ImageFont.truetype(str(path), height, layout_engine=ImageFont.Layout.BASIC)
    except (OSError, ImportError) as error:
        raise UserError(
            f"{path}: matplotlib's font cannot be read ({error}); install matplotlib and Pillow once more by pip"
        ) from None


def draw_string(text: str, size: int, seed: str) -> Image.Image:
    """The picture: RGB, size x size, edges smoothed by drawing four times as large."""
    chance = random.Random(seed + " picture")
    layout = lay_out(chance, text, LARGER * size)
    ground, ink = _colours(chance)
    picture = Image.new("RGB", (LARGER * size,) * 2, ground)
    picture.paste(ink, mask=_ink(layout, text, LARGER * size))
    picture = picture.resize((size, size), Image.Resampling.BOX)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(chance.uniform(0, BLUR))), np.float64)
    pixels = pixels + np.random.default_rng(chance.getrandbits(64)).normal(0, chance.uniform(0, NOISE), pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _ink(layout: Layout, text: str, side: int) -> Image.Image:
    """Where there is ink: mode L, the large drawing. The line is drawn upright, then turned and slanted."""
    font, (x, y) = read_font(layout.font, layout.height), (side // 8, side // 2)
    line = Image.new("L", (side * 5 // 4, side))
    draw = ImageDraw.Draw(line)
    for character, start in zip(text, layout.starts, strict=True):
        draw.text((x + start, y), character, 255, font, anchor="ls")
    (a, b, c, d), (right, down) = layout.matrix, layout.shift  # its determinant is 1
    back = (d, -b, x - d * right + b * down, -c, a, y + c * right - a * down)
    return line.transform((side, side), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)


def _colours(chance: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of ground and ink, either of them the brighter."""
    while True:
        ground, ink = (tuple(chance.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(_brightness(ground) - _brightness(ink)) >= CONTRAST:
            return ground, ink


def _brightness(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]  # ITU-R BT.601


def instance_file(texts: Sequence[tuple[str, int, str]], size: int, seed: int) -> dict[str, Any]:
    """COCO's instance format: a category a character, and as its outline the corners of its ink's box."""
    images, annotations = [], []
    for split, number, text in ProgressBar(texts, "boxes", "pictures"):
        identity, name = image_id(split, number), file_name("strings", split, number)
        images.append({"id": identity, "file_name": name, "width": size, "height": size, "split": split})
        chance = random.Random(string_seed(seed, split, number) + " picture")
        found = boxes(lay_out(chance, text, LARGER * size), text)
        for i, (character, corners) in enumerate(zip(text, found, strict=True)):
            annotations.append(_annotation(character, [(x / LARGER, y / LARGER) for x, y in corners], identity, i))
    categories = [{"id": i, "name": name, "supercategory": "character"} for i, name in enumerate(CHARACTERS, 1)]
    info = {"description": "strings", "seed": seed}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _annotation(character: str, corners: Sequence[tuple[float, float]], image: int, number: int) -> dict[str, Any]:
    across, down = zip(*corners, strict=True)
    wide, high = max(across) - min(across), max(down) - min(down)
    # Twice the area is the sum of the cross products of neighbouring corners.
    area = sum(x * v - u * y for (x, y), (u, v) in zip(corners, [*corners[1:], corners[0]], strict=True)) / 2
    return {
        "id": 10 * image + number + 1,
        "image_id": image,
        "category_id": CHARACTERS.index(character) + 1,
        "segmentation": [[value for corner in corners for value in corner]],
        "area": area,
        "bbox": [min(across), min(down), wide, high],
        "iscrowd": 0,
    }
