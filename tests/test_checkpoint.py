"""Checkpoints load as they were saved, and nothing else loads."""

from pathlib import Path

import pytest
import torch

from caption import checkpoint
from caption.errors import UserError


class Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def test_files_that_are_no_checkpoints_are_refused_without_running_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": Code()}, tmp_path / "code.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").touch()
    for name, message in (
        ("code", "holds pickled code, which is refused"),
        ("module", "holds pickled code, which is refused"),
        ("other", "not a checkpoint of this program"),
        ("text", "not a checkpoint of this program"),
        ("empty", "not a checkpoint of this program"),
        ("absent", "no such checkpoint"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            checkpoint.load(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)
    assert "never" not in capsys.readouterr().out


def test_an_older_checkpoint_must_be_trained_again(tmp_path: Path) -> None:
    torch.save({"format": "show-attend-and-tell checkpoint 1", "model": {}}, tmp_path / "older.pt")
    with pytest.raises(UserError, match="checkpoint 1, but this version reads .* checkpoint 2; train the model again"):
        checkpoint.load(tmp_path / "older.pt")
    checkpoint.save(tmp_path / "new.pt", {"model": {}})
    assert checkpoint.load(tmp_path / "new.pt")["model"] == {}
