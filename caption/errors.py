"""The exception that a script shows to its user as a single line, and the guard around whatever is read back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """A mistake that the user can correct. The message gives the value, the rule and the remedy."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, at most 150 characters of it, to quote in a UserError."""
    return " ".join(str(error).split())[:150]


@contextlib.contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Raise a UserError that names the file, whatever goes wrong while its content is parsed or taken apart.

    A damaged file, or one of another program, can raise almost anything, so that no list of exceptions is complete.
    Errors of the system (no such file, no right to read it) and a lack of memory pass as they are.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if getattr(error, "filename", None) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0][:150]
        raise UserError(f"{path}: is damaged, or of another program or version ({reason}); {remedy}") from error
