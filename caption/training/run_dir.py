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
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from caption import checkpoint
from caption.config import Config
from caption.config.validation import from_dict, require
from caption.data.dataset import CaptionDataset
from caption.errors import UserError, reading
from caption.evaluation.caption_set import CaptionSet
from caption.evaluation.metrics import VALIDATION, score_captions
from caption.files import locked_folder, naming, remove_leftovers, write_text
from caption.visualise.figures import draw_curves

EXAMPLES = 10  # images whose captions of every epoch are kept
FILES = ("config.json", "log.jsonl", "curves.png", "captions_val.json", "examples.txt")  # that a run replaces
NUMBER = (int, float)
LOGGED: dict[str, Any] = {
    "train": NUMBER,
    "val": NUMBER,
    "scores": NUMBER,
    "examples": str,
}  # types of a record's values
RESUMED = (  # beside the model
    "optimizer", "train_state", "rng_state", "cuda_rng_state", "device", "precision", "scaler", "data",
)  # fmt: skip


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder of a run and keep other processes from training in it. Raises UserError if one does."""
    with locked_folder(folder):
        for name in ("last.pt", "best.pt"):
            remove_leftovers(folder / name)
        yield


class RunLog:
    """Writes the log of a run and everything made from it."""

    def __init__(self, folder: Path, epoch: int) -> None:
        """Continue the folder's log at `epoch`; records of that epoch and later ones are removed."""
        self.folder, self.path = folder, folder / "log.jsonl"
        self.records = [record for record in read_records(folder) if record["epoch"] < epoch]
        self._write_records()
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
        results = score_captions(CaptionSet(captions, val.references(), word_kind=val.word_kind), VALIDATION).scores
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
        self._write_records()
        self._write_events(record)
        draw_curves(self.records, self.folder / "curves.png")
        write_text(self.folder / "examples.txt", self._examples())
        return scores

    def _write_records(self) -> None:
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in self.records))

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
                lines.append(f"  {record['epoch']:5}  {score:7.1f}  {record['examples'].get(name, '')}")
            lines.append("")
        return "\n".join(lines)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log.jsonl, one per epoch; none if there is no log.

    Lines that are damaged are left out, with a message: the log is for people, and no reason not to go on.
    """
    log, records = folder / "log.jsonl", []
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else [""]
    for number, line in enumerate(lines[:-1], 1):  # what follows the last end of line is half written
        try:
            with reading(f"{log}, line {number}", "it is left out"):
                record = json.loads(line)
                groups = [isinstance(value, kind) for name, kind in LOGGED.items() for value in record[name].values()]
                if type(record["epoch"]) is not int or not all(groups):
                    raise ValueError("not the record of an epoch")
                records.append(record)
        except UserError as error:
            print(error, file=sys.stderr)
    return records


def read_last(folder: str | Path) -> dict[str, Any]:
    """Return a run's last.pt. Raises UserError if it holds a model alone, as best.pt does."""
    path = Path(folder) / "last.pt"
    content = checkpoint.load(path)
    if missing := [name for name in RESUMED if name not in content]:
        raise UserError(
            f"{path}: has no {missing[0]}, so that it is a model, like best.pt, and not a run's last state; start a "
            f"new run from it, by --init-from {path}"
        )
    return content


def create_folder(config: Config) -> None:
    """Write config.json into the run's folder. Raises UserError if it holds another run, or files of something else."""
    folder = Path(config.output)
    if any((folder / name).exists() for name in ("last.pt", "best.pt")):
        raise UserError(
            f"{folder}: holds a run already; resume it with train.py --resume {folder}, or give another --output"
        )
    others = [name for name in FILES if (folder / name).exists()]
    with suppress(UserError):
        read_config(folder)
        others = []  # of a run that ended before it was saved
    if others:
        raise UserError(f"{folder}: its {others[0]} is not that of a run, and would be replaced; give another --output")
    _write_config(folder, config)


def read_config(folder: str | Path, epochs: int = 0) -> Config:
    """Return the configuration of a run, with more epochs if given.

    Raises UserError if the folder holds none, or for fewer epochs than before.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no run to resume (no config.json); start one with train.py PRESET")
    with reading(path, "train again"):
        content = json.loads(path.read_text(encoding="utf-8"))
        try:
            config = from_dict(Config, content)
        except UserError as error:
            raise UserError(f"{path}: not a configuration of this version ({error}); train again") from None
    if not epochs:
        return config
    before = config.training.epochs
    require(epochs >= before, "training.epochs", epochs, f"at least {before}, as before: a resumed run can only grow")
    return dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=epochs))


def record_epochs(config: Config) -> None:
    """Write a number of epochs that has grown into the run's config.json, and say what else it changes."""
    stored = read_config(config.output)
    before, epochs = stored.training.epochs, config.training.epochs
    if epochs != before:
        print(f"{epochs} epochs instead of {before}: the schedule goes on as in a run that had {epochs} from the start")
        _write_config(Path(config.output), read_config(config.output, epochs))


def _write_config(folder: Path, config: Config) -> None:
    write_text(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def coco_results(image_ids: Sequence[int], captions: Sequence[str]) -> str:
    """Return captions in COCO's results format, which its evaluation server and `loadRes` read."""
    pairs = zip(image_ids, captions, strict=True)
    return json.dumps([{"image_id": image_id, "caption": caption} for image_id, caption in pairs])
