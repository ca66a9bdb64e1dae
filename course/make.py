"""`python -m course make`: a homework from the code as it is, in which the functions of some holes are blank."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path

from caption.errors import UserError
from caption.files import atomic_folder
from course.blank import first_line, functions, imported, read_source
from course.holes import HOLES, Hole, choose, graders
from course.tree import TWIN, change, copy, write_tree

MANIFEST = "homework.json"  # the names of the holes, and the packages that their files import
PROGRAMS = ("train.py", "evaluate.py", "caption_image.py")
# What a student needs beside the packages and the tests: the programs, the grader, and a model and an image to try.
REST = (*PROGRAMS, "course", "requirements.txt", "LICENSE", "pretrained/shapes", "examples/photos/shapes.png")


@dataclass(frozen=True)
class Make:
    """Make a homework: a copy of the code in which chosen functions are blank, with their tests and a README."""

    output: str
    """The folder to make."""
    holes: str = ""
    """Holes to leave blank, separated by commas; left out: all. A name that does not exist lists those that do."""

    def run(self) -> None:
        names = choose(self.holes)
        folder = Path(self.output)
        if folder.exists():
            raise UserError(f"--output {folder}: exists already; give the name of a new folder, or move that one away")
        with atomic_folder(folder) as part:
            make(part, names)
        print(
            f"{folder}: {len(names)} hole{'s' * (len(names) > 1)}, {sum(HOLES[name].points for name in names)} points"
        )
        for name in names:
            print(f"  {name}: {', '.join(places(folder, HOLES[name]))}")
        print(f"the students' sheet is {folder / 'README.md'}; to grade: python -m course grade {folder}")


def make(folder: Path, names: list[str]) -> None:
    """Fill an empty folder with a homework of these holes."""
    write_tree(folder, graders(names))
    for name in REST:
        copy(name, folder)
    for name in names:
        for function in HOLES[name].functions:
            message = f"{function.split('::')[1]} is yours to write: hole {name}"
            change(folder, function, f"raise NotImplementedError({message!r})".replace("'", '"'))
        for twin in HOLES[name].twins:
            change(folder, twin, TWIN)
    imports = {file: sorted(imported(read_source(folder / file))) for name in names for file in HOLES[name].files}
    manifest = json.dumps({"holes": names, "imports": imports})
    (folder / MANIFEST).write_text(f"{manifest}\n", encoding="utf-8")
    (folder / "README.md").write_text(sheet(folder, names), encoding="utf-8")


def places(folder: Path, hole: Hole) -> list[str]:
    """Return FILE:LINE and the name of each function of a hole."""
    found = []
    for function in hole.functions:
        file, name = function.split("::")
        found.append(f"{file}:{first_line(functions(read_source(folder / file))[name])} {name}")
    return found


def sheet(folder: Path, names: list[str]) -> str:
    """Return the students' sheet in Markdown: the rules, and each hole's functions, assignment, points and hint."""
    points = sum(HOLES[name].points for name in names)
    rows = [f"| [`{name}`](#{name}) | {HOLES[name].title} | {HOLES[name].points} |" for name in names]
    parts = [HEAD.replace("HOLE", names[-1]), "\n".join([TABLE, *rows, f"| | | {points} |"])]
    parts += [_assignment(folder, name) for name in names]
    return "\n\n".join([*parts, TAIL])


def _assignment(folder: Path, name: str) -> str:
    """Return the section of one hole."""
    hole = HOLES[name]
    lines = [f"## {name}", "", f"{hole.title}. {hole.points} points, {len(hole.tests)} tests.", ""]
    for function, place in zip(hole.functions, places(folder, hole), strict=True):
        file, called = function.split("::")
        where = place.split(" ")[0]
        docstring = ast.get_docstring(functions(read_source(folder / file))[called]) or ""
        lines += [f"`{called}` in [{where}]({file}#L{where.split(':')[1]}):", ""]
        lines += [f"> {line}".rstrip() for line in docstring.splitlines()]
        lines += [""]
    lines += [f"Hint: {hole.hint}", "", "Check it: `python -m course grade . --holes " + name + "`"]
    tests = "\n".join(f"- `{test}`" for test in hole.tests)
    return "\n".join([*lines, "", "Its tests, the equation first:", "", tests])


TABLE = "| hole | | points |\n|---|---|---|"
HEAD = """# Homework: Show, Attend and Tell

The model of *Show, Attend and Tell: Neural Image Caption Generation with Visual Attention* (Xu et al., 2015,
[arXiv:1502.03044](https://arxiv.org/abs/1502.03044)), without the functions below: each of them raises
`NotImplementedError` and is yours to write. Its signature and docstring are the assignment.

Shapes are in these letters: B images, Q rows of each (captions in training, beams in search), L regions of an image, T
steps, D width of a region, A of a key, H of the LSTM's state, E of a word's embedding, V words.

## Begin

    python3 -m venv .venv
    source .venv/bin/activate
    pip install -r requirements.txt pytest
    python -m course grade .                    # your points so far
    python -m course grade . --holes HOLE       # of one hole, in some seconds

Work from the top of the table to its end: here the other functions of a test are your own, too. Your teacher's grader
runs the same tests with everything else filled in, so that there a hole costs no points but its own. To print from your
code, or to see a whole traceback, run a test itself: `python -m pytest NAME`, with the names below.

## Rules

1. Write the body of the functions of the table, in the files where they are. Helper functions may stand beside them in
   the same file; other files are not read.
2. Leave signatures as they are. Import nothing but the standard library, NumPy, PyTorch and what the file imports
   already.
3. The tests in `tests/` are for you: changing them changes nothing, since the grader brings its own.
4. The first test of a hole is the equation itself: without it, the hole has no points. Otherwise each of its tests
   brings the same part of them.
5. An endless loop costs its own hole. A syntax error costs all holes in its file: grade once more before you hand in.
6. This code runs on the equations of `caption/ops/reference.py` alone. The fast backends are left out, and so are a few
   functions elsewhere that hold the same equation as one of yours; they say so when called, and are not yours to write.

## The holes"""
TAIL = """## When you are done

A trained model runs on your functions: this one looks at coloured shapes, with your code in place of what was left out,
and draws where it attended at each word.

    python caption_image.py --checkpoint pretrained/shapes --image examples/photos/shapes.png --beam-size 3 \\
                            --output mine.png

And it learns with them, from nothing, in some minutes (`--training.epochs 3` for a first look):

    python -m preprocess shapes --output data/shapes.h5 --save-images data/shapes-test
    python train.py shapes-soft --data data/shapes.h5 --output runs/mine
    python evaluate.py --checkpoint runs/mine/best.pt --data data/shapes.h5 --split test --beam-size 3 \\
                       --instances data/shapes_instances.json --report runs/mine/report

`shapes-hard` trains hard attention. A function that is still blank stops these programs with its name.
"""
