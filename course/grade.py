"""`python -m course grade FOLDERS`: run our tests on the functions that students wrote, and count the points."""

import compileall
import contextlib
import csv
import io
import itertools
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from caption.config.validation import require
from caption.errors import UserError, one_line
from caption.progress import ProgressBar
from course import worker
from course.blank import functions, imported, read_source, transplant
from course.holes import HOLES, choose, graders
from course.make import MANIFEST
from course.tree import ROOT, TWIN, change, write_source, write_tree
from preprocess.workers import available_cpus

ALLOWED = {*sys.stdlib_module_names, "caption", "numpy", "torch"}  # what a student's file may import, beside our own


class Result(NamedTuple):
    """The points of one hole in one folder."""

    folder: str
    hole: str
    points: float
    of: int
    passed: int
    tests: int
    reason: str  # of the first test that did not pass


@dataclass(frozen=True)
class Grade:
    """Grade one homework, or one of each student. It runs their code: see docs/course.md."""

    folders: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders that `make` made and students worked in."""
    holes: str = ""
    """Holes to grade, separated by commas; left out: those that the folders were made with."""
    time_limit: float = 60.0
    """Seconds of processor time for the tests of one hole; what has no result by then has failed."""
    json: bool = False
    """Print every result as JSON."""
    csv: bool = False
    """Print the points as a table of comma-separated values, one line for each folder."""
    workers: int = field(default_factory=available_cpus)
    """Holes that are graded at the same time."""

    def run(self) -> None:
        require(self.time_limit > 0, "--time-limit", self.time_limit, "above 0")
        require(self.workers >= 1, "--workers", self.workers, "at least 1")
        if self.json and self.csv:
            raise UserError("--json and --csv are two ways to print the same; give one of them")
        folders = check_folders([Path(folder) for folder in self.folders])
        names = choose(self.holes) if self.holes else made_with(folders)
        for folder in folders:
            if ours := [name for name in names if name not in (holes_of(folder) or names)]:
                named = f"hole{'s' * (len(ours) > 1)} {', '.join(ours)}"
                print(f"{folder}: was made without the {named}, whose points are for our own code", file=sys.stderr)
        jobs = list(itertools.product(folders, names))
        with tempfile.TemporaryDirectory(prefix="course-") as scratch:
            base = prepare(Path(scratch), names)
            pool = ThreadPoolExecutor(self.workers)
            until_closed, open_end = multiprocessing.Pipe(duplex=False)
            try:
                graded = pool.map(lambda job: grade(job[0], job[1], base, self.time_limit, until_closed), jobs)
                results = list(ProgressBar(graded, "grade", "holes", length=len(jobs)))
            finally:  # when interrupted: children end at once, and no other hole is begun
                open_end.close()
                pool.shutdown(cancel_futures=True)
        if self.json:
            print(json.dumps([result._asdict() for result in results], indent=2, ensure_ascii=False))
        elif self.csv:
            print(to_csv(results), end="")
        else:
            print(to_table(results) if len(folders) > 1 else to_list(results))


def check_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folders among the paths, and name the files, which may stand beside them, on standard error.

    Raises UserError if there is no folder, if one does not exist, or if none of them can be a homework.
    """
    if not paths:
        raise UserError("no folder to grade; give one that `python -m course make` made, or several")
    folders = [path for path in paths if not path.is_file()]
    for path in folders or paths:
        if not path.is_dir():
            raise UserError(f"{path}: is no folder; give one that `python -m course make` made")
    for path in paths:
        if path.is_file():
            print(f"{path}: is no folder, and is not graded", file=sys.stderr)
    if not any((folder / "caption").is_dir() for folder in folders):
        raise UserError(f"{folders[0]}: holds no folder caption; give the folder that `python -m course make` made")
    return folders


def made_with(folders: Sequence[Path]) -> list[str]:
    """Return the holes that the folders were made with, in the order of HOLES; all, if no folder tells."""
    found = set().union(*map(holes_of, folders))
    return [name for name in HOLES if name in found] or list(HOLES)


def holes_of(folder: Path) -> set[str]:
    """Return the holes that a folder was made with; none, if it does not tell."""
    try:
        return set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["holes"])
    except (OSError, ValueError, KeyError, TypeError):  # a student may have lost it
        return set()


def prepare(scratch: Path, names: Sequence[str]) -> Path:
    """Make the tree that all grading of these holes begins with, and compile it once for all."""
    base = scratch.resolve() / "base"
    base.mkdir()
    write_tree(base, graders(names))
    compileall.compile_dir(base, quiet=2)
    return base


def grade(folder: Path, name: str, base: Path, time_limit: float, until_closed: Connection) -> Result:
    """Return the points of a hole in a folder. Its tests run in a copy of `base` with the student's files of this hole
    alone, in which the functions of all other holes are ours; they end when the pipe is closed, as `run_tests` says."""
    hole = HOLES[name]
    try:
        sources = {file: student_source(folder, file, hole.functions) for file in hole.files}
    except Unusable as error:
        return Result(str(folder), name, 0.0, hole.points, 0, len(hole.tests), str(error))
    with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(base, tree)
        for twin in hole.twins:
            with contextlib.suppress(SyntaxError):  # a file that is not Python, in a homework, holds no answer
                change(tree, twin, TWIN)
        for file, source in sources.items():
            write_source(tree / file, source)
        modules = [file.removesuffix(".py").replace("/", ".") for file in hole.files]
        reasons = worker.run_tests(tree, modules, hole.tests, time_limit, until_closed)
    passed = sum(not reason for reason in reasons.values())
    points = 0.0 if reasons[hole.tests[0]] else round(hole.points * passed / len(hole.tests), 1)
    first = next(filter(None, reasons.values()), "")
    return Result(str(folder), name, points, hole.points, passed, len(hole.tests), first)


class Unusable(Exception):
    """A student's file cannot be graded. The message says why, in one line."""


def student_source(folder: Path, file: str, own: Sequence[str]) -> str:
    """Return a student's file in which the functions of all holes but this one, whose functions are `own`, are ours.

    Raises Unusable if it is missing, if it is not Python, if it lacks a function, or if it imports what may hold the
    answer.
    """
    if not (folder / file).is_file():
        raise Unusable(f"{file} is missing")
    try:
        source, ours = read_source(folder / file), read_source(ROOT / file)
        defined, packages = functions(source), imported(source)
    except SyntaxError as error:
        raise Unusable(f"{file}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise Unusable(f"{file} cannot be read as Python: {one_line(error)}") from None
    for package in packages.keys() - ALLOWED - usual_imports(file, ours):
        raise Unusable(f"{file}, line {packages[package]}: imports {package}, which a solution must do without")
    for function in (function for hole in HOLES.values() for function in hole.functions):
        place, name = function.split("::")
        if place == file and name not in defined:
            raise Unusable(f"{file}: the function {name} is gone")
        if place == file and function not in own:
            source = transplant(source, name, ours)
    return source


def usual_imports(file: str, ours: str) -> set[str]:
    """Return the packages that a file imports in our code; in a homework, those that it did when it was made."""
    try:
        return set(json.loads((ROOT / MANIFEST).read_text(encoding="utf-8"))["imports"][file])
    except (OSError, ValueError, KeyError, TypeError):
        return set(imported(ours))


def to_list(results: Sequence[Result]) -> str:
    """Return the results of one folder, a hole a line, with the reason why points are missing."""
    width = max(len(result.hole) for result in results)
    lines = []
    for result in results:
        points = f"{result.points:g} of {result.of}"
        lines.append(
            f"{result.hole:{width}}  {points:>10}  {result.passed} of {result.tests} tests  {result.reason}".rstrip()
        )
    total = f"{sum(result.points for result in results):g} of {sum(result.of for result in results)}"
    return "\n".join([*lines, f"{'total':{width}}  {total:>10}"])


def to_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return the points as a table: a header, and a row for each folder with its total."""
    holes = list(dict.fromkeys(result.hole for result in results))
    rows = [["folder", *holes, "total"]]
    for folder, group in itertools.groupby(results, lambda result: result.folder):
        points = [result.points for result in group]
        rows.append([folder, *(f"{value:g}" for value in [*points, sum(points)])])
    return rows


def to_table(results: Sequence[Result]) -> str:
    """Return the points for a person to read, with what can be reached in the last line."""
    possible = {result.hole: result.of for result in results}
    rows = [*to_rows(results), ["of", *map(str, [*possible.values(), sum(possible.values())])]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    )


def to_csv(results: Sequence[Result]) -> str:
    """Return the points as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(to_rows(results))
    return text.getvalue()
