"""The progress of the work on a data file, saved beside it so that an interrupted command can be resumed."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caption.errors import UserError
from caption.files import naming

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DATA = "data.h5"  # the unfinished data file, in the work folder


def work_folder(output: str | Path) -> Path:
    """Return the folder of the work on a data file that is not complete yet."""
    return Path(f"{output}.part")


@dataclass
class Journal:
    """The state of the work: all images before number `done` were processed; those in `bad` could not be used."""

    recipe: dict[str, Any]  # everything that determines the file's bytes; work on another recipe cannot be resumed
    replace: bool  # an existing file of this name may be replaced
    done: int = 0
    bad: dict[int, str] = field(default_factory=dict)  # number of the image -> reason
    complete: bool = False  # nothing remains but to rename the file

    def save(self, folder: Path) -> None:
        """Write the journal atomically, even if the power fails."""
        temporary = folder / "journal.json.part"
        with naming(temporary), temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(asdict(self), file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / "journal.json")


def load(folder: Path, overwrite: bool = False) -> Journal | None:
    """Return the saved journal, or None if there is none. Raises UserError if it cannot be read; with `overwrite`,
    returns None instead."""
    try:
        content = json.loads((folder / "journal.json").read_text(encoding="utf-8"))
        content["bad"] = {int(number): reason for number, reason in content["bad"].items()}
        return Journal(**content)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        if overwrite:
            return None
        raise UserError(f"{folder}: its journal cannot be read; start over with --overwrite") from None


@contextlib.contextmanager
def locked(output: str | Path) -> Iterator[None]:
    """Keep other processes of this machine from writing the same file, where the system has such locks. Raises
    UserError if another process holds the lock. It ends with its process, and forked workers do not inherit it."""
    path = Path(f"{output}.lock")
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{output}: another process is writing it; wait for that process, or stop it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def finalize(output: str | Path, overwrite: bool = False) -> None:
    """Move a complete data file to its final name and delete the work folder. Does nothing for an incomplete one."""
    folder = work_folder(output)
    state = load(folder, overwrite)
    if state and state.complete:
        if (folder / DATA).exists():
            (folder / DATA).replace(output)
        shutil.rmtree(folder)


def check_same_recipe(folder: Path, saved: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Raises UserError, naming the differences, if the work in the folder was begun by another command."""
    differences = [
        f"{name} was {saved.get(name)}, now {recipe.get(name)}"
        for name in [*recipe, *(set(saved) - set(recipe))]
        if saved.get(name) != recipe.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder}: holds the unfinished work of another command ({'; '.join(differences)}); finish that one, "
            "or start over with --overwrite"
        )
