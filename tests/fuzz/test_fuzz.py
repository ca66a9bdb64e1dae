"""Damaged files are refused in one line, or read as what they were; `make fuzz` tries more (docs/reliability.md)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
KINDS = ("checkpoints", "data_files", "lists", "images", "run_folders")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_read_as_they_were(kind: str) -> None:
    """In a process of its own, since a library in C may crash or hang."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FUZZ), kind, "--cases", "40"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-600:]}"
    assert done.stdout.startswith(f"{kind}: 40 cases, ") and done.stdout.endswith(" 0 faults\n")


def test_the_page_of_promises_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in root.glob("tests/**/test_*.py"))
    text = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
    assert all((root / name).is_file() for name in re.findall(r"`(tests/\S+\.py)`", text))
