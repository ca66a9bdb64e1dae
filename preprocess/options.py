"""What every source has in common on the command line."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from caption.config import EncoderConfig
from caption.errors import UserError
from preprocess import journal
from preprocess.workers import available_cpus


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a data file is written, and how."""

    output: str
    """The HDF5 file to write."""
    store: Literal["pixels", "jpeg", "features"] = "pixels"
    """What to keep of a picture: its pixels, a JPEG file of them, or the features of the frozen --encoder."""
    quality: int = 90
    """Of the JPEG files."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Of the features."""
    device: str = "auto"
    """Of the encoder."""
    vocabulary: str = ""
    """Take the words of this data file instead of counting them on the train split."""
    overwrite: bool = False
    """Start over, and replace a file that is there."""
    min_count: int = 5
    """Keep words that stand at least so often in the captions of the train split."""
    max_length: int = 50
    """Longer captions are cut to so many words for training; references stay whole."""
    workers: int = field(default_factory=available_cpus)
    """Processes that decode pictures; 0: the main one."""
    shard: str = ""
    """Do only this part of the pictures: 3/16 is the third of sixteen. `python -m preprocess merge` joins them."""


def check_output(options: Output) -> None:
    """Raises UserError for options that cannot be meant, and when the output is whole already; before any work."""
    journal.settle(options.output, options.overwrite)
    started = None if options.overwrite else journal.load(journal.unfinished(options.output))
    if Path(options.output).exists() and not options.overwrite and not (started and started.replace):
        raise UserError(f"{options.output}: is there already; give --overwrite to replace it, or another --output")
    for name, lowest in (("min_count", 1), ("max_length", 1), ("workers", 0)):
        if getattr(options, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be at least {lowest}")
    if not 1 <= options.quality <= 100:
        raise UserError(f"--quality is {options.quality}, but must be from 1 to 100")
    read_shard(options.shard)


def read_shard(text: str) -> tuple[int, int]:
    """3/16 -> (3, 16); nothing -> (1, 1). Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--shard is {text!r}, but must be like 3/16: the third part of sixteen")
    return number, count
