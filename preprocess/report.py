"""The report of everything wrong with a data set, and the summary of a data file that was written."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caption.data.hdf5 import SPLITS, open_file, read_checked, read_texts
from caption.data.records import Records
from caption.errors import UserError
from caption.files import atomic_write
from preprocess.records import Problem

HEADER = ("split", "image_id", "file_name", "problem")


def format_size(size: float) -> str:
    """Return a size in bytes as text."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def report_path(output: Path) -> Path:
    """Return the path of the report on a data file."""
    return output.with_name(output.stem + "_report.csv")


def write_report(problems: Sequence[Problem], output: Path, strict: bool) -> None:
    """Write the report, or remove an old one if there are no problems. Raises UserError if one of the problems is fatal
    and `strict`, or if a file of the report's name is no report."""
    path = report_path(output)
    if path.exists() and not path.read_bytes().startswith(",".join(HEADER).encode()):
        raise UserError(f"{path}: exists already, and is no report of this program; move it away, or change --output")
    if not problems:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(HEADER)
        lines.writerows(problem[:4] for problem in problems)
    fatal = [problem for problem in problems if problem.fatal]
    if fatal and strict:
        others = f", and {len(fatal) - 1} more" if len(fatal) > 1 else ""
        raise UserError(
            f"{fatal[0].file_name}: {fatal[0].problem}{others}; all are listed in {path}. Completed work is kept: fix "
            "them and run the same command again, or leave them out with --on-error skip"
        )


def equal_images(path: Path) -> list[Problem]:
    """Return the images of a data file whose record equals that of an earlier one, of any split: copies of one image
    under two names. Their checksums say where to look."""
    with open_file(path) as file:
        splits = [split for split in SPLITS if split in file]
        listed = [(split, *pair) for split in splits for pair in enumerate(read_checked(file, f"{split}/checksums"))]
        names = {split: read_texts(file, f"{split}/file_names") for split in splits}
        ids = {split: file[split]["image_ids"] for split in splits}
        records = {split: Records(path, split) for split in splits}
        counts = Counter(checksum for _, _, checksum in listed)
        first: dict[bytes, tuple[str, int]] = {}
        result = []
        for split, index, checksum in listed:
            if counts[checksum] > 1:
                key = hashlib.sha256(records[split].read_bytes(index)).digest()
                other, number = first.setdefault(key, (split, index))
                if (other, number) != (split, index):
                    problem = f"same image as {names[other][number]} of {other}"
                    result.append(Problem(split, int(ids[split][index]), names[split][index], problem, fatal=False))
    return result


def print_summary(path: Path, manifest: dict[str, Any], words: int, equal: Sequence[Problem]) -> None:
    """Print what was written into a data file, what was left out, and which images are equal."""
    for split, counts in manifest["splits"].items():
        print(f"{split}: {counts['images']} images, {counts['captions']} captions")
        if counts["captions_cut"]:
            print(f"  {counts['captions_cut']} captions cut to {manifest['max_length']} words for training")
        if counts["bad_images"]:
            print(f"  left out: {counts['bad_images']} bad images")
    if equal:
        names = f"{equal[0].file_name} of {equal[0].split} is the {equal[0].problem}"
        print(f"{len(equal)} images are the same as another, perhaps of another split: {names}")
    for reason, count in manifest["dropped"].items():
        if count:
            print(f"left out: {count} {reason}")
    if report_path(path).exists():
        print(f"{report_path(path)} lists what was left out, images that are in no list, and equal ones")
    print(f"vocabulary: {words} words")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
