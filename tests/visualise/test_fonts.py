"""Text in figures: fonts that have its letters, and its direction."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager, rcParams
from PIL import Image

from caption.encoders.grid import FeatureGrid
from caption.visualise import fonts
from caption.visualise.figures import AttentionMaps, attention_figure, draw_attention
from caption.visualise.fonts import font_families, runs_from_right

STIX = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf")  # has の, which DejaVu Sans lacks
IMAGE = np.full((32, 32, 3), 255, np.uint8)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The files of the fonts that are installed: none, until a test adds some."""
    files: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    for function in (fonts._find, fonts._tell):
        function.cache_clear()
    yield files
    for function in (fonts._find, fonts._tell):
        function.cache_clear()


def maps(words: int) -> list[AttentionMaps]:
    return [AttentionMaps(np.full((words, 4), 0.25), FeatureGrid.even(2, 2, 32))]


def test_a_font_that_has_the_letters_is_found(
    installed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged one is passed over; English, and what the usual font has, need no other."""
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    installed += [str(tmp_path / "damaged.ttf"), STIX]
    assert font_families("犬 の")[:-1] == font_families("a café, كلب") == rcParams["font.family"]
    assert font_families("の")[-1] == "STIXGeneral"
    assert "fonts-noto-cjk" in capsys.readouterr().err  # of 犬
    draw_attention(IMAGE, ["a", "b"], maps(2), tmp_path / "usual.png")
    draw_attention(IMAGE, ["a", "の"], maps(2), tmp_path / "found.png")
    assert capsys.readouterr().err == ""
    assert Image.open(tmp_path / "found.png").size[0] == Image.open(tmp_path / "usual.png").size[0]


@pytest.mark.parametrize(
    ("text", "package"), [("一只狗", "fonts-noto-cjk"), ("개", "fonts-noto-cjk"), ("एक कुत्ता", "fonts-noto-core")]
)
def test_one_line_names_a_package_of_fonts_where_none_has_the_letters(
    text: str, package: str, installed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is drawn, and however often; matplotlib's own warning of each letter is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        for ending in ("png", "svg", "gif", "pdf"):
            draw_attention(IMAGE, text.split(), maps(len(text.split())), tmp_path / f"figure.{ending}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"such as Debian's package {package}") and installed == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("كلب يجري", True), ("כלב רץ", True), ("2 كلاب", True), ("a كلب", False), ("一只狗", False), ("12", False)],
)
def test_the_first_letter_tells_the_direction(text: str, expected: bool) -> None:
    assert runs_from_right(text) == expected


def test_panels_run_in_the_direction_of_the_caption() -> None:
    for words in (["two", "dogs"], ["كلب", "بني"]):
        figure = attention_figure(IMAGE, words, maps(2))
        figure.draw_without_rendering()
        places = {axis.get_title(): axis.get_position().x0 for axis in figure.axes}
        assert (places[""] < places[words[0]] < places[words[1]]) == (words[0] == "two")
        assert (places[""] > places[words[0]] > places[words[1]]) == (words[0] == "كلب")


def test_characters_stand_without_spaces_in_lines_as_wide_as_the_figure(installed: list[str]) -> None:
    installed.append(STIX)
    short, long = (attention_figure(IMAGE, ["の"] * count, maps(count), "") for count in (5, 130))
    assert short.get_suptitle() == "の" * 5
    lines = long.get_suptitle().split("\n")
    assert "".join(lines) == "の" * 130 and len(lines) > 1
    long.draw_without_rendering()
    assert long._suptitle.get_window_extent().width < long.bbox.width  # type: ignore[attr-defined]
