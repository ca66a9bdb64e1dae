"""Read caption files with an image and a caption per line: Flickr's .token, CSV (any separator) and JSON lines."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from caption.errors import UserError
from preprocess.sources import read_lines

# Accepted names of columns and keys.
IMAGE_NAMES = ("file_name", "filename", "image", "image_name", "file", "path", "img", "picture")
CAPTION_NAMES = ("caption", "captions", "comment", "text", "sentence", "raw")
SPLIT_NAMES = ("split",)
SEPARATORS = ",\t;|"


class Row(NamedTuple):
    """A caption of an image, as the file has it."""

    image: str
    caption: Any  # a string, unless the file is malformed
    split: str = ""


def read_captions(path: Path) -> Iterator[Row]:
    """Yield the rows of a caption file; its suffix and first line decide the format. Raises UserError if the file is
    missing, or a line does not fit the format."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    header = next((line for line in read_lines(path) if line.strip()), "")
    if re.match(r"[^\t]+#\w*\t", header):
        return read_tokens(path)
    return _read_table(path, header)


def read_tokens(path: Path) -> Iterator[Row]:
    """Yield rows from lines like `image.jpg#0<tab>caption`. Raises UserError for other lines."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab or "#" not in name:
                raise UserError(f"{path}: line {number} is not 'image.jpg#0<tab>caption': {line[:60]!r}")
            yield Row(name.rpartition("#")[0], caption.strip())


def _read_table(path: Path, header: str) -> Iterator[Row]:
    csv.field_size_limit(1_000_000)
    separator = max(SEPARATORS, key=header.count)
    columns = [name.strip().strip('"').lower() for name in header.split(separator)]
    image, caption, split = (
        next((i for i, name in enumerate(columns) if name in names), -1)
        for names in (IMAGE_NAMES, CAPTION_NAMES, SPLIT_NAMES)
    )
    if image < 0 or caption < 0:
        raise UserError(
            f"{path}: its first line is {header[:60]!r}, but must name the columns: one of {', '.join(IMAGE_NAMES)}, "
            f"one of {', '.join(CAPTION_NAMES)}, and optionally {', '.join(SPLIT_NAMES)}; or give a .jsonl or a .token "
            "file"
        )
    # Kaggle's Flickr30k is separated by | and quotes nothing, but has quotation marks in captions.
    unquoted = separator in "|\t"
    rows = csv.reader(
        (line.replace("\0", " ") + "\n" for line in read_lines(path)),
        delimiter=separator,
        skipinitialspace=True,  # a.jpg, "A dog, running"
        strict=True,  # or an open quotation mark would swallow the lines after it
        quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL,
    )
    try:
        for values in rows:
            fields = [value.strip() for value in values]
            if not any(fields) or rows.line_num == 1 or [field.lower() for field in fields] == columns:
                continue
            # Kaggle's Flickr30k has a line without a second separator, `2199200615.jpg| 4   A dog runs ...`
            if len(columns) == 3 and len(fields) == 2 and (match := re.fullmatch(r"(\d+)\s+(.+)", fields[1])):
                fields = [fields[0], *match.groups()]
            if len(fields) != len(columns):
                raise UserError(
                    f"{path}: line {rows.line_num} has {len(fields)} columns, the first {len(columns)}: "
                    f"{separator.join(values)[:60]!r}; put captions that contain {separator!r} into quotation marks"
                )
            yield Row(fields[image], fields[caption], fields[split] if split >= 0 else "")
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} is not valid CSV ({error})") from None


def _read_json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = {key.lower(): value for key, value in json.loads(line).items()}
        except (json.JSONDecodeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not a JSON object, or cut off ({error})") from None
        image, captions = (
            next((entry[key] for key in names if key in entry), None) for names in (IMAGE_NAMES, CAPTION_NAMES)
        )
        if not isinstance(image, str):
            raise UserError(f"{path}: line {number} must have one of {', '.join(IMAGE_NAMES)}: {line[:60]!r}")
        for caption in captions if isinstance(captions, list) else [captions]:
            yield Row(image, caption, str(entry.get("split", "")))
