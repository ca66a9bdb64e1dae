"""A run is resumed from what it saved, on the data that it was trained on, and whatever is damaged is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_training import equal, run

import train
from caption import checkpoint, ops
from caption.data.dataset import CaptionDataset
from caption.errors import UserError
from caption.training import run_dir
from preprocess.__main__ import main as preprocess

CONSTANT = ["--training.schedule", "constant"]


@pytest.fixture(scope="module")
def one_epoch(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run(shapes, folder, "--training.epochs", "1", *CONSTANT)
    return folder


@pytest.fixture
def folder(one_epoch: Path, tmp_path: Path) -> Path:
    """A run of one epoch, which is over."""
    return Path(shutil.copytree(one_epoch, tmp_path / "run"))


@pytest.fixture
def other(shapes: Path, tmp_path: Path) -> Path:
    """Other images and captions of the same vocabulary."""
    path = tmp_path / "other.h5"
    preprocess(
        ["shapes", "--output", str(path), "--count", "40", "10", "10", "--size", "32", "--seed", "7"]
        + ["--vocabulary", str(shapes)]
    )
    return path


def test_other_data_of_the_same_vocabulary_are_refused(shapes: Path, other: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other.h5: is not the data that this run .*train/checksums.* differ\); give"):
        train.main(["--resume", str(folder), "--data", str(other)])
    train.main(["--resume", str(folder), "--data", str(shutil.copy(shapes, tmp_path / "moved.h5"))])


def test_a_data_file_that_is_replaced_while_it_is_in_use_is_not_read(shapes: Path, other: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(shapes, tmp_path / "data.h5"))
    held, late = CaptionDataset(path, "val"), CaptionDataset(path, "val")
    references, images = held.references(), held.read_images([0, 1])
    other.replace(path)
    assert held.references() == references and torch.equal(held.read_images([0, 1]), images)
    for read in (late.references, lambda: late.read_images([0])):
        with pytest.raises(UserError, match="data.h5: was replaced or changed while it was in use; run"):
            read()


def test_a_run_with_more_epochs_equals_one_that_had_them_from_the_start(
    shapes: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a schedule that does not depend on their number."""
    whole = run(shapes, tmp_path / "whole", "--training.epochs", "2", *CONSTANT)
    capsys.readouterr()
    train.main(["--resume", str(folder), "--training.epochs", "2"])
    output = capsys.readouterr().out
    assert "2 epochs instead of 1" in output and "resumed with" not in output  # nothing else is different
    assert equal(checkpoint.load(folder / "last.pt"), whole)
    assert run_dir.read_config(folder).training.epochs == 2
    with pytest.raises(UserError, match="training.epochs is 1, but must be at least 2, as before"):
        train.main(["--resume", str(folder), "--training.epochs", "1"])


def test_what_changes_the_last_digits_is_said_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "__version__", "9.9")
    torch.set_num_threads(threads + 1)
    try:
        with ops.use("reference"):
            train.main(["--resume", str(folder)])
    finally:
        torch.set_num_threads(threads)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resumed with")]
    for change in (
        "PyTorch 9.9 (before: ",
        f"threads {threads + 1} (before: {threads})",
        "kernels reference (before: ",
    ):
        assert change in line


def test_a_damaged_line_of_the_log_does_not_stop_a_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = folder / "log.jsonl"
    good = log.read_bytes()
    record = json.loads(good)
    odd = [{**record, "val": [1]}, {**record, "epoch": "1"}, {**record, "scores": {"BLEU-4": "x"}}, {"epoch": 1}, 3]
    lines = [
        b'{"epoch": 1, "tr\xff\x00\n',
        b"\n",
        b"[" * 10_000 + b"\n",
        *(f"{json.dumps(one)}\n".encode() for one in odd),
    ]
    log.write_bytes(b"".join(lines) + good + b'{"epoch": 2, "half')
    train.main(["--resume", str(folder), "--training.epochs", "2"])
    printed = capsys.readouterr().err.splitlines()
    assert [line for line in printed if "log.jsonl, line" in line and line.endswith("; it is left out")] == printed
    assert len(printed) == len(lines) and log.read_bytes().startswith(good)
    assert [one["epoch"] for one in run_dir.read_records(folder)] == [1, 2]


def test_the_best_model_in_place_of_the_last_state_is_told_from_it(folder: Path) -> None:
    shutil.copy(folder / "best.pt", folder / "last.pt")
    with pytest.raises(UserError, match=r"last.pt: has no optimizer, so that it is a model.*by --init-from .*last.pt"):
        train.main(["--resume", str(folder)])


def test_an_odd_state_is_refused_in_one_line(folder: Path) -> None:
    good = checkpoint.load(folder / "last.pt")
    odd = {"optimizer": {}, "rng_state": torch.zeros(3), "train_state": {"epochs": 3}, "vocabulary": 3, "data": [1]}
    for name, value in odd.items():
        checkpoint.save(folder / "last.pt", {**good, name: value})
        with pytest.raises(
            UserError, match=r"last.pt: is damaged, or of another program or version \(.*\); "
        ) as caught:
            train.main(["--resume", str(folder)])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "null", "{}", "\xff\x00", '{"data": "d", "output": "o", "training": 1}']
)
def test_a_damaged_configuration_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        UserError, match=r"config.json: (is damaged|not a configuration of this version).*; train again"
    ):
        run_dir.read_config(tmp_path)
