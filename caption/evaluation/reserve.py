"""Reserve the files that an evaluation will write: nobody else may write them meanwhile, nor may it replace others."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caption import checkpoint
from caption.config.inference import EvaluationConfig
from caption.errors import UserError
from caption.evaluation.report import check_folder
from caption.files import first_process, locked, locked_folder

PATHS = ("checkpoint", "data", "instances")
VALUES = ("seed", "java", "precision")


@contextlib.contextmanager
def reserve(args: EvaluationConfig) -> Iterator[EvaluationConfig]:
    """Lock the results and the report before any work is done, and yield `args`. Raises UserError if another process
    writes them, if the results are those of another evaluation, if captions without scores would replace others, or if
    the report's folder holds something else."""
    if not first_process():
        yield args
        return
    checkpoint.check_exists(args.checkpoint)
    with contextlib.ExitStack() as held:
        captions = args.folder / f"captions_{args.split}.json"
        held.enter_context(locked(args.results_path))  # and so the captions
        if args.captions_only and captions.exists() and not args.overwrite:
            raise UserError(f"{captions}: exists already; give --overwrite to replace it, or another --output")
        if args.results_path.exists() and not (args.captions_only or args.overwrite):
            _check_same_evaluation(args.results_path, dataclasses.asdict(args))
        if args.report:
            held.enter_context(locked_folder(Path(args.report)))
            check_folder(Path(args.report))
        yield args


def _check_same_evaluation(path: Path, asked: dict[str, Any]) -> None:
    """Raises UserError, naming the differences, if results were made with other settings than are asked for now."""
    try:
        saved = _comparable(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: exists already, and cannot be read; give --overwrite, or another --output") from None
    differences = [
        f"{name} was {saved.get(name)!r}, now {value!r}"
        for name, value in _comparable(asked).items()
        if saved.get(name) != value and (name, value) != ("precision", "auto")
    ]
    if differences:
        raise UserError(
            f"{path}: holds the results of another evaluation ({'; '.join(differences)}); give --overwrite to replace "
            "them, or another --output"
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the results depend on."""
    paths = {name: str(Path(settings[name]).resolve()) if settings[name] else "" for name in PATHS}
    knock_out = sorted(settings.get("knock_out") or ())  # older scores have none
    return {**paths, **{name: settings[name] for name in VALUES}, **settings["search"], "knock_out": knock_out}
