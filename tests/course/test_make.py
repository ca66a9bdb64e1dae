"""A homework is made from the code as it is, without the answers, completely or not at all."""

import json
import re
from pathlib import Path

import pytest

from caption.errors import UserError
from course import make as make_module
from course.__main__ import main
from course.blank import blank, functions, read_source
from course.holes import HOLES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def homework(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A homework of all holes."""
    folder = tmp_path_factory.mktemp("made") / "homework"
    main(["make", "--output", str(folder)])
    return folder


COMMON = ("torch.clear_autocast_cache()", "for word in (PAD, START):", "for reference in references:")  # no equations


def answer_lines(function: str) -> list[str]:
    """The lines of a function's body that are long enough to be its own, without comments."""
    file, name = function.split("::")
    source = read_source(ROOT / file)
    left = {line.strip() for line in blank(source, name, "pass").splitlines()}
    node = functions(source)[name]
    lines = [line.split("  #")[0].strip() for line in source.split("\n")[node.lineno : node.end_lineno]]
    return [line for line in lines if len(line) > 24 and line not in left and not line.startswith(COMMON)]


def test_no_line_of_an_answer_is_anywhere_in_a_homework(homework: Path) -> None:
    """Not in the file, and neither in another, nor in what the grader brings."""
    texts = {
        path: path.read_text(encoding="utf-8") for path in homework.rglob("*") if path.suffix in (".py", ".md", ".c")
    }
    ours = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("caption/**/*.py")}
    for hole in HOLES.values():
        for function in (*hole.functions, *hole.twins):
            assert answer_lines(function), function
            for line in answer_lines(function):
                assert any(line in text for text in ours.values())
                assert not [path for path, text in texts.items() if line in text], line


def test_what_is_not_blank_is_the_code_as_it_is(homework: Path) -> None:
    """Every file of the packages but those of a hole, of a twin, of a fast backend, the switch and the explorer."""
    changed = {
        path.relative_to(homework).as_posix()
        for folder in ("caption", "preprocess", "course", "tests")
        for path in (homework / folder).rglob("*.py")
        if path.read_bytes() != (ROOT / path.relative_to(homework)).read_bytes()
    }
    holes = {file.split("::")[0] for hole in HOLES.values() for file in (*hole.functions, *hole.twins)}
    assert changed == {*holes, "caption/ops/cpu.py", "caption/ops/exp_tanh.py", "caption/ops/triton.py",
                       "caption/ops/switch.py", "caption/explore.py"}  # fmt: skip
    left_out = {path.relative_to(ROOT) for path in ROOT.glob("caption/**/*.*") if "__pycache__" not in path.parts} - {
        path.relative_to(homework) for path in homework.glob("caption/**/*.*")
    }
    assert {path.name for path in left_out} == {"kernels.c", "triton_kernels.py", "decoder.js"}


def test_the_sheet_names_every_hole_with_its_line_and_points(homework: Path) -> None:
    sheet = (homework / "README.md").read_text(encoding="utf-8")
    for name, hole in HOLES.items():
        assert f"| [`{name}`](#{name}) | {hole.title} | {hole.points} |" in sheet and hole.hint in sheet
        for function in hole.functions:
            file, called = function.split("::")
            line = int(re.search(rf"`{called}` in \[{file}:(\d+)\]\({file}#L\1\)", sheet)[1])
            assert f"def {called.split('.')[-1]}(" in (homework / file).read_text().splitlines()[line - 1]
        for test in hole.tests:
            assert f"- `{test}`" in sheet and (homework / test.split("::")[0]).is_file()
    assert f"| | | {sum(hole.points for hole in HOLES.values())} |" in sheet
    manifest = json.loads((homework / "homework.json").read_text())
    assert manifest["holes"] == list(HOLES)
    assert "torch" in manifest["imports"]["caption/ops/reference.py"]


def test_a_homework_of_two_holes_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    main(["make", "--holes", "bleu,lstm_cell", "--output", str(tmp_path / "new" / "homework")])
    blanks = [
        f"{path.relative_to(tmp_path / 'new/homework').as_posix()}::{name}"
        for path in (tmp_path / "new/homework/caption").rglob("*.py")
        for name in re.findall(r'NotImplementedError\("([\w.]+) is yours to write', path.read_text())
    ]
    assert sorted(blanks) == sorted([*HOLES["bleu"].functions, *HOLES["lstm_cell"].functions])
    losses = "caption/training/losses.py"
    assert (tmp_path / "new/homework" / losses).read_bytes() == (ROOT / losses).read_bytes()


def test_mistakes_and_interruptions_leave_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "homework").mkdir()
    with pytest.raises(UserError, match="homework: exists already; give the name of a new folder"):
        main(["make", "--output", str(tmp_path / "homework")])
    with pytest.raises(UserError, match="there is no hole 'lstm'; known: additive_score"):
        main(["make", "--holes", "lstm", "--output", str(tmp_path / "other")])

    def interrupt(*_: object) -> str:
        assert len([*tmp_path.iterdir()]) == 2  # half of it is there
        raise KeyboardInterrupt

    monkeypatch.setattr(make_module, "sheet", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main(["make", "--output", str(tmp_path / "other")])
    assert [path.name for path in tmp_path.iterdir()] == ["homework"]
