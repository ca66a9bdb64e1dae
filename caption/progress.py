"""Progress of long work: a bar on a terminal, a line a minute in a log file."""

import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm


class ProgressBar(tqdm):  # type: ignore[misc]
    """tqdm; where there is no terminal its state is a line of its own, and work of less than a minute says nothing."""

    def __init__(self, iterable: Any, what: str, **options: Any) -> None:
        if not sys.stderr.isatty():
            options |= {"mininterval": 60, "maxinterval": 60, "delay": 60, "leave": False, "ascii": True}
        super().__init__(iterable, what, file=sys.stderr, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        if file.isatty():
            printer: Callable[[str], None] = tqdm.status_printer(file)
            return printer

        def print_line(status: str) -> None:
            if status.strip():
                file.write(status.strip() + "\n")
                file.flush()

        return print_line
