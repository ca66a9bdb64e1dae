"""How far the work on a data file is; kept beside it, so that a killed command can go on."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caption.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DATA = "data.h5"  # what will be the file, in the folder of the work on it


def unfinished(output: str | Path) -> Path:
    """The folder of the work on a file that is not whole yet."""
    return Path(f"{output}.part")


@dataclass
class Journal:
    """All pictures before number `done` were looked at; those in `bad` could not be used."""

    recipe: dict[str, Any]  # what decides the file's bytes; work on another recipe cannot be continued
    replace: bool  # a finished file of this name may be replaced
    done: int = 0
    bad: dict[int, str] = field(default_factory=dict)  # number of the picture, reason
    whole: bool = False  # nothing is left to do but to rename the file

    def save(self, folder: Path) -> None:
        """Whole or not at all, even when the power goes."""
        part = folder / "journal.json.part"
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(asdict(self), file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / "journal.json")


def load(folder: Path, overwrite: bool = False) -> Journal | None:
    """What was saved there last; None: nothing. Raises UserError when it cannot be read, unless to `overwrite` it."""
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
    """Keep other processes of this machine from working on the same file; where there are such locks.

    Raises UserError when one does. A lock ends with its process, and forked workers do not inherit it.
    """
    path = Path(f"{output}.lock")
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{output}: another process is at work on it; wait for it, or end it") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def settle(output: str | Path, overwrite: bool = False) -> None:
    """Give a file that is whole its name, and clear away what was needed to make it."""
    folder = unfinished(output)
    log = load(folder, overwrite)
    if log and log.whole:
        if (folder / DATA).exists():
            (folder / DATA).replace(output)
        shutil.rmtree(folder)


def check_same(folder: Path, found: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, when the work in the folder is that of another command."""
    differences = [
        f"{name} was {found.get(name)}, now {recipe.get(name)}"
        for name in [*recipe, *(set(found) - set(recipe))]
        if found.get(name) != recipe.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder}: holds the unfinished work of another command ({'; '.join(differences)}); finish that one, "
            "or start over with --overwrite"
        )
