"""Files that name a picture and a caption a line: Flickr's .token, CSV (any separator), JSON lines."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from caption.errors import UserError
from preprocess.sources import read_lines

# What a column, or a key, may be called.
PICTURE = ("file_name", "filename", "image", "image_name", "file", "path", "img", "picture")
CAPTION = ("caption", "captions", "comment", "text", "sentence", "raw")
SPLIT = ("split",)
SEPARATORS = ",\t;|"


class Row(NamedTuple):
    """A caption of a picture, as it stands in the file."""

    picture: str
    caption: Any  # a string, if the file is sound
    split: str = ""


def read_captions(path: Path) -> Iterator[Row]:
    """The rows of a file of captions, its kind told by its ending and its first line.

    Raises UserError for a file that is not there, and for a line that is not as the first ones promise.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(path)
    first = next((line for line in read_lines(path) if line.strip()), "")
    if re.match(r"[^\t]+#\w*\t", first):
        return read_tokens(path)
    return _table(path, first)


def read_tokens(path: Path) -> Iterator[Row]:
    """Lines like `picture.jpg#0<tab>caption`. Raises UserError for others."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab or "#" not in name:
                raise UserError(f"{path}: line {number} is not 'picture.jpg#0<tab>caption': {line[:60]!r}")
            yield Row(name.rpartition("#")[0], caption.strip())


def _table(path: Path, first: str) -> Iterator[Row]:
    csv.field_size_limit(1_000_000)
    separator = max(SEPARATORS, key=first.count)
    columns = [name.strip().strip('"').lower() for name in first.split(separator)]
    picture, caption, split = (
        next((i for i, name in enumerate(columns) if name in known), -1) for known in (PICTURE, CAPTION, SPLIT)
    )
    if picture < 0 or caption < 0:
        raise UserError(
            f"{path}: its first line is {first[:60]!r}, but must name the columns, one of them {', '.join(PICTURE)} "
            f"and one {', '.join(CAPTION)} (and perhaps {', '.join(SPLIT)}); or give a .jsonl or a .token file"
        )
    # Kaggle's Flickr30k parts its columns by | and quotes nothing, but has quotation marks in captions.
    plain = separator in "|\t"
    lines = (line + "\n" for line in read_lines(path))
    rows = csv.reader(
        (line.replace("\0", " ") for line in lines),
        delimiter=separator,
        strict=True,  # or an open quotation mark would swallow the lines after it
        quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
    )
    try:
        for values in rows:
            fields = [value.strip() for value in values]
            if not any(fields) or rows.line_num == 1 or [field.lower() for field in fields] == columns:
                continue
            if len(fields) != len(columns):
                mended = _without_separator(fields) if len(columns) == 3 else None
                if mended is None:
                    raise UserError(
                        f"{path}: line {rows.line_num} has {len(fields)} columns, the first {len(columns)}: "
                        f"{separator.join(values)[:60]!r}; put captions with {separator!r} in them into quotation marks"
                    )
                fields = mended
            yield Row(fields[picture], fields[caption], fields[split] if split >= 0 else "")
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num} is no CSV ({error})") from None


def _without_separator(fields: list[str]) -> list[str] | None:
    """One line of Kaggle's Flickr30k lacks the second separator: `2199200615.jpg| 4   A dog runs across the grass .`"""
    found = re.fullmatch(r"(\d+)\s+(.+)", fields[1]) if len(fields) == 2 else None
    return [fields[0], *found.groups()] if found else None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            entry = {key.lower(): value for key, value in json.loads(line).items()}
        except (json.JSONDecodeError, AttributeError) as error:
            raise UserError(f"{path}: line {number} is no JSON object, or cut off ({error})") from None
        picture, caption = (next((entry[key] for key in known if key in entry), None) for known in (PICTURE, CAPTION))
        if not isinstance(picture, str):
            raise UserError(f"{path}: line {number} must have one of {', '.join(PICTURE)}: {line[:60]!r}")
        for each in caption if isinstance(caption, list) else [caption]:
            yield Row(picture, each, str(entry.get("split", "")))
