"""The report of everything wrong with a data set, and the summary of a data file that was written."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def print_summary(path: Path, manifest: dict[str, Any], words: int) -> None:
    """Print what was written into a data file, and what was left out."""
    for split, counts in manifest["splits"].items():
        print(f"{split}: {counts['images']} images, {counts['captions']} captions")
        if counts["captions_cut"]:
            print(f"  {counts['captions_cut']} captions cut to {manifest['max_length']} words for training")
        if counts["bad_images"]:
            print(f"  left out: {counts['bad_images']} bad images")
    for reason, count in manifest["dropped"].items():
        if count:
            print(f"left out: {count} {reason}")
    if report_path(path).exists():
        print(f"{report_path(path)} lists what was left out, and images that are in no list")
    print(f"vocabulary: {words} words")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
