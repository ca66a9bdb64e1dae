"""Functions are blanked and put back in the text of a file, of which nothing else changes."""

import ast
from pathlib import Path

import pytest

from course.blank import blank, empty, functions, imported, read_source, transplant
from course.holes import HOLES

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A module."""

import functools


@functools.cache
def first(
    x: int,
) -> int:
    """Return x + 1, eq. 1.

    `x` is a number.
    """
    # The answer.
    return x + 1  # eq. 1


class Thing:
    """A thing."""

    @staticmethod
    def second() -> int:
        one = 1

        return one


LAST = first(1)  # stays
'''


def test_a_blank_function_keeps_its_decorators_signature_and_docstring() -> None:
    changed = blank(SOURCE, "first", "raise NotImplementedError")
    kept, _, rest = SOURCE.partition("    # The answer.\n    return x + 1  # eq. 1\n")
    assert changed == f"{kept}    raise NotImplementedError\n{rest}"


def test_a_method_without_a_docstring_is_blanked_as_well() -> None:
    changed = blank(SOURCE, "Thing.second", "return 2")
    assert changed == SOURCE.replace("        one = 1\n\n        return one\n", "        return 2\n")
    with pytest.raises(KeyError, match="second"):
        blank(SOURCE, "second", "return 2")


@pytest.mark.parametrize("name", ["first", "Thing.second"])
def test_a_transplant_brings_the_whole_function(name: str) -> None:
    """Whatever stands in its place, and wherever it stands."""
    other = "\n\n" + blank(SOURCE, name, "pass").replace("@functools.cache\n", "").replace("x: int", "y: str")
    changed = functions(transplant(other, name, SOURCE))
    assert ast.dump(changed[name]) == ast.dump(functions(SOURCE)[name]) != ast.dump(functions(other)[name])
    assert {key: ast.dump(node) for key, node in changed.items() if key != name} == {
        key: ast.dump(node) for key, node in functions(other).items() if key != name
    }


@pytest.mark.parametrize("function", sorted({function for hole in HOLES.values() for function in hole.functions}))
def test_what_is_blanked_and_put_back_is_the_file_to_the_byte(function: str) -> None:
    file, name = function.split("::")
    source = read_source(ROOT / file)
    blanked = blank(source, name, "raise NotImplementedError")
    assert blanked != source and transplant(blanked, name, source) == source
    assert ast.get_docstring(functions(blanked)[name]) == ast.get_docstring(functions(source)[name])


def test_an_empty_module_has_the_names_and_nothing_that_they_do() -> None:
    emptied = empty(SOURCE.replace("LAST = first(1)", "LAST = first"), "Left out.")
    names: dict[str, object] = {}
    exec(emptied, names)  # the module can be imported
    assert {"first", "Thing", "LAST"} <= set(names)
    assert "x + 1" not in emptied and "answer" not in emptied and "one" not in emptied
    with pytest.raises(NotImplementedError):
        names["Thing"].second()


def test_imports_are_found_wherever_they_stand() -> None:
    source = (
        "import os.path, numpy as np\nfrom torch import nn\ndef f():\n    from nltk.util import x\nfrom . import y\n"
    )
    assert imported(source) == {"os": 1, "numpy": 1, "torch": 2, "nltk": 4, ".": 5}
