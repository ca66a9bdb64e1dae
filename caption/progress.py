"""Progress of long work: a bar on a terminal, a line a minute in a log file."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T", covariant=True)
SECONDS = 60.0  # between two lines of a log


class SizedIterable(Protocol[T]):
    """An iterable of known length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T]: ...


class Sized(Generic[T]):
    """Give a length to an iterable that has none of its own."""

    def __init__(self, items: Iterable[T], length: int) -> None:
        self.items, self.length = items, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)


class ProgressBar(Generic[T]):
    """Iterate over `items` and show the progress on stderr, on the first of several processes only."""

    def __init__(
        self, items: SizedIterable[T], description: str, unit: str, initial: int = 0, leave: bool = False
    ) -> None:
        """Start the count at `initial`, the items that were done before; `leave` the full bar on the terminal."""
        self.items, self.description, self.unit = items, description, unit
        self.done, self.total = initial, initial + len(items)
        self.note = ""
        self.silent = int(os.environ.get("RANK", 0)) > 0  # torchrun's name for the number of a process
        self.bar: Any = None
        if sys.stderr.isatty() and not self.silent:
            self.bar = tqdm(desc=description, total=self.total, initial=initial, unit=unit, leave=leave)

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
                line = f"{self.description}: {self.done}/{self.total} {self.unit}, {rate:.1f} a second{self.note}"
                print(line, file=sys.stderr, flush=True)
        if self.bar is not None:
            self.bar.close()

    def set_note(self, note: str) -> None:
        """Show a note behind the progress."""
        self.note = f", {note}"
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
