"""Preprocessing that is killed at any moment resumes and ends with the same bytes."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from caption.data.hdf5 import read_manifest
from caption.data.records import Records
from caption.errors import UserError
from caption.files import locked
from preprocess import datafile, journal, sources, writer
from preprocess.__main__ import main as preprocess
from preprocess.verify import Verify

COUNT = 330  # images: a little more than ten jobs
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, their captions, and the weights of an encoder."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    lines = ["file_name,caption"]
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.jpg")
        lines += [f"{number}.jpg,a dog number {number % 7}", f"{number}.jpg,the dog"]
    (folder / "captions.csv").write_text("\n".join(lines))
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), folder / "weights.pth")
    return folder


def command(source: Path, output: Path, store: str, workers: int = 2) -> list[str]:
    args = ["folder", "--images", str(source / "images"), "--captions", str(source / "captions.csv")]
    args += ["--output", str(output), "--size", "32", "--min-count", "1", "--store", store, "--workers", str(workers)]
    if store == "features":
        args += ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(source / "weights.pth")]
        args += ["--device", "cpu"]
    return args


def start(args: list[str], change: Callable[[], None] = lambda: None) -> int:
    """Run the command in a forked child, which need not import anything, after calling `change` there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            torch.set_num_threads(1)  # the parent's threads are not there
            change()
            preprocess(args)
            status = 0
        finally:
            os._exit(status)
    return child


def wait(child: int) -> int:
    """Return the exit code, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def images_done(output: Path) -> int:
    """Return the number of images that the journal says are done."""
    state = journal.load(journal.work_folder(output))
    return state.done if state else 0


def wait_for_more(output: Path, before: int) -> None:
    """Wait until the journal says that more images than `before` are done, or the file is complete."""
    end = time.monotonic() + 60
    while not output.exists() and images_done(output) <= before:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(
    "store", ["pixels", *(pytest.param(store, marks=pytest.mark.slow) for store in ("jpeg", "features"))]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer, "SYNC_SECONDS", 0.0)  # save the journal after every job, as the work is short
    complete, killed = tmp_path / "complete.h5", tmp_path / "killed.h5"
    begun = time.monotonic()
    assert wait(start(command(source, complete, store))) == 0
    seconds = time.monotonic() - begun
    chance, kills, rounds, went_on = random.Random(1), 0, 0, 0
    while kills < 22:
        before = images_done(killed)
        went_on += before > 0
        child = start(command(source, killed, store))
        if kills % 2:  # at any moment; a slow machine may still be starting
            time.sleep(chance.uniform(0, seconds))
        else:  # soon after the journal was saved
            wait_for_more(killed, before)
            time.sleep(chance.uniform(0, 0.1 * seconds))
        os.kill(child, signal.SIGKILL)
        if wait(child) == -signal.SIGKILL:
            kills += 1
        journal.finalize(killed)
        if killed.exists():
            assert killed.read_bytes() == complete.read_bytes()
            killed.unlink()
            rounds += 1
    wait(start(command(source, killed, store)))
    assert killed.read_bytes() == complete.read_bytes() and not journal.work_folder(killed).exists()
    print(f"{store}: killed {kills} times, {went_on} times after part of the work; completed {rounds + 1} times")
    assert went_on >= 5
    Verify(str(killed)).run()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_run_killed_at_any_write_ends_with_the_same_bytes(source: Path, tmp_path: Path, store: str) -> None:
    """Kill before every call that writes to the HDF5 file or renames it."""
    complete, killed = tmp_path / "complete.h5", tmp_path / "killed.h5"

    def command_of(path: Path) -> list[str]:  # few images, and no processes to wait for
        return [*command(source, path, store, workers=0), "--shard", "1/8"]

    assert wait(start(command_of(complete))) == 0
    moments = 0

    def die_at(number: int) -> Callable[[], None]:
        def change() -> None:
            calls = 0

            def counted(function: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **options: object) -> object:
                    nonlocal calls
                    calls += 1
                    if calls == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **options)

                return call

            for owner, name in ((h5py.Group, "__setitem__"), (h5py.Group, "create_dataset"), (h5py.File, "close"),
                                (h5py.AttributeManager, "__setitem__"), (journal.Journal, "save"),
                                (journal, "finalize"), (Path, "replace"), (journal.shutil, "rmtree")):  # fmt: skip
                setattr(owner, name, counted(getattr(owner, name)))

        return change

    while True:
        moments += 1
        if wait(start(command_of(killed), die_at(moments))) != -signal.SIGKILL:
            break
        journal.finalize(killed)
        if not killed.exists():
            assert wait(start(command_of(killed))) == 0
        assert killed.read_bytes() == complete.read_bytes(), moments
        assert not journal.work_folder(killed).exists()
        killed.unlink()
    assert moments > 40


def test_bad_images_are_fixed_or_skipped_without_losing_completed_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete, fixed, skipped = (tmp_path / f"{name}.h5" for name in ("complete", "fixed", "skipped"))
    preprocess(command(source, complete, "pixels"))
    bad = source / "images" / "5.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[:300])
    try:
        for path in (fixed, skipped):
            with pytest.raises(
                UserError, match=r"5\.jpg: unreadable.*listed in .*_report\.csv. Completed work is kept"
            ):
                preprocess(command(source, path, "pixels"))
        capsys.readouterr()
        preprocess([*command(source, skipped, "pixels"), "--on-error", "skip"])
        assert f"resuming after {COUNT} of {COUNT} images; retrying 1 bad images" in capsys.readouterr().out
    finally:
        bad.write_bytes(content)
    preprocess(command(source, fixed, "pixels"))
    assert fixed.read_bytes() == complete.read_bytes()
    assert not (tmp_path / "fixed_report.csv").exists() and (tmp_path / "skipped_report.csv").exists()

    for split, counts in read_manifest(skipped)["splits"].items():
        everything, rest = Records(complete, split), Records(skipped, split)
        assert len(rest) == counts["images"] == len(everything) - counts["bad_images"]
        gone = 0
        for index in range(len(rest)):
            if rest.read_bytes(index) != everything.read_bytes(index + gone):
                gone += 1
                assert rest.read_bytes(index) == everything.read_bytes(index + gone)
        assert gone <= counts["bad_images"]
    Verify(str(skipped)).run()


def test_unfinished_work_of_another_command_is_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    bad = source / "images" / "5.jpg"
    content = bad.read_bytes()
    bad.write_bytes(b"")
    try:
        with pytest.raises(UserError, match=r"5\.jpg: an empty file"):
            preprocess(command(source, output, "pixels"))
    finally:
        bad.write_bytes(content)
    with pytest.raises(UserError, match=r"unfinished work of another command \(size was 32, now 16\); finish that"):
        preprocess([*command(source, output, "pixels"), "--size", "16"])
    preprocess([*command(source, output, "pixels"), "--size", "16", "--overwrite"])
    assert read_manifest(output)["size"] == 16 and not journal.work_folder(output).exists()


def test_overwrite_keeps_the_old_file_until_the_new_one_is_complete(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    preprocess(command(source, output, "pixels"))
    before = output.read_bytes()

    def die() -> None:
        def never(*args: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        datafile.compute_digests = never

    other = [*command(source, output, "pixels"), "--size", "16"]
    assert wait(start([*other, "--overwrite"], die)) == -signal.SIGKILL
    assert output.read_bytes() == before
    preprocess(other)  # resumes; the journal knows that the old file may be replaced
    assert read_manifest(output)["size"] == 16
    with pytest.raises(UserError, match=r"out\.h5: exists already; give --overwrite"):
        preprocess(other)


def test_a_killed_worker_gives_an_error_and_the_work_resumes(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"

    def die(self: object, task: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.Worker, "__call__", die)
        with pytest.raises(UserError, match="a worker process was killed.*fewer --workers"):
            preprocess(command(source, output, "pixels"))
    preprocess(command(source, output, "pixels"))
    Verify(str(output)).run()


def test_two_commands_cannot_write_one_file(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with locked(output):
        child = start(command(source, output, "pixels"))
        assert wait(child) == 1  # the forked child raises UserError
    preprocess(command(source, output, "pixels"))
    assert not (tmp_path / "out.h5.lock").exists()


def test_a_file_that_another_command_finished_meanwhile_is_not_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both commands began while there was none; the other is done when this one comes to write."""
    output, write = tmp_path / "out.h5", sources.write

    def after_the_other(*arguments: object) -> None:
        monkeypatch.undo()
        preprocess([*command(source, output, "pixels", workers=0), "--size", "16"])
        write(*arguments)

    monkeypatch.setattr(sources, "write", after_the_other)
    with pytest.raises(UserError, match=r"out\.h5: exists already; give --overwrite"):
        preprocess(command(source, output, "pixels", workers=0))
    assert read_manifest(output)["size"] == 16 and not journal.work_folder(output).exists()


def test_a_report_replaces_no_file_of_something_else(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out_report.csv").write_text("quarter,profit\n")
    with pytest.raises(UserError, match=r"out_report\.csv: exists already, and is no report of this program"):
        preprocess(command(source, tmp_path / "out.h5", "pixels", workers=0))
    assert (tmp_path / "out_report.csv").read_text() == "quarter,profit\n"


def test_a_damaged_journal_needs_overwrite(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    journal.work_folder(output).mkdir()
    (journal.work_folder(output) / "journal.json").write_text("{}")
    with pytest.raises(UserError, match="journal cannot be read; start over with --overwrite"):
        preprocess(command(source, output, "pixels"))
    preprocess([*command(source, output, "pixels"), "--overwrite"])
