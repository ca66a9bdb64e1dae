"""The exception that a script shows to its user as a single line, and the guard around whatever is read back."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """A mistake that the user can correct. The message gives the value, the rule and the remedy."""


@contextlib.contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Raise a UserError that names the file, whatever goes wrong while its content is parsed or taken apart.

    A damaged file, or one of another program, can raise almost anything, so that no list of exceptions is complete. A
    missing file, and one that cannot be read, keep the system's own message.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise UserError(f"{path}: is damaged, or of another program or version ({reason}); {remedy}") from error
