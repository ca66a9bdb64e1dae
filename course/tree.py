"""A copy of the code in which the equations of `caption/ops/reference.py` are computed by nothing else.

The fast backends hold the same equations, and would stand in for a student's function: here they are empty or left out,
and the switch that chooses them stays off. So is the page that computes the decoder in a browser.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from course.blank import blank, empty, read_source

ROOT = Path(__file__).parents[1]
EMPTIED = ("caption/ops/cpu.py", "caption/ops/exp_tanh.py", "caption/ops/triton.py")
EXPLORER = "caption/explore.py::explorable"
# Read or imported by the emptied files, and by the explorer, alone.
LEFT_OUT = ("caption/ops/kernels.c", "caption/ops/triton_kernels.py", "caption/visualise/assets/decoder.js")
SWITCH = "caption/ops/switch.py::fast"
OFF = "return False  # the fast backends are left out of the homework"
TWIN = 'raise NotImplementedError("left out of the homework: it holds the equation of a function to write")'
COMMON = ("pyproject.toml", "tests/conftest.py")  # beside the packages, what the tests need


def write_tree(folder: Path, tests: Iterable[str]) -> None:
    """Copy the packages without their fast backends, and these files of tests, into a folder that exists."""
    for package in ("caption", "preprocess"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in (*COMMON, *tests):
        copy(name, folder)
    for name in LEFT_OUT:
        (folder / name).unlink(missing_ok=True)
    for name in EMPTIED:
        write_source(folder / name, empty(read_source(ROOT / name), "A fast backend, left out of the homework."))
    change(folder, SWITCH, OFF)
    change(folder, EXPLORER, TWIN)


def copy(name: str, folder: Path) -> None:
    """Copy a file or a folder of ours to the same place below a folder."""
    source, target = ROOT / name, folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copyfile(source, target)


def change(folder: Path, function: str, statement: str) -> None:
    """Blank a function, FILE::NAME below a folder, but for one statement."""
    file, name = function.split("::")
    write_source(folder / file, blank(read_source(folder / file), name, statement))


def write_source(path: Path, text: str) -> None:
    """Write a file of Python in UTF-8 with plain newlines, and forget what Python had compiled from it."""
    path.write_text(text, encoding="utf-8", newline="\n")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
