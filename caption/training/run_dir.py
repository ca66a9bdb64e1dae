"""The folder of a run.

config.json          the complete configuration
log.jsonl            one JSON object per epoch
curves.png           losses and scores over the epochs
captions_val.json    captions of the validation split, in COCO's results format
examples.txt         ten images with their captions of every epoch
best.pt, last.pt     the checkpoint with the best generated captions; the last one, to resume from
tensorboard/         the values of log.jsonl for TensorBoard
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from caption.config import Config
from caption.config.validation import from_dict
from caption.data.dataset import CaptionDataset
from caption.errors import UserError
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import VALIDATION, score_captions
from caption.files import naming, write_text
from caption.visualise.figures import draw_curves

EXAMPLES = 10  # images whose captions of every epoch are kept


class RunLog:
    """Writes the log of a run and everything made from it."""

    def __init__(self, folder: Path, epoch: int) -> None:
        """Continue the folder's log at `epoch`; records of that epoch and later ones are removed."""
        self.folder, self.path = folder, folder / "log.jsonl"
        self.records = [record for record in read_records(folder) if record["epoch"] < epoch]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))
        with naming(folder / "tensorboard"):
            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch)

    def write_epoch(
        self,
        epoch: int,
        trained: dict[str, float],
        validated: dict[str, float],
        val: CaptionDataset,
        captions: list[str],
    ) -> dict[str, float]:
        """Score the captions of the validation split, log the epoch and return the scores by name."""
        results = score_captions(CaptionSet(captions, val.references()), VALIDATION).scores
        scores = {score.name: score.value for score in results}
        write_text(self.folder / "captions_val.json", coco_results(val.image_ids, captions))
        names, per_image = val.file_names[:EXAMPLES], {score.name: score.per_image for score in results}
        record: dict[str, Any] = {
            "epoch": epoch,
            "train": trained,
            "val": validated,
            "scores": scores,
            "examples": dict(zip(names, captions, strict=False)),
            "CIDEr-D of examples": dict(zip(names, per_image["CIDEr-D"].tolist(), strict=False)),
        }
        self.records.append(record)
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._write_events(record)
        draw_curves(self.records, self.folder / "curves.png")
        write_text(self.folder / "examples.txt", self._examples())
        return scores

    def _write_events(self, record: dict[str, Any]) -> None:
        """Write the values of a record for TensorBoard."""
        with naming(self.folder / "tensorboard"):
            for group, values in record.items():
                for name, value in values.items() if isinstance(values, dict) else ():
                    if isinstance(value, str):
                        self.events.add_text(f"{group}/{name}", value, record["epoch"])
                    else:
                        self.events.add_scalar(f"{group}/{name.replace(' ', '_')}", value, record["epoch"])
            self.events.flush()

    def _examples(self) -> str:
        """Return a table for each example image: its captions of all epochs, with their scores."""
        lines = []
        for name in self.records[-1]["examples"]:
            lines += [name, "  epoch  CIDEr-D  caption"]
            for record in self.records:
                score = record.get("CIDEr-D of examples", {}).get(name, float("nan"))
                lines.append(f"  {record['epoch']:5}  {score:7.1f}  {record['examples'][name]}")
            lines.append("")
        return "\n".join(lines)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log.jsonl, one per epoch; none if there is no log."""
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written


def create_folder(config: Config) -> None:
    """Create the run's folder with its config.json. Raises UserError if it holds another run."""
    folder = Path(config.output)
    if any((folder / name).exists() for name in ("last.pt", "best.pt")):
        raise UserError(
            f"{folder}: holds a run already; resume it with train.py --resume {folder}, or give another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_config(folder: str | Path) -> Config:
    """Return the configuration of a run. Raises UserError if the folder holds none."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no run to resume (no config.json); start one with train.py PRESET")
    try:
        return from_dict(Config, json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError, UserError) as error:
        raise UserError(f"{path}: not a configuration of this version ({error}); train again") from None


def coco_results(image_ids: Sequence[int], captions: Sequence[str]) -> str:
    """Return captions in COCO's results format, which its evaluation server and `loadRes` read."""
    pairs = zip(image_ids, captions, strict=True)
    return json.dumps([{"image_id": image_id, "caption": caption} for image_id, caption in pairs])
