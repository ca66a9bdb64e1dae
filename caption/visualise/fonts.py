"""Fonts and directions of text in figures."""

import re
import sys
import unicodedata
from functools import cache
from pathlib import Path

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

STYLED = re.compile("bold|black|heavy|light|thin|italic|oblique|mono|condensed", re.IGNORECASE)  # in names of files
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")  # in names of characters


def font_families(text: str) -> list[str]:
    """Return the font families for a text: matplotlib's own, then installed ones that have the letters which it lacks.

    If there are none, a line on stderr, once, names a package to install.
    """
    usual = list(rcParams["font.family"])
    if text.isascii():
        return usual
    letters = {character for character in text if unicodedata.category(character)[0] in "LM"}
    lacking = letters - _covered(font_manager.findfont(font_manager.FontProperties(family=usual)), letters)
    return [*usual, *_find(frozenset(lacking))] if lacking else usual


@cache
def _find(letters: frozenset[str]) -> list[str]:
    """Return the families of installed fonts that together have the letters: of those that have the most, an upright
    sans-serif one. matplotlib's own list of fonts would lack those that were installed since it was made."""
    paths = sorted(
        font_manager.findSystemFonts(),
        key=lambda path: (bool(STYLED.search(Path(path).stem)), "sans" not in path.lower(), path),
    )
    lacking, families = set(letters), []
    while lacking:
        covered = {path: _covered(path, lacking) for path in paths}
        best = max(paths, key=lambda path: len(covered[path]), default="")
        if not best or not covered[best]:
            for east_asian in {unicodedata.name(letter, "").startswith(EAST_ASIAN) for letter in lacking}:
                _tell("fonts-noto-cjk" if east_asian else "fonts-noto-core")
            break
        font_manager.fontManager.addfont(best)
        families.append(FT2Font(best).family_name)
        lacking -= covered[best]
    return families


def _covered(path: str, letters: set[str]) -> set[str]:
    """Return those of the letters that a font has; none if it cannot be read."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}


@cache
def _tell(package: str) -> None:
    print(
        "no installed font has all letters of the captions, so that figures show boxes; install one that has, such as "
        f"Debian's package {package}",
        file=sys.stderr,
    )


def runs_from_right(text: str) -> bool:
    """Return whether a text is written from right to left, as its first letter tells (rule P2 of UAX #9)."""
    strong = (kind for kind in map(unicodedata.bidirectional, text) if kind in ("L", "R", "AL"))
    return next(strong, "L") != "L"
