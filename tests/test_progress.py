"""A bar on a terminal, lines in a log file."""

import io
import sys

import pytest

from caption import progress


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_on_a_terminal_and_a_line_per_minute_elsewhere(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A log gets a line for each minute that passed, and none for short work."""
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(log, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.ProgressBar(range(10), "work", unit="batches", initial=5, leave=True)
    for item in bar:
        bar.set_note(f"loss {item}")
        now[0] += 25
    if terminal:
        assert "15/15" in log.getvalue() and "\r" in log.getvalue()
    else:
        lines = log.getvalue().splitlines()
        assert lines[0] == "work: 8/15 batches, 0.0 a second, loss 2" and len(lines) == 3
