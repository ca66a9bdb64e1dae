"""Every entry of the registry is held to the code: files, functions, docstrings and tests exist."""

import ast
import re
import sys
from pathlib import Path

import pytest
from wrong_answers import WRONG_ANSWERS

from caption import ops
from caption.errors import UserError
from course.blank import functions, read_source
from course.holes import HOLES, Hole, choose
from course.tree import EMPTIED, LEFT_OUT

ROOT = Path(__file__).parents[2]
NO_EQUATIONS = {"caption/ops/torch_compile.py", "caption/ops/dropout.py"}  # one calls the reference, one is random
every_hole = pytest.mark.parametrize("hole", HOLES.values(), ids=list(HOLES))


@every_hole
def test_the_functions_exist_and_their_docstrings_are_an_assignment(hole: Hole) -> None:
    """They give shapes; and the function is no other hole's."""
    for function in (*hole.functions, *hole.twins):
        file, name = function.split("::")
        assert name in functions(read_source(ROOT / file)), function
    for function in hole.functions:
        file, name = function.split("::")
        assert re.search(r"\[.*\]", ast.get_docstring(functions(read_source(ROOT / file))[name]) or ""), function
        assert [function in other.functions for other in HOLES.values()].count(True) == 1
        assert not any(function in other.twins for other in HOLES.values())


@every_hole
def test_the_tests_exist(hole: Hole) -> None:
    for test in hole.tests:
        file, name = test.split("::")
        assert name.split("[")[0] in functions(read_source(ROOT / file)), test
    assert len(set(hole.tests)) == len(hole.tests) >= 2 and hole.points > 0 and hole.hint


def test_every_hole_has_wrong_answers() -> None:
    assert WRONG_ANSWERS.keys() == HOLES.keys()
    for name, answers in WRONG_ANSWERS.items():
        assert len(answers) >= 3
        for answer in answers:
            assert read_source(ROOT / answer.file).count(answer.right) == 1, (name, answer.name)
            assert answer.file in HOLES[name].files and answer.right != answer.wrong


def test_every_fast_backend_is_left_out_of_a_homework() -> None:
    """A new one with an equation must be named in course/tree.py."""
    runs = [backend.run for backends in ops.BACKENDS.values() for backend in backends]
    modules = {sys.modules[getattr(run, "__self__", run).__module__] for run in runs}
    files = {Path(module.__file__ or "").relative_to(ROOT).as_posix() for module in modules}
    assert files <= {*EMPTIED, *LEFT_OUT, *NO_EQUATIONS} and files >= {*EMPTIED}


def test_holes_are_chosen_by_name_in_the_order_of_the_registry() -> None:
    assert choose("") == list(HOLES) and choose("bleu, lstm_cell") == ["lstm_cell", "bleu"]
    with pytest.raises(UserError, match=r"there is no hole 'beams'; known: additive_score, .*beam, bleu"):
        choose("beam,beams")
