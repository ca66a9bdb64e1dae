"""`python -m preprocess info FILE`: print the contents of a data file."""

import textwrap
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import tyro

from caption.data.hdf5 import RECORDS, SPLITS, manifest_of, open_file, read_texts
from caption.data.records import Records
from caption.data.vocabulary import UNKNOWN
from caption.data.words import unspaced_notice
from caption.errors import UserError
from caption.files import check_replaceable

SUFFIXES = (".png", ".pdf", ".svg", ".jpg")
BAR_WIDTH = 40  # characters of the longest bar
LINE_WIDTH = 48  # characters of a caption on a line of the montage


@dataclass(frozen=True)
class Info:
    """Print the contents of a data file: settings, counts, caption lengths, vocabulary coverage, sample captions."""

    file: Annotated[str, tyro.conf.Positional]
    """The HDF5 file."""
    montage: str = ""
    """Also draw sample images with their captions into this file (.png, .pdf)."""
    split: str = "train"
    """The split of the sample images and captions."""
    count: int = 12
    """Images in the montage."""
    seed: int = 1
    """Seed of the random sample."""

    def run(self) -> None:
        if self.count < 1:
            raise UserError(f"--count is {self.count}, but must be at least 1")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}, but must be 0 or more")
        if self.montage and Path(self.montage).suffix.lower() not in SUFFIXES:
            raise UserError(f"--montage {self.montage}: its name must end with {', '.join(SUFFIXES)}")
        if self.montage:
            check_replaceable(Path(self.montage))
        with open_file(self.file) as file:
            manifest = manifest_of(file)
            splits = [split for split in SPLITS if split in file]
            nonempty = [split for split in splits if len(file[split]["image_ids"])]
            split = self.split if self.split in nonempty else nonempty[0] if nonempty else splits[0]
            print(f"{self.file}: {Path(self.file).stat().st_size / 1e6:.1f} MB")
            print_settings(manifest)
            print(f"vocabulary: {len(read_texts(file, 'vocabulary'))} words")
            for name in splits:
                print_split(name, file[name], manifest["splits"][name], manifest["words"])
            total, rng = len(file[split]["image_ids"]), np.random.default_rng(self.seed)
            sample = sorted(rng.choice(total, min(self.count, total), replace=False).tolist())
            offsets, references = file[split]["caption_offsets"], read_texts(file, f"{split}/references")
            captions = {number: references[slice(*offsets[number : number + 2])] for number in sample}
            names = read_texts(file, f"{split}/file_names")
        print(f"examples of {split}:")
        for number in sample[:3]:
            print(f"  {names[number]}")
            for text in captions[number]:
                print(f"    {text}")
        if self.montage:
            draw_montage(self.file, split, captions, self.montage)
            print(f"wrote {self.montage}")


def print_settings(manifest: dict[str, Any]) -> None:
    """Print the settings that a file was made with."""
    for name, value in manifest.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items() if item)
        if value and name not in ("splits", "digests"):
            print(f"  {name}: {value}")


def print_split(split: str, group: h5py.Group, counts: dict[str, int], word_kind: str) -> None:
    """Print the counts of a split, its vocabulary coverage and the histogram of its caption lengths."""
    records = next(group[name] for name in RECORDS.values() if name in group)
    images_by_captions = np.bincount(np.diff(group["caption_offsets"][:]))  # [c]: images with c captions
    sizes = np.flatnonzero(images_by_captions).tolist()
    per_image = str(sizes[0]) if len(sizes) == 1 else ", ".join(f"{images_by_captions[c]} with {c}" for c in sizes)
    words, lengths = group["words"][:], np.diff(group["word_offsets"][:])
    print(f"{split}: {counts['images']} images, {counts['captions']} captions ({per_image} per image)")
    print(f"  {records.name}: {records.dtype} {list(records.shape)}{', virtual' if records.is_virtual else ''}")
    if not len(lengths):
        return
    print(f"  words in the vocabulary: {100 * np.mean(words != UNKNOWN):.2f} % of {len(words)}")
    print(f"  words per caption: mean {lengths.mean():.1f}, median {np.median(lengths):.0f}, longest {lengths.max()}")
    if notice := unspaced_notice(read_texts(group.file, f"{split}/references")[:1000], word_kind):
        print(f"  {notice}")
    histogram = np.bincount(lengths)
    for length in range(int(lengths.min()), int(np.percentile(lengths, 99.5)) + 1):
        bar = "#" * round(BAR_WIDTH * histogram[length] / histogram.max())
        print(f"  {length:4d} {histogram[length]:8d} {bar}".rstrip())
    longer = int(histogram[length + 1 :].sum())
    if longer:
        print(f"  more {longer:8d}")


def draw_montage(path: str, split: str, captions: dict[int, list[str]], output: str) -> None:
    """Draw images with their first two captions, in rows of four. Raises UserError if the file has no images."""
    from matplotlib.figure import Figure  # slow to import, and needed only here

    from caption.visualise.figures import save_figure
    from caption.visualise.fonts import font_families

    records = Records(path, split)
    if not captions:
        raise UserError(f"{path}: has no images to show")
    if records.store == "features":
        raise UserError(f"{path}: has features, not images; leave out --montage")
    columns = min(4, len(captions))
    rows = -(-len(captions) // columns)
    figure = Figure(figsize=(3 * columns, 3.6 * rows))
    figure.subplots_adjust(0.005, 0.15 / rows, 0.995, 1 - 0.015 / rows, 0.03, 0.22)
    image = np.empty((1, *records.shape), np.uint8)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (number, texts) in zip(axes.flat, captions.items(), strict=False):
        records.read([number], image)
        axis.imshow(image[0].transpose(1, 2, 0))
        wide = any(unicodedata.east_asian_width(character) in "WF" for text in texts[:2] for character in text)
        width = LINE_WIDTH // (2 if wide else 1)
        lines = [textwrap.fill(textwrap.shorten(text, 130, placeholder=" ..."), width) for text in texts[:2]]
        text, place = "\n".join(lines), {"va": "top", "transform": axis.transAxes}
        axis.text(0, -0.02, text, fontsize=7.5, fontfamily=font_families(text), parse_math=False, **place)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, Path(output))
