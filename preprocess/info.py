"""`python -m preprocess info FILE`: what is in a data file."""

import json
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro

from caption.data.hdf5 import RECORDS, SPLITS, Records, open_file
from caption.data.vocabulary import UNKNOWN
from caption.errors import UserError

KINDS = (".png", ".pdf", ".svg", ".jpg")
BAR = 40  # letters of the longest bar
WRAP = 48  # letters of a caption on a line of the montage


@dataclass(frozen=True)
class Info:
    """Print what a data file holds: what made it, counts, lengths of captions, coverage of the vocabulary, captions."""

    file: Annotated[str, tyro.conf.Positional]
    """The HDF5 file."""
    montage: str = ""
    """Also draw sample pictures with their captions into this file (.png, .pdf)."""
    split: str = "train"
    """Whose captions and pictures are shown."""
    count: int = 12
    """Pictures in the montage."""
    seed: int = 1
    """Of the sample."""

    def run(self) -> None:
        if self.count < 1:
            raise UserError(f"--count is {self.count}, but must be at least 1")
        if self.montage and Path(self.montage).suffix.lower() not in KINDS:
            raise UserError(f"--montage {self.montage}: its name must end with {', '.join(KINDS)}")
        with open_file(self.file) as file:
            manifest = json.loads(file.attrs["manifest"])
            there = [split for split in SPLITS if split in file]
            filled = [split for split in there if len(file[split]["image_ids"])]
            shown = self.split if self.split in filled else filled[0] if filled else there[0]
            print(f"{self.file}: {Path(self.file).stat().st_size / 1e6:.1f} MB")
            for name, value in manifest.items():
                if isinstance(value, dict):
                    value = ", ".join(f"{key} {each}" for key, each in value.items() if each)
                if value and name not in ("splits", "digests"):
                    print(f"  {name}: {value}")
            print(f"vocabulary: {len(file['vocabulary'])} words")
            for split in there:
                print_split(split, file[split], manifest["splits"][split])
            samples = choose(len(file[shown]["image_ids"]), self.count, self.seed)
            captions = {number: references(file[shown], number) for number in samples}
            names = {number: file[shown]["file_names"].asstr()[number] for number in samples}
        print(f"some of {shown}:")
        for number in samples[:3]:
            print(f"  {names[number]}")
            for text in captions[number]:
                print(f"    {text}")
        if self.montage:
            draw_montage(self.file, shown, captions, self.montage)
            print(f"wrote {self.montage}")


def choose(total: int, count: int, seed: int) -> list[int]:
    """So many pictures, in the file's order."""
    found: list[int] = sorted(np.random.default_rng(seed).choice(total, min(count, total), replace=False).tolist())
    return found


def references(group: h5py.Group, number: int) -> list[str]:
    first, end = group["image_captions"][number : number + 2]
    found: list[str] = group["references"].asstr()[first:end].tolist()
    return found


def print_split(split: str, group: h5py.Group, counts: dict[str, int]) -> None:
    """Counts, the histogram of the captions' lengths, and what share of the words the vocabulary knows."""
    records = next(group[name] for name in RECORDS.values() if name in group)
    captions_each = np.bincount(np.diff(group["image_captions"][:]))
    each = ", ".join(
        f"{n} of {count}" if captions_each[count + 1 :].any() or captions_each[:count].any() else f"{count}"
        for count, n in enumerate(captions_each)
        if n
    )
    words, lengths = group["words"][:], np.diff(group["caption_words"][:])
    print(f"{split}: {counts['pictures']} pictures, {counts['captions']} captions ({each} a picture)")
    print(f"  {records.name}: {records.dtype} {list(records.shape)}{', virtual' if records.is_virtual else ''}")
    if not len(lengths):
        return
    print(f"  words in the vocabulary: {100 * np.mean(words != UNKNOWN):.2f} % of {len(words)}")
    print(f"  words a caption: mean {lengths.mean():.1f}, median {np.median(lengths):.0f}, longest {lengths.max()}")
    shares = np.bincount(lengths)
    for length in range(int(lengths.min()), int(np.percentile(lengths, 99.5)) + 1):
        bar = "█" * round(BAR * shares[length] / shares.max())
        print(f"  {length:4d} {shares[length]:8d} {bar}".rstrip())
    rest = int(shares[length + 1 :].sum())
    if rest:
        print(f"  more {rest:8d}")


def draw_montage(path: str, split: str, captions: dict[int, list[str]], output: str) -> None:
    """Pictures with their first two captions, in rows of four. Raises UserError for a file without pictures."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    records = Records(path, split)
    if not captions:
        raise UserError(f"{path}: holds no picture to show")
    if records.store == "features":
        raise UserError(f"{path}: holds features, no pictures; leave out --montage")
    columns = min(4, len(captions))
    lines = -(-len(captions) // columns)
    figure = Figure(figsize=(3 * columns, 3.6 * lines))
    figure.subplots_adjust(0.005, 0.15 / lines, 0.995, 1 - 0.015 / lines, 0.03, 0.22)
    picture = np.empty((1, *records.shape), np.uint8)
    axes: Any = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (number, texts) in zip(axes.flat, captions.items(), strict=False):
        records.read([number], picture)
        axis.imshow(picture[0].transpose(1, 2, 0))
        told = [textwrap.fill(textwrap.shorten(text, 130, placeholder=" ..."), WRAP) for text in texts[:2]]
        axis.text(0, -0.02, "\n".join(told), fontsize=7.5, va="top", transform=axis.transAxes, parse_math=False)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks become boxes
        figure.savefig(output, dpi=110)
