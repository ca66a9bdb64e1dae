"""What a run leaves behind: a folder that can be read.

config.json          everything that was set
log.jsonl            one object an epoch
curves.png           losses and scores
captions_val.json    captions of the validation split, COCO results format
examples.txt         ten pictures with their captions of every epoch
best.pt, last.pt     the best model by its generated captions; the last, to resume from
tensorboard/         the numbers of log.jsonl once more
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from caption.config import Config
from caption.config.validation import from_dict
from caption.errors import UserError
from caption.files import atomic_write
from caption.visualise.figures import draw_curves


class Run:
    """The folder of one run. `epoch` is the one under way: what the log tells of it or later is taken out."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder = folder
        self.records = [record for record in read_records(folder) if record["epoch"] < epoch]
        write_text(self.log, "".join(json.dumps(record) + "\n" for record in self.records))
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def record(self, record: dict[str, Any]) -> None:
        """One epoch: groups of numbers by name, and `examples`, captions of the same pictures every epoch, with their
        `CIDEr-D of examples`."""
        self.records.append(record)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for group, values in record.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, str):
                    self.events.add_text(f"{group}/{name}", value, record["epoch"])
                else:
                    self.events.add_scalar(f"{group}/{name.replace(' ', '_')}", value, record["epoch"])
        self.events.flush()
        draw_curves(self.records, self.folder / "curves.png")
        write_text(self.folder / "examples.txt", self._examples())

    def _examples(self) -> str:
        """A table for each example picture: its captions of all epochs, one below the other, with their scores."""
        lines = []
        for name in self.records[-1]["examples"]:
            lines += [name, "  epoch  CIDEr-D  caption"]
            for record in self.records:
                score = record.get("CIDEr-D of examples", {}).get(name, float("nan"))
                lines.append(f"  {record['epoch']:5}  {score:7.1f}  {record['examples'][name]}")
            lines.append("")
        return "\n".join(lines)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Of every epoch in a run's log.jsonl; none where there is no run."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written


def create_folder(config: Config) -> Path:
    """The run's folder with its config.json. Raises UserError when it holds another run."""
    folder = Path(config.output)
    if any((folder / name).exists() for name in ("last.pt", "best.pt")):
        raise UserError(
            f"{folder}: holds a run already; go on with it by train.py --resume {folder}, or give another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    return folder


def read_config(folder: str | Path) -> Config:
    """The configuration of an earlier run. Raises UserError when the folder holds none."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no run to resume (no config.json); start one with train.py PRESET")
    try:
        return from_dict(Config, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError, UserError) as error:
        raise UserError(f"{path}: not a configuration of this program ({error})") from None


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def coco_results(image_ids: Sequence[int], captions: Sequence[str]) -> str:
    """COCO's results format, as its evaluation server and `loadRes` take it."""
    pairs = zip(image_ids, captions, strict=True)
    return json.dumps([{"image_id": image_id, "caption": caption} for image_id, caption in pairs])
