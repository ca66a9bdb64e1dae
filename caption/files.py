"""Files that are written completely or not at all, by one process at a time, and over no file of somebody else's."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from caption.errors import UserError

LOCK = ".lock"  # in a folder, or after a file's name
MARK = "written by show-attend-and-tell"  # in every figure and page, which may therefore be replaced
PRETRAINED = Path(__file__).parents[1] / "pretrained"  # the models that come with the code, not with the package
HUB = "hf://"  # begins the name of a model on the Hugging Face Hub
TOKEN_BYTES = 4  # of the temporary names
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)  # Windows has no EDQUOT


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path of its own to write to; publish it as `path` on success, delete it on failure.

    Waiting for the disk takes 10 ms; not `durable` is for many small files that can be made again.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(TOKEN_BYTES)}.part")
    try:
        with naming(path):
            yield temporary
            publish(temporary, path) if durable else temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder of its own to fill; publish it as `path` on success, delete it on failure.

    With `replace`, a folder of that name, which we wrote, is deleted first.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(TOKEN_BYTES)}.part")
    try:
        with naming(path):
            temporary.mkdir(parents=True)
            yield temporary
            if replace and path.exists():
                remove_folder(path)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete file its final name, so that it is there and whole even if the power fails afterwards."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    with contextlib.suppress(OSError):  # Windows opens no folder, and some file systems cannot synchronise one
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may be in other encodings


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing what this one is about to write: a file, or all of a folder that exists.

    The lock lies in the folder, or beside the file, and is removed at the end. It ends with its process, however that
    ends, and forked workers do not inherit it. Of the processes that torchrun starts, the first has it for all. What
    killed processes have left of `path` is deleted. Raises UserError if another process holds the lock.
    """
    if not first_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path / LOCK if path.is_dir() else Path(f"{path}{LOCK}")
    lock = FileLock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path}: another process is writing it; wait for that process, or stop it") from None
    try:
        remove_leftovers(path)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows deletes no open file
            name.unlink()  # while it is held: whoever has opened it meanwhile sees that it is gone
        lock.release()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder and keep other processes from writing in it; remove it if it is empty at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def first_process() -> bool:
    """Return whether this is the only process, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote `path`, of which nobody else may write
    now."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 2 * TOKEN_BYTES}.part"):
        part.unlink()


def remove_folder(folder: Path) -> None:
    """Delete a folder that we wrote, if there is one. Raises UserError if another process is writing in it."""
    with contextlib.ExitStack() as held:
        for name in folder.rglob(f"*{LOCK}"):
            held.enter_context(locked(name.parent if name.name == LOCK else name.with_suffix("")))
        shutil.rmtree(folder, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raises UserError if there is a file of this name that is no figure and no page of ours."""
    if path.exists() and not (path.is_file() and MARK.encode() in path.read_bytes()):
        raise UserError(f"{path}: exists already, and is not {MARK}; give another name, or move that file away")


def run_folder(checkpoint: str) -> Path:
    """Return the folder of a checkpoint: that of its run, or the export itself. A model of the Hub has none here: its
    name is returned."""
    path = Path(checkpoint)
    return path if path.is_dir() or checkpoint.startswith(HUB) else path.parent


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError that names no file, as those of writing and closing do, or a temporary one.

    Where the disk is full, torch.save raises a RuntimeError about a position; it becomes the OSError behind it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        other = cause.filename and not str(cause.filename).startswith(f"{path}.")  # not a temporary name of it
        raise OSError(cause.errno, cause.strerror, cause.filename if other else str(path)) from error
