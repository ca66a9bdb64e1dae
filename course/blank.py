"""Change functions in the text of a file: blank their bodies, or put other functions of the same name in their place.

A function has the name that it has in its module, such as `lstm_cell` or `HardAttention.attend`.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path


def read_source(path: Path) -> str:
    """Return the text of a file of Python, its lines separated by newlines alone."""
    return path.read_text(encoding="utf-8-sig")


@functools.cache
def functions(source: str) -> dict[str, ast.FunctionDef]:
    """Return the functions of a module and the methods of its classes, by name. Raises SyntaxError."""
    return dict(_functions(ast.parse(source).body, ""))


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef):
            yield prefix + statement.name, statement
        elif isinstance(statement, ast.ClassDef):
            yield from _functions(statement.body, f"{prefix}{statement.name}.")


def first_line(function: ast.FunctionDef) -> int:
    """Return the line, counted from 1, at which a function begins with its decorators."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def blank(source: str, name: str, statement: str) -> str:
    """Return the source with a function of which only decorators, signature and docstring are left, and one statement.

    Raises KeyError if there is no such function.
    """
    function = functions(source)[name]
    documented = ast.get_docstring(function) is not None
    start = (function.body[0].end_lineno or 0) + 1 if documented else function.body[0].lineno
    indent = " " * function.body[0].col_offset
    return _replace_lines(source, start, function.end_lineno or start, f"{indent}{statement}")


def transplant(source: str, name: str, donor: str) -> str:
    """Return the source with the function that has this name in `donor` in place of its own, decorators and all.

    Raises KeyError if one of the two has no such function.
    """
    new = functions(donor)[name]
    text = donor.split("\n")[first_line(new) - 1 : new.end_lineno]
    old = functions(source)[name]
    return _replace_lines(source, first_line(old), old.end_lineno or 0, "\n".join(text))


def _replace_lines(source: str, first: int, last: int, text: str) -> str:
    """Return the source with its lines from `first` to `last`, counted from 1, replaced by a text."""
    lines = source.split("\n")
    return "\n".join([*lines[: first - 1], text, *lines[last:]])


def empty(source: str, docstring: str) -> str:
    """Return a module with the names of the source, but without what its functions do, and without its comments and
    docstrings."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse("raise NotImplementedError").body
        elif isinstance(node, ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return f'"""{docstring}"""\n\n{ast.unparse(ast.fix_missing_locations(module))}\n'


def imported(source: str) -> dict[str, int]:
    """Return the packages that a source imports anywhere, each with the line of its first import."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            package = name.split(".")[0] or "."
            found[package] = min(node.lineno, found.get(package, node.lineno))
    return found
