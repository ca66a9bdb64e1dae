"""`make check-gpu` where there is no GPU: its sections run, and nothing that fails goes unnoticed."""

import sys

import pytest
import torch

from benchmarks import check_gpu
from benchmarks.check_gpu import FUNCTIONS, Section, Sizes


@pytest.mark.parametrize("name", ["environment", "kernels", "decoders", "graphs", "waits"])
def test_sections_pass_on_the_cpu(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    FUNCTIONS[name](torch.device("cpu"), Sizes(16, 30))
    assert "FAIL" not in capsys.readouterr().out and not check_gpu.faults


def test_a_wrong_gradient_is_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the attention: its weights' gradient is lost, as a kernel might do."""
    right = check_gpu.ops.additive_attention
    monkeypatch.setattr(check_gpu, "faults", [])
    monkeypatch.setattr(
        check_gpu.ops, "additive_attention", lambda *values: (right(*values)[0], right(*values)[1].detach())
    )
    FUNCTIONS["kernels"](torch.device("cpu"), Sizes(16, 30))
    assert "FAIL attention highest float32" in capsys.readouterr().out and check_gpu.faults


@pytest.mark.parametrize(
    ("code", "passed", "told"),
    [
        ("print('fine')", True, "fine\nok   one: exit code 0"),
        ("raise ValueError('broken')", False, "ValueError: broken\nFAIL one: exit code 1"),
        ("import time; time.sleep(60)", False, "FAIL one: exit code 124 after 2 s"),
    ],
)
def test_a_section_that_fails_or_hangs_is_told(
    code: str, passed: bool, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_gpu.run(Section("one", 60, [sys.executable, "-c", code]), 2, []) == passed
    assert told in capsys.readouterr().out


def test_a_failed_section_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = [Section(name, 9, [sys.executable, "-c", f"exit({code})"]) for name, code in (("one", 3), ("two", 0))]
    monkeypatch.setattr(check_gpu, "correct", lambda folder, device: sections)
    assert check_gpu.main(["correct", "--dry"]) == 1
    said = capsys.readouterr().out
    assert "FAIL one: exit code 3" in said and "ok   two" in said and said.endswith("without time: one\n")
