"""Files are whole or not there, are written by one process at a time, and replace nothing of the user's."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caption.errors import UserError
from caption.files import atomic_folder, atomic_write, locked, remove_folder, write_text

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")


def test_two_writers_of_a_file_leave_a_whole_one_and_nothing_else(tmp_path: Path) -> None:
    """The one that ends last wins, whichever began first."""
    path = tmp_path / "last.pt"
    with atomic_write(path) as first:
        first.write_text("first, unfinished")
        with atomic_write(path) as second:
            second.write_text("second")
        assert path.read_text() == "second" and first.read_text() == "first, unfinished"
        first.write_text("first")
    assert path.read_text() == "first" and [*tmp_path.iterdir()] == [path]


def test_an_atomic_write_reaches_the_disk_and_so_does_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the file under its temporary name; after the rename the folder."""
    path, synchronised = tmp_path / "file", []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synchronised.append((is_folder, path.exists(), os.fstat(descriptor).st_size if not is_folder else 4))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "text")
    assert synchronised == [(False, False, 4), (True, True, 4)]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    """Filled elsewhere, and left out altogether if that is interrupted; one that exists is replaced only on request."""
    folder = tmp_path / "new" / "folder"
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as part:
        (part / "half").touch()
        raise KeyboardInterrupt
    assert not [*folder.parent.iterdir()]
    with atomic_folder(folder) as part:
        (part / "first").touch()
        assert not folder.exists()
    with pytest.raises(OSError, match="folder"), atomic_folder(folder) as part:
        (part / "second").touch()
    assert [path.name for path in folder.iterdir()] == ["first"]
    with atomic_folder(folder, replace=True) as part:
        (part / "third").touch()
    assert [path.name for path in folder.iterdir()] == ["third"] and [*folder.parent.iterdir()] == [folder]


def in_child(action: Callable[[], object]) -> int:
    """Call `action` in a forked process and return that process's number; it exits with 3 for a UserError."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except UserError:
            status = 3
        finally:
            os._exit(status)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@forks
def test_a_lock_ends_with_its_process_and_its_workers_do_not_keep_it(tmp_path: Path) -> None:
    """Of the killed process, a worker lives on."""
    path, worker = tmp_path / "out.h5", tmp_path / "worker"

    def hold() -> None:
        with locked(path):
            write_text(worker, str(in_child(lambda: time.sleep(60))))
            time.sleep(60)

    def take() -> None:
        with locked(path):
            pass

    holder = in_child(hold)
    while not worker.exists():
        time.sleep(0.01)
    assert exit_code(in_child(take)) == 3
    with pytest.raises(UserError, match=r"out\.h5: another process is writing it; wait for that process, or stop it"):
        take()
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    take()
    os.kill(int(worker.read_text()), signal.SIGKILL)
    worker.unlink()
    assert not [*tmp_path.iterdir()]  # nor does the lock's own file stay


@forks
def test_what_a_killed_writer_left_is_deleted_under_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"

    def die() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(in_child(die)) == -signal.SIGKILL and len([*tmp_path.iterdir()]) == 1
    own = [tmp_path / name for name in ("out.h5.part", "out.h5.mine.part", "out_h5.01234567.part")]
    for file in own:
        file.write_text("stays")
    with locked(path):
        assert {*tmp_path.glob("*.part")} == {*own}


def test_a_folder_is_not_removed_while_a_process_writes_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    remove_folder(folder)  # not there: nothing to do
    for held in (folder, folder / "scores_test.json"):
        folder.mkdir(exist_ok=True)
        (folder / "best.pt").write_text("x")
        with locked(held), pytest.raises(UserError, match="another process is writing it"):
            remove_folder(folder)
        assert (folder / "best.pt").exists()
    remove_folder(folder)
    assert not folder.exists()
