"""The command-line options that all readers share."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from caption.config import EncoderConfig
from caption.config.validation import require
from caption.data.hdf5 import read_vocabulary
from caption.data.vocabulary import Vocabulary
from caption.errors import UserError, reading
from caption.files import HUB, locked
from preprocess import journal
from preprocess.workers import available_cpus


@dataclass(frozen=True, kw_only=True)
class Output:
    """The data file to write."""

    output: str
    """The HDF5 file to write."""
    store: Literal["pixels", "jpeg", "features"] = "pixels"
    """Content to store for each image: its pixels, a JPEG file of them, or the features of the frozen --encoder."""
    quality: int = 90
    """Quality of the JPEG files, from 1 to 100."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder of the features."""
    device: str = "auto"
    """Device of the encoder."""
    vocabulary: str = ""
    """Use the vocabulary of this data file or model (best.pt, an export, hf://owner/name) instead of counting the words
    of the train split."""
    words: Literal["auto", "ptb", "unicode", "characters"] = "auto"
    """Tokeniser of the captions. ptb: for English; unicode: splits at Unicode's word boundaries, for other languages
    with spaces; characters: takes each character, with its marks, as a word, for Chinese, Japanese, Thai and others
    without. Auto: ptb, or that of --vocabulary."""
    overwrite: bool = False
    """Start over, and replace an existing file."""
    min_count: int = 5
    """Keep words that occur at least this often in the captions of the train split."""
    max_length: int = 50
    """Cut longer captions to this number of words for training; references are not cut."""
    workers: int = field(default_factory=available_cpus)
    """Processes that decode images; 0: the main process."""
    shard: str = ""
    """Process only this part of the images: 3/16 is the third of sixteen. `python -m preprocess merge` joins them."""


def check_output(options: Output) -> None:
    """Raises UserError for invalid options, or if the output exists already; called before any work is done."""
    if journal.work_folder(options.output).exists():
        with locked(Path(options.output)):
            journal.finalize(options.output, options.overwrite)
    check_free(options)
    require(options.min_count >= 1, "--min-count", options.min_count, "at least 1")
    require(options.max_length >= 1, "--max-length", options.max_length, "at least 1")
    require(options.workers >= 0, "--workers", options.workers, "at least 0")
    require(1 <= options.quality <= 100, "--quality", options.quality, "from 1 to 100")
    parse_shard(options.shard)


def choose_words(options: Output) -> str:
    """Return the kind of words, one of WORDS. Raises UserError if the file of --vocabulary has others."""
    if not options.vocabulary:
        return "ptb" if options.words == "auto" else options.words
    theirs = given_vocabulary(options.vocabulary).word_kind
    if options.words not in ("auto", theirs):
        raise UserError(
            f"--words is {options.words}, but the words of --vocabulary {options.vocabulary} are {theirs}; leave out "
            "one of the two"
        )
    return theirs


def given_vocabulary(source: str) -> Vocabulary:
    """Return the vocabulary of a data file, or of a model in any form that `checkpoint.load` takes."""
    if not (source.startswith(HUB) or source.endswith(".pt") or Path(source).is_dir()):
        return read_vocabulary(source)
    from caption import checkpoint  # with PyTorch, which preprocessing does without

    content = checkpoint.load(source)
    with reading(source, "give another model, or a data file"):
        return Vocabulary.from_checkpoint(content)


def check_free(options: Output) -> None:
    """Raises UserError if the output exists already and may not be replaced."""
    started = None if options.overwrite else journal.load(journal.work_folder(options.output))
    if Path(options.output).exists() and not options.overwrite and not (started and started.replace):
        raise UserError(f"{options.output}: exists already; give --overwrite to replace it, or another --output")


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number and the count of "3/16", or (1, 1) of "". Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    number, count = map(int, match.groups()) if match else (0, 0)
    require(1 <= number <= count, "--shard", repr(text), "like 3/16: the third part of sixteen")
    return number, count
