"""Preprocessing that is killed, at any moment, goes on and ends with the same bytes."""

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

from caption.data.hdf5 import Records, read_manifest
from caption.errors import UserError
from preprocess import datafile, journal, writer
from preprocess.__main__ import main as preprocess
from preprocess.verify import Verify

COUNT = 330  # pictures: ten jobs and a bit
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, their captions, and weights of an encoder."""
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
    given = ["folder", "--images", str(source / "images"), "--captions", str(source / "captions.csv")]
    given += ["--output", str(output), "--size", "32", "--min-count", "1", "--store", store, "--workers", str(workers)]
    if store == "features":
        given += ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(source / "weights.pth")]
        given += ["--device", "cpu"]
    return given


def start(arguments: list[str], change: Callable[[], None] = lambda: None) -> int:
    """The command in a forked child, which needs no time to import; `change` is done to it first."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            torch.set_num_threads(1)  # the parent's threads are not there
            change()
            preprocess(arguments)
            status = 0
        finally:
            os._exit(status)
    return child


def wait(child: int) -> int:
    """Exit code, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def noted(output: Path) -> int:
    """How many pictures the journal says are done."""
    found = journal.load(journal.work_folder(output))
    return found.done if found else 0


def wait_for_more(output: Path, before: int) -> None:
    """Until the journal says that more pictures than before are done, or the file is whole."""
    end = time.monotonic() + 60
    while not output.exists() and noted(output) <= before:
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("store", ["pixels", "jpeg", "features"])
def test_killed_at_random_moments(
    source: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writer, "SYNC_SECONDS", 0.0)  # so that so short a work is noted at every job
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"
    begun = time.monotonic()
    assert wait(start(command(source, whole, store))) == 0
    seconds = time.monotonic() - begun
    chance, kills, rounds, went_on = random.Random(1), 0, 0, 0
    while kills < 22:
        before = noted(killed)
        went_on += before > 0
        child = start(command(source, killed, store))
        if kills % 2:  # at any moment; a slow machine may still be starting
            time.sleep(chance.uniform(0, seconds))
        else:  # soon after some more of the work was noted
            wait_for_more(killed, before)
            time.sleep(chance.uniform(0, 0.1 * seconds))
        os.kill(child, signal.SIGKILL)
        if wait(child) == -signal.SIGKILL:
            kills += 1
        journal.finalize(killed)
        if killed.exists():
            assert killed.read_bytes() == whole.read_bytes()
            killed.unlink()
            rounds += 1
    wait(start(command(source, killed, store)))
    assert killed.read_bytes() == whole.read_bytes() and not journal.work_folder(killed).exists()
    print(f"{store}: killed {kills} times, {went_on} times after some of the work; whole {rounds + 1} times")
    assert went_on >= 5
    Verify(str(killed)).run()


@pytest.mark.parametrize("store", ["pixels", pytest.param("jpeg", marks=pytest.mark.slow)])
def test_killed_while_the_captions_are_written(source: Path, tmp_path: Path, store: str) -> None:
    """A kill before each thing that HDF5 is asked to make, and before and after the renaming."""
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"

    def command_of(path: Path) -> list[str]:  # few pictures, and no processes to wait for
        return [*command(source, path, store, workers=0), "--shard", "1/8"]

    assert wait(start(command_of(whole))) == 0
    moments = 0

    def die_at(number: int) -> Callable[[], None]:
        def change() -> None:
            calls = 0

            def counted(function: Callable[..., object]) -> Callable[..., object]:
                def call(*arguments: object, **options: object) -> object:
                    nonlocal calls
                    calls += 1
                    if calls == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*arguments, **options)

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
        assert killed.read_bytes() == whole.read_bytes(), moments
        assert not journal.work_folder(killed).exists()
        killed.unlink()
    assert moments > 40


def test_bad_images_are_mended_or_passed_over_without_losing_the_rest(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, mended, skipped = (tmp_path / f"{name}.h5" for name in ("whole", "mended", "skipped"))
    preprocess(command(source, whole, "pixels"))
    bad = source / "images" / "5.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[:300])
    try:
        for path in (mended, skipped):
            with pytest.raises(
                UserError, match=r"5\.jpg: unreadable.*listed in .*_report\.csv. Completed work is kept"
            ):
                preprocess(command(source, path, "pixels"))
        capsys.readouterr()
        preprocess([*command(source, skipped, "pixels"), "--on-error", "skip"])
        assert f"resuming after {COUNT} of {COUNT} images; retrying 1 bad images" in capsys.readouterr().out
    finally:
        bad.write_bytes(content)
    preprocess(command(source, mended, "pixels"))
    assert mended.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "mended_report.csv").exists() and (tmp_path / "skipped_report.csv").exists()

    for split, counts in read_manifest(skipped)["splits"].items():
        everything, rest = Records(whole, split), Records(skipped, split)
        assert len(rest) == counts["images"] == len(everything) - counts["bad_images"]
        gone = 0
        for index in range(len(rest)):
            if rest.read_bytes(index) != everything.read_bytes(index + gone):
                gone += 1
                assert rest.read_bytes(index) == everything.read_bytes(index + gone)
        assert gone <= counts["bad_images"]
    Verify(str(skipped)).run()


def test_work_of_another_command_is_not_mixed_in(source: Path, tmp_path: Path) -> None:
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


def test_overwrite_keeps_the_old_file_until_the_new_one_is_whole(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    preprocess(command(source, output, "pixels"))
    before = output.read_bytes()

    def die() -> None:
        def never(*arguments: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        datafile.compute_digests = never

    other = [*command(source, output, "pixels"), "--size", "16"]
    assert wait(start([*other, "--overwrite"], die)) == -signal.SIGKILL
    assert output.read_bytes() == before
    preprocess(other)  # the work goes on; that the old file may be replaced was said before
    assert read_manifest(output)["size"] == 16
    with pytest.raises(UserError, match=r"out\.h5: exists already; give --overwrite"):
        preprocess(other)


def test_a_killed_worker_is_told_and_its_work_goes_on(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"

    def die(self: object, task: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer.Worker, "__call__", die)
        with pytest.raises(UserError, match="a worker process was killed.*fewer --workers"):
            preprocess(command(source, output, "pixels"))
    preprocess(command(source, output, "pixels"))
    Verify(str(output)).run()


def test_two_at_once_do_not_mix(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with journal.locked(output):
        child = start(command(source, output, "pixels"))
        assert wait(child) == 1  # the forked child raises UserError
    preprocess(command(source, output, "pixels"))
    assert not (tmp_path / "out.h5.lock").exists()


def test_a_journal_that_cannot_be_read(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    journal.work_folder(output).mkdir()
    (journal.work_folder(output) / "journal.json").write_text("{}")
    with pytest.raises(UserError, match="journal cannot be read; start over with --overwrite"):
        preprocess(command(source, output, "pixels"))
    preprocess([*command(source, output, "pixels"), "--overwrite"])
