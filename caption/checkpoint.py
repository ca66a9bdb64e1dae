"""Checkpoints: one plain dict of tensors and plain values, loaded without running any code from the file."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from caption.errors import UserError
from caption.files import atomic_write

FORMAT = "show-attend-and-tell checkpoint 1"


def save(path: Path, content: dict[str, Any]) -> None:
    """The file is whole or it is not there, even if the machine fails."""
    with atomic_write(path) as part, part.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: str | Path) -> dict[str, Any]:
    """The dict that `save` wrote, on the CPU. Raises UserError for anything else."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; a run's folder holds best.pt and last.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).split("WeightsUnpickler error")[-1]:  # names a class or function, so code
            raise UserError(
                f"{path}: holds pickled code, which is refused; load only checkpoints that train.py wrote"
            ) from None
        raise _not_ours(path) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError):
        raise _not_ours(path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _not_ours(path)
    return content


def _not_ours(path: str | Path) -> UserError:
    return UserError(f"{path}: not a checkpoint of this program ({FORMAT}); give a run's best.pt or last.pt")
