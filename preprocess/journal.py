"""The progress of the work on a data file, saved beside it so that an interrupted command can be resumed."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caption.errors import UserError
from caption.files import publish, write_text

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
        write_text(folder / "journal.json", json.dumps(asdict(self)))


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


def finalize(output: str | Path, overwrite: bool = False) -> None:
    """Move a complete data file to its final name and delete the work folder. Does nothing for an incomplete one."""
    folder = work_folder(output)
    state = load(folder, overwrite)
    if state and state.complete:
        if (folder / DATA).exists():
            publish(folder / DATA, Path(output))
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
