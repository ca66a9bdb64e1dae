"""Command lines: flags from dataclasses, and one-line errors instead of tracebacks."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from caption.errors import UserError


def parse(form: Any, arguments: Sequence[str], program: str, description: str | None = None) -> Any:
    """Parse `arguments` into the dataclass, or union of dataclasses, `form`.

    Raises UserError, in one line, for an unknown flag, a missing one or a value of the wrong type.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(form, args=list(arguments), prog=program, description=description)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_one_line(message.getvalue(), program)) from None


def _one_line(box: str, program: str) -> str:
    """Return the message that tyro prints in a box as one line, its sections separated by semicolons."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│╭╮╰╯ ") for line in box.splitlines()[1:-1]]
    sections = re.split(r"\n─+\n", "\n".join(lines))
    messages = [" ".join(section.split()).split(f" in {program}")[0] for section in sections]
    # tyro's name for what it wraps around a choice of subcommands
    return "; ".join(message.removesuffix(".") for message in messages).replace("__tyro-dummy-inner__.", "")


def run(main: Callable[[list[str]], None]) -> None:
    """Run a script's `main`. A UserError or OSError ends it with one line and exit code 2, Ctrl-C with 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `... | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing it where it is not needed
            raise
        print(f"error: {str(error).splitlines()[0]}; give a smaller batch size", file=sys.stderr)
        sys.exit(2)
