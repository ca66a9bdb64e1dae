"""Progress of long work: a bar on a terminal, a line a minute in a log file."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T", covariant=True)
SECONDS = 60.0  # between two lines of a log


class Work(Protocol[T]):
    """Something to go through, of known length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T]: ...


class Sized(Generic[T]):
    """Work whose length is known from elsewhere."""

    def __init__(self, items: Iterable[T], length: int) -> None:
        self.items, self.length = items, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)


class ProgressBar(Generic[T]):
    """Iterate over `work` and tell on stderr how far it is; `done` items of it were done before."""

    def __init__(self, work: Work[T], what: str, unit: str, done: int = 0, keep: bool = False) -> None:
        """`keep` leaves the full bar on the terminal."""
        self.work, self.what, self.unit = work, what, unit
        self.done, self.total = done, done + len(work)
        self.note = ""
        self.silent = int(os.environ.get("RANK", 0)) > 0  # of the processes that torchrun starts, the first tells
        self.bar: Any = None
        if sys.stderr.isatty() and not self.silent:
            self.bar = tqdm(desc=what, total=self.total, initial=done, unit=unit, leave=keep)

    def __iter__(self) -> Iterator[T]:
        told = time.monotonic()
        before = self.done
        for item in self.work:
            yield item
            self.done += 1
            if self.bar is not None:
                self.bar.update()
            elif not self.silent and time.monotonic() - told >= SECONDS:
                rate = (self.done - before) / (time.monotonic() - told)
                told, before = time.monotonic(), self.done
                line = f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.1f} a second{self.note}"
                print(line, file=sys.stderr, flush=True)
        if self.bar is not None:
            self.bar.close()

    def set_note(self, note: str) -> None:
        """Show this with the progress."""
        self.note = f", {note}"
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
