"""Checkpoints: a dict of tensors and plain values; loading one never runs code from the file."""

import pickle
from pathlib import Path
from typing import Any

import torch

from caption.errors import UserError
from caption.files import atomic_write

NAME = "show-attend-and-tell checkpoint"
FORMAT = f"{NAME} 2"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, also if the machine fails meanwhile."""
    with atomic_write(path) as part:
        torch.save({"format": FORMAT, **content}, part)


def load(path: str | Path) -> dict[str, Any]:
    """Return the dict that `save` wrote, on the CPU. Raises UserError for anything else."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; a run's folder holds best.pt and last.pt")
    content: Any = None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).split("WeightsUnpickler error")[-1]:  # the error names a class or function
            raise UserError(
                f"{path}: holds pickled code, which is refused; load only checkpoints that train.py wrote"
            ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError):
        pass  # not what torch.save writes
    if not isinstance(content, dict) or not str(content.get("format")).startswith(NAME):
        raise UserError(f"{path}: not a checkpoint of this program ({FORMAT}); give a run's best.pt or last.pt")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: is a {content['format']}, but this version reads {FORMAT}; train the model again")
    return content
