"""Progress of long work: a bar on a terminal, a line a minute in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from caption.files import first_process

T = TypeVar("T")
SECONDS = 60.0  # between two lines of a log


class ProgressBar(Generic[T]):
    """Iterate over `items` and show the progress on stderr, on the first of several processes only."""

    def __init__(
        self, items: Iterable[T], name: str, unit: str, initial: int = 0, leave: bool = False, length: int | None = None
    ) -> None:
        """Start the count at `initial`, the items that were done before; `leave` the full bar on the terminal. Items
        that do not know their number need `length`."""
        self.items, self.name, self.unit = items, name, unit
        self.done, self.total = initial, initial + (len(items) if length is None else length)  # type: ignore[arg-type]
        self.note = ""
        self.silent = not first_process()
        self.bar: Any = None
        if sys.stderr.isatty() and not self.silent:
            self.bar = tqdm(desc=name, total=self.total, initial=initial, unit=unit, leave=leave)

    def __iter__(self) -> Iterator[T]:
        last_time, last_done = time.monotonic(), self.done
        for item in self.items:
            yield item
            self.done += 1
            if self.bar is not None:
                self.bar.update()
            elif not self.silent and time.monotonic() - last_time >= SECONDS:
                rate = (self.done - last_done) / (time.monotonic() - last_time)
                last_time, last_done = time.monotonic(), self.done
                line = f"{self.name}: {self.done}/{self.total} {self.unit}, {rate:.1f} a second{self.note}"
                print(line, file=sys.stderr, flush=True)
        if self.bar is not None:
            self.bar.close()

    def set_note(self, note: str) -> None:
        """Show a note behind the progress."""
        self.note = f", {note}"
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
