"""Bars for people, lines for log files."""

import io
import sys

import pytest

from caption.progress import ProgressBar


@pytest.mark.parametrize("seconds", [59, 61])
def test_without_a_terminal(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Long work leaves whole lines, short work none."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for _ in ProgressBar(range(3), "work", unit="step"):
        now[0] += seconds / 3 + 0.01
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert (len(lines) >= 1 and "work" in lines[-1] and "3/3" in lines[-1]) if seconds > 60 else not lines
