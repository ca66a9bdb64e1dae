"""Checkpoints: a dict of tensors and plain values; loading one never runs code from the file.

What `exported` wrote is read in the same way: wherever a checkpoint is asked for, a model that was exported will do.
"""

import os
import pickle
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from caption import exported
from caption.errors import UserError, reading
from caption.files import HUB, atomic_write

NAME = "show-attend-and-tell checkpoint"
FORMAT = f"{NAME} 2"
BLOCK = 2**20  # bytes read at a time


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically, also if the machine fails meanwhile.

    Raises UserError for weights that are not finite, which would replace good ones.
    """
    check_finite(content["model"], f"{path} is not written")
    with atomic_write(path) as part, part.open("w+b") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.seek(-2, os.SEEK_END)  # the length of the zip archive's comment, which ends the file
        file.write(len(_checksum(0)).to_bytes(2, "little"))
        file.write(_checksum(_crc(file, file.tell())))


def load(path: str | Path) -> dict[str, Any]:
    """Return the dict that `save` wrote, or the part of it that was exported, on the CPU; `path` is a file, the folder
    of an export, or hf://owner/name[@revision]. Raises UserError for anything else, and for a damaged file."""
    check_exists(path)
    if str(path).startswith(HUB):
        return exported.load(exported.fetch(str(path)))
    path = Path(path)
    if path.is_dir():
        return exported.load(path)
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
        end = max(0, file.seek(0, os.SEEK_END) - len(_checksum(0)))
        file.seek(end)
        found = file.read()
        # A checkpoint of an earlier version has no checksum.
        damaged = found.startswith(_checksum(0)[:6]) and found != _checksum(_crc(file, end))
    content: Any = None
    if is_archive:
        others = [name for name in ("best.pt", "last.pt") if name != path.name and path.with_name(name).is_file()]
        remedy = f"copy it again, or use {others[0]} beside it" if others else "copy it again, or train again"
        with reading(path, remedy):
            if damaged:
                raise ValueError("its checksum does not match")
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                if "global" not in str(error).split("WeightsUnpickler error")[-1]:  # it names a class or function
                    raise
                raise UserError(
                    f"{path}: holds pickled code, which is refused; load only checkpoints that train.py wrote"
                ) from None
    if not isinstance(content, dict) or not str(content.get("format")).startswith(NAME):
        raise UserError(f"{path}: not a checkpoint of this program ({FORMAT}); give a run's best.pt or last.pt")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: is a {content['format']}, but this version reads {FORMAT}; train the model again")
    return content


def check_exists(name: str | Path) -> None:
    """Raise UserError if there is no file and no export of this name; of the Hub, only a download can tell."""
    path = Path(name)
    if str(name).startswith(HUB) or exported.is_export(path):
        return
    if path.is_dir():
        models = [each for each in sorted(path.iterdir()) if each.suffix == ".pt" or exported.is_export(each)]
        remedy = f"give a checkpoint in it, such as {models[0]}" if models else "there is no checkpoint in it"
        raise UserError(f"{path}: is a folder; {remedy}")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; a run has last.pt, and best.pt after its first epoch")


def _checksum(crc: int) -> bytes:
    """Return what the file ends with: a comment in the zip archive that torch.save writes."""
    return f"crc32 {crc:08x}".encode()


def _crc(file: BinaryIO, size: int) -> int:
    """Return the CRC-32 of the first bytes, and leave the file behind them.

    The archive has a CRC-32 of each of its parts, but torch.load checks none, and they do not cover its directory.
    """
    crc = file.seek(0)
    for start in range(0, size, BLOCK):
        crc = zlib.crc32(file.read(min(BLOCK, size - start)), crc)
    return crc


def load_weights(module: nn.Module, weights: Any, source: str) -> None:
    """Fill a module from a state dict. Raises UserError that names the entries that do not fit, or are not finite."""
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{source}: holds no weights by name; save model.state_dict() with torch.save")
    own = module.state_dict()
    problems = {
        "lacks": [name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        "has no place for": [name for name in weights if name not in own],
        "has other shapes for": [
            f"{name} {list(value.shape)} (here {list(own[name].shape)})"
            for name, value in weights.items()
            if name in own and value.shape != own[name].shape
        ],
    }
    found = [
        f"{problem} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise UserError(f"{source}: its weights do not fit: {'; '.join(found)}")
    check_finite(weights, source)
    module.load_state_dict(weights, strict=False)


def check_finite(weights: dict[str, Tensor], source: str) -> None:
    """Raise UserError for the first entry that holds a NaN or an infinity."""
    for name, value in weights.items():
        if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise UserError(
                f"{source}: {name} is not finite (NaN or infinity), as when training diverged; use an earlier "
                "checkpoint, and a lower learning rate"
            )
