"""A homework's points: none where it is blank, all for the code as it is, fewer for any wrong answer."""

import csv
import io
import json
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from wrong_answers import WRONG_ANSWERS

from caption.errors import UserError
from course import grade
from course.__main__ import main
from course.blank import read_source, transplant
from course.grade import Result
from course.holes import HOLES
from course.tree import change, write_source
from course.worker import run_tests
from preprocess.workers import available_cpus

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
UNTIL_CLOSED, _OPEN_END = multiprocessing.Pipe(duplex=False)  # by the end of the tests


def fill(homework: Path, *names: str) -> None:
    """Write the answers to holes into a homework."""
    for function in (function for name in names for function in HOLES[name].functions):
        file, called = function.split("::")
        source = read_source(homework / file)
        write_source(homework / file, transplant(source, called, read_source(ROOT / file)))


def edit(path: Path, old: str, new: str) -> None:
    text = read_source(path)
    assert text.count(old) == 1, old
    write_source(path, text.replace(old, new))


@pytest.mark.slow
def test_a_homework_half_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One answer is right, one wrong, one blank, one file is not Python any more, and one imports what has the answer.
    Each costs what it is, whatever was done to the tests; an endless loop costs its hole alone."""
    homework = tmp_path / "homework"
    names = "additive_score,soft_context,gate,lstm_cell,doubly_stochastic,beam,bleu"
    main(["make", "--output", str(homework), "--holes", names])
    fill(homework, "additive_score", "lstm_cell", "bleu")
    reference = homework / "caption/ops/reference.py"
    edit(reference, "i, f, o, g = torch.split", "i, f, g, o = torch.split")
    endless = 'raise NotImplementedError("attention_weights is yours to write: hole soft_context")'
    edit(reference, endless, "while True:\n        pass")
    reference.write_bytes(b"\xef\xbb\xbf" + reference.read_bytes().replace(b"\n", b"\r\n"))  # as an editor may leave it
    exits = 'raise NotImplementedError("doubly_stochastic is yours to write: hole doubly_stochastic")'
    edit(homework / "caption/training/losses.py", exits, "import os\n    os._exit(0)")
    edit(homework / "caption/search.py", 'raise NotImplementedError("best_continuations', 'return (raise("')
    edit(homework / "caption/evaluation/bleu.py", "from functools import partial\n", "import nltk\n")
    shutil.rmtree(homework / "tests")
    capsys.readouterr()
    main(["grade", str(homework), "--json", "--holes", names.replace("soft_context,", "")])
    found = {item["hole"]: item for item in json.loads(capsys.readouterr().out)}
    points = {name: item["points"] for name, item in found.items()}
    zero = dict.fromkeys(("gate", "lstm_cell", "doubly_stochastic", "beam", "bleu"), 0)
    assert points == {"additive_score": 10, **zero}
    reasons = {name: item["reason"] for name, item in found.items()}
    assert reasons["additive_score"] == ""
    assert "NotImplementedError: gate_context is yours to write: hole gate" in reasons["gate"]
    assert reasons["lstm_cell"].startswith("test_lstm_cell_is_pytorch_s: Tensor-likes are not close!")
    ended = "test_doubly_stochastic_by_hand: the process ended with exit code 0 before the test had"
    assert reasons["doubly_stochastic"] == ended
    assert reasons["beam"].startswith("caption/search.py, line ") and "syntax" in reasons["beam"]
    line = read_source(homework / "caption/evaluation/bleu.py").split("\n").index("import nltk") + 1
    assert reasons["bleu"].startswith(f"caption/evaluation/bleu.py, line {line}: imports nltk")
    main(["grade", str(homework), "--csv", "--holes", "soft_context", "--time-limit", "1"])
    assert capsys.readouterr().out == f"folder,soft_context,total\n{homework},0,0\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_every_process_and_sigterm_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    """Even while a loop of a student's never returns to Python, but where the grader itself is killed; and the holes
    that wait are not begun."""
    homework, temporary, fifo = tmp_path / "homework", tmp_path / "temporary", tmp_path / "fifo"
    temporary.mkdir()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    file = homework / "caption/ops/reference.py"
    file.parent.mkdir(parents=True)
    endless = "sum(iter(int, 1))" if number == signal.SIGTERM else "while True: pass"
    begun = f"open_until_the_end = open({str(fifo)!r}, 'w')\nprint('begun', file=open_until_the_end, flush=True)\n"
    file.write_text(f"{read_source(ROOT / 'caption/ops/reference.py')}\n{begun}{endless}\n")
    command = [sys.executable, "-m", "course", "grade", str(homework), "--holes", "gate,lstm_cell", "--workers", "1"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as grader:
        assert select.select([reader], [], [], 90)[0] and os.read(reader, 100) == b"begun\n"
        grader.send_signal(number)
        _, said = grader.communicate(
            timeout=20
        )  # the grader and what it started, but for the hole's process, closed it
    assert (
        select.select([reader], [], [], 20)[0] and os.read(reader, 100) == b""
    )  # so did the hole's process, and no other
    os.close(reader)
    if number == signal.SIGTERM:
        assert (grader.returncode, said, [*temporary.iterdir()]) == (130, b"", [])


def test_what_cannot_be_graded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder to grade; give one that `python -m course make` made"):
        main(["grade"])
    with pytest.raises(UserError, match="nowhere: is no folder; give one"):
        main(["grade", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="holds no folder caption; give the folder that"):
        main(["grade", str(tmp_path)])
    (tmp_path / "caption").mkdir()
    with pytest.raises(UserError, match="there is no hole 'beams'; known: additive_score"):
        main(["grade", str(tmp_path), "--holes", "beams"])
    with pytest.raises(UserError, match="--time-limit is 0.0, but must be above 0"):
        main(["grade", str(tmp_path), "--time-limit", "0"])
    with pytest.raises(UserError, match="give one of them"):
        main(["grade", str(tmp_path), "--json", "--csv"])


def test_files_beside_the_folders_are_named_and_stop_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anna, notes = tmp_path / "anna", tmp_path / "notes.txt"
    (anna / "caption").mkdir(parents=True)
    notes.touch()
    main(["grade", str(anna), str(notes), "--holes", "beam", "--csv"])
    shown = capsys.readouterr()
    assert shown.out == f"folder,beam,total\n{anna},0,0\n"
    assert shown.err == f"{notes}: is no folder, and is not graded\n"
    with pytest.raises(UserError, match=r"notes.txt: is no folder; give one that"):
        main(["grade", str(notes)])


def test_a_hole_that_a_folder_was_made_without_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its points are for our own code."""
    for name, content in (("anna", '{"holes": ["gate"]}'), ("bo", '{"holes": ["gate", "beam"]}'), ("cem", "lost")):
        (tmp_path / name / "caption").mkdir(parents=True)
        (tmp_path / name / "homework.json").write_text(content)
    folders = [str(tmp_path / name) for name in ("anna", "bo", "cem")]
    said = f"{tmp_path / 'anna'}: was made without the hole beam, whose points are for our own code\n"
    main(["grade", *folders, "--holes", "beam,gate"])
    assert capsys.readouterr().err == said
    main(["grade", *folders])
    assert capsys.readouterr().err == said
    main(["grade", folders[0]])
    assert capsys.readouterr().err == ""


def test_both_graders_refuse_the_same_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a homework, where the only file is the student's own, knows what the file imported when it was made."""
    file, own = "caption/ops/reference.py", HOLES["lstm_cell"].functions
    main(["make", "--holes", "lstm_cell", "--output", str(tmp_path / "homework")])
    fill(tmp_path / "homework", "lstm_cell")
    for root in (ROOT, tmp_path / "homework"):
        monkeypatch.setattr(grade, "ROOT", root)
        assert grade.student_source(tmp_path / "homework", file, own)
    edit(tmp_path / "homework" / file, "import torch\n", "import nltk\nimport torch\n")
    for root in (ROOT, tmp_path / "homework"):
        monkeypatch.setattr(grade, "ROOT", root)
        with pytest.raises(grade.Unusable, match="imports nltk, which a solution must do without"):
            grade.student_source(tmp_path / "homework", file, own)


def test_a_file_that_is_lost_or_lacks_its_function_costs_its_holes(tmp_path: Path) -> None:
    lost = grade.grade(tmp_path, "beam", tmp_path, 1.0, UNTIL_CLOSED)
    assert (lost.points, lost.of, lost.reason) == (0, 15, "caption/search.py is missing")
    (tmp_path / "caption").mkdir()
    for content, reason in (
        (b"def other(): pass", "caption/search.py: the function best_continuations is gone"),
        (b"\xff", "caption/search.py cannot be read as Python: 'utf-8' codec can't decode"),
        (b"x = '\0'", "caption/search.py cannot be read as Python: "),
        (b"(" * 5000, "caption/search.py, line 1: "),
    ):
        (tmp_path / "caption/search.py").write_bytes(content)
        found = grade.grade(tmp_path, "beam", tmp_path, 1.0, UNTIL_CLOSED).reason
        assert found.startswith(reason) or content == b"x = '\0'"


def test_points_are_printed_as_a_list_a_table_and_comma_separated_values() -> None:
    results = [
        Result(folder, hole, points, of, 1, 4, reason)
        for folder in ("anna", "submissions/bo, b")
        for hole, points, of, reason in (("gate", 2.5, 5, "test_x: assert 1 == 2"), ("lstm_cell", 10.0, 10, ""))
    ]
    assert grade.to_list(results[:2]) == (
        "gate         2.5 of 5  1 of 4 tests  test_x: assert 1 == 2\n"
        "lstm_cell    10 of 10  1 of 4 tests\n"
        "total      12.5 of 15"
    )
    assert grade.to_table(results) == (
        "folder             gate  lstm_cell  total\n"
        "anna                2.5         10   12.5\n"
        "submissions/bo, b   2.5         10   12.5\n"
        "of                    5         10     15"
    )
    rows = [*csv.reader(io.StringIO(grade.to_csv(results)))]
    assert rows == [["folder", "gate", "lstm_cell", "total"], ["anna", "2.5", "10", "12.5"],
                    ["submissions/bo, b", "2.5", "10", "12.5"]]  # fmt: skip


def test_the_holes_are_those_that_any_folder_was_made_with(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for folder, content in zip(folders, ('{"holes": ["bleu", "gate"]}', '{"holes": ["beam"]}', "[", "[]"), strict=True):
        folder.mkdir()
        (folder / "homework.json").write_text(content)
    assert grade.made_with(folders) == ["gate", "beam", "bleu"]
    assert grade.made_with(folders[2:]) == list(HOLES)


# The whole matrix: every hole blank, as it is, in a homework, and answered wrongly.


def graded(jobs: list[Callable[[Path], T]], tmp_path: Path) -> list[T]:
    """Run jobs that begin with the tree of all tests, as many at a time as there are processors."""
    base = grade.prepare(tmp_path, list(HOLES))
    with ThreadPoolExecutor(available_cpus()) as pool:
        return list(pool.map(lambda job: job(base), jobs))


def answer(folder: Path, name: str, change: Callable[[Path], None]) -> Callable[[Path], Result]:
    """A job that grades one hole in a folder with its files as they are, but for a change."""
    for file in HOLES[name].files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    change(folder)
    return lambda base: grade.grade(folder, name, base, 120.0, UNTIL_CLOSED)


@pytest.mark.slow
def test_every_hole_has_all_points_as_it_is_and_loses_points_for_every_wrong_answer(tmp_path: Path) -> None:
    cases = [(name, wrong) for name, answers in WRONG_ANSWERS.items() for wrong in [None, *answers]]
    jobs = [
        answer(
            tmp_path / str(number),
            name,
            lambda folder, wrong=wrong: edit(folder / wrong.file, wrong.right, wrong.wrong) if wrong else None,
        )
        for number, (name, wrong) in enumerate(cases)
    ]
    results = graded(jobs, tmp_path)
    right = {name: result for (name, wrong), result in zip(cases, results, strict=True) if wrong is None}
    assert {name: (result.points, result.reason) for name, result in right.items()} == {
        name: (hole.points, "") for name, hole in HOLES.items()
    }
    wrong = [(f"{name}: {case.name}", r) for (name, case), r in zip(cases, results, strict=True) if case is not None]
    assert [case for case, result in wrong if not result.points < result.of] == []
    assert all(result.reason.startswith("test_") for _, result in wrong)


@pytest.mark.slow
def test_a_homework_is_written_from_the_top(tmp_path: Path) -> None:
    """A blank function passes no test; and the tests of a hole need the holes above it, but nothing below, so that they
    pass in a homework that is written so far."""
    homework = tmp_path / "homework"
    main(["make", "--output", str(homework)])

    def written_to(name: str) -> Callable[[Path], dict[str, str]]:
        def run(base: Path) -> dict[str, str]:
            tree = tmp_path / name / "tree"
            shutil.copytree(base, tree)
            for below in list(HOLES)[list(HOLES).index(name) + 1 :]:
                for function in HOLES[below].functions:
                    change(tree, function, "raise NotImplementedError")
            return run_tests(tree, [], HOLES[name].tests, 120.0, UNTIL_CLOSED)

        return run

    blank = [lambda base, name=name: grade.grade(homework, name, base, 120.0, UNTIL_CLOSED) for name in HOLES]
    results = graded([*blank, *map(written_to, HOLES)], tmp_path)
    for result in results[: len(HOLES)]:
        assert (result.points, result.passed) == (0, 0) and "yours to write" in result.reason
    assert [reason for reasons in results[len(HOLES) :] for reason in reasons.values() if reason] == []


@pytest.mark.slow
def test_a_finished_homework_captions_and_trains(tmp_path: Path) -> None:
    """A trained model says by the student's functions what it says by ours, and the homework's own grader agrees."""
    homework = tmp_path / "homework"
    main(["make", "--output", str(homework)])
    fill(homework, *HOLES)
    picture = "--checkpoint pretrained/shapes --image examples/photos/shapes.png --beam-size 3 --json".split()
    said = [json.loads(run("caption_image.py", *picture, cwd=folder)) for folder in (ROOT, homework)]
    assert said[0]["caption"] == said[1]["caption"] and len(said[0]["caption"].split()) > 5
    (result,) = json.loads(run("-m", "course", "grade", ".", "--json", "--holes", "gate", cwd=homework))
    assert (result["points"], result["reason"]) == (HOLES["gate"].points, "")
    small = "--output shapes.h5 --count 40 10 10 --size 32".split()
    run("-m", "preprocess", "shapes", *small, cwd=homework)
    run("train.py", "shapes-soft", "--data", "shapes.h5", "--output", "run", "--training.epochs", "1", cwd=homework)
    edit(
        homework / "caption/ops/reference.py",
        "    i, f, o, g = torch.split",
        '    raise ValueError("here")\n    i, f, o, g = torch.split',
    )
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        run("caption_image.py", *picture, cwd=homework)
    assert "in lstm_cell" in stopped.value.stderr and "ValueError: here" in stopped.value.stderr


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout
