"""Checkpoints load as they were saved, and nothing else loads."""

import contextlib
import random
from pathlib import Path

import pytest
import torch

from caption import checkpoint
from caption.captioner import Captioner
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


CONTENT = {"model": {"a": torch.linspace(-1, 1, 70), "b": torch.arange(6)}, "words": ["a", "dog"], "n": 1.5}


def test_a_bit_flipped_anywhere_is_noticed(tmp_path: Path) -> None:
    """In the tensors, in the values between them, in the archive's directory, and in the checksum itself."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, CONTENT)
    content = path.read_bytes()
    generator, marker = random.Random(1), len(content) - 16
    for position in [*generator.sample(range(marker), 100), len(content) - 1]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UserError, match="last.pt: is damaged|not a checkpoint of this program"):
            checkpoint.load(path)
    for position in range(marker, len(content)):  # what says that there is a checksum; the content is whole
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with contextlib.suppress(UserError):
            assert torch.equal(checkpoint.load(path)["model"]["a"], CONTENT["model"]["a"])


def test_a_truncated_checkpoint_is_damaged_and_the_other_one_is_named(tmp_path: Path) -> None:
    for name in ("best.pt", "last.pt"):
        checkpoint.save(tmp_path / name, CONTENT)
    content = (tmp_path / "last.pt").read_bytes()
    for length in (2, 100, len(content) // 2, len(content) - 100):
        (tmp_path / "last.pt").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"last.pt: is damaged, .*; copy it again, or use best.pt beside it"):
            checkpoint.load(tmp_path / "last.pt")


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, captioner: Captioner) -> None:
    """The message names the file and the weights; the last good checkpoint stays."""
    checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
    before = (tmp_path / "best.pt").read_bytes()
    bias = captioner.decoder.output.bias.data
    for value in (torch.nan, torch.inf):
        bias[3] = value
        with pytest.raises(UserError, match="best.pt is not written: decoder.output.bias is not finite"):
            checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
        assert (tmp_path / "best.pt").read_bytes() == before
        torch.save({"format": checkpoint.FORMAT, **captioner.to_checkpoint()}, tmp_path / "other.pt")
        with pytest.raises(UserError, match="other.pt: decoder.output.bias is not finite"):
            Captioner.load(tmp_path / "other.pt")


def test_a_checkpoint_of_odd_content_is_refused_in_one_line(tmp_path: Path, captioner: Captioner) -> None:
    good = captioner.to_checkpoint()
    configs, weights = good["configs"], good["model"]
    for change in (
        {"configs": None},
        {"configs": {**configs, "encoder": [1]}},
        {"configs": {**configs, "decoder": {**configs["decoder"], "hidden_dim": "24"}}},
        {"configs": {**configs, "decoder": {**configs["decoder"], "hidden_dim": 25}}},
        {"configs": {**configs, "image": {"size": 32, "fit": "stretch"}}},
        {"vocabulary": 3},
        {"vocabulary": [*good["vocabulary"][:-1], 3]},
        {"vocabulary": good["vocabulary"][1:]},
        {"model": 3},
        {"model": {**weights, "decoder.output.bias": "x"}},
        {"model": {name: value for name, value in weights.items() if name != "decoder.output.bias"}},
    ):
        torch.save({"format": checkpoint.FORMAT, **good, **change}, tmp_path / "odd.pt")
        with pytest.raises(UserError) as caught:
            Captioner.load(tmp_path / "odd.pt")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_folder_or_a_missing_checkpoint_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; there is no checkpoint in it"):
        checkpoint.load(tmp_path)
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match=r"is a folder; give a checkpoint in it, such as .*last\.pt"):
        checkpoint.load(tmp_path)
    with pytest.raises(UserError, match=r"is a folder; give a checkpoint in it, such as .*flickr8k$"):
        checkpoint.load(Path(__file__).parents[1] / "pretrained")
    with pytest.raises(UserError, match="no such checkpoint; a run has last.pt, and best.pt after its first epoch"):
        checkpoint.load(tmp_path / "best.pt")
