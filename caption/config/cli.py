"""Command lines: flags from dataclasses, and one-line errors instead of tracebacks."""

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from caption.errors import UserError
from caption.files import DISK_FULL

ROOM = "what was finished is whole; make room and give the same command again, or train.py --resume FOLDER"
# Errors of PyTorch that tell of the machine, by words in their text, and what to do about them.
REMEDIES = {
    "out of memory": "give a smaller batch size",
    "can't allocate memory": "give a smaller batch size",
    "not enough memory": "give a smaller batch size",
    "DataLoader worker (pid": "perhaps killed for lack of memory; give fewer workers",
}


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
    """Run a script's `main`. A mistake, a full disk, too little memory and a killed worker end it with one line and
    exit code 2, Ctrl-C with 130. What is printed is flushed line by line, and never raises."""
    sys.stdout, sys.stderr = _unbreakable(sys.stdout), _unbreakable(sys.stderr)
    threading.excepthook = _report_thread
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        print_error(message)
        sys.exit(2)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Show what ended a thread, but not a full disk in TensorBoard's, which the main thread is told, too."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def print_error(error: object) -> None:
    """Print an error as one line on standard error."""
    print(f"error: {_flatten(error)}", file=sys.stderr)


def _flatten(error: object) -> str:
    """Return an error's text as one line: of a data worker's, which is a traceback, its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Original Traceback") for line in lines):
        return lines[-1].partition(": ")[2]
    return " ".join(lines)


def _explain(error: Exception) -> str | None:
    """Return the line about an error that is no fault of the program, with the remedy, or None."""
    text = _flatten(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError):
        full = f"; {ROOM}" if error.errno in DISK_FULL else ""
        return f"{error.filename or 'system'}: {error.strerror or text}{full}"
    if isinstance(error, MemoryError):
        return f"out of memory {text}; give a smaller batch size"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:200]!a}: holds bytes that are not UTF-8; give another name"
    remedies = [remedy for words, remedy in REMEDIES.items() if words in text]
    return f"{text}; {remedies[0]}" if remedies and isinstance(error, RuntimeError) else None


class _Output(io.FileIO):
    """Standard output or error; drops what cannot be written, since its reader is gone or the disk full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def _unbreakable(stream: Any) -> Any:
    """Return a stream to print to that never raises: it outlives its reader, and writes \\u2588 where it lacks █."""
    if stream is None:  # closed when Python started
        return open(os.devnull, "w")  # noqa: PTH123
    if os.name != "nt" or not stream.isatty():  # a console of Windows is no file
        raw = _Output(stream.fileno(), "w", closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding)
    stream.reconfigure(errors="backslashreplace", line_buffering=True)
    return stream
