"""What the readers of pictures on disk have in common."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from caption.config import ImageConfig
from caption.errors import UserError
from caption.images import Fit, open_image
from preprocess.writer import Example, Output, check_output, write


@dataclass(frozen=True, kw_only=True)
class Pictures(Output):
    """Pictures on disk."""

    size: int = 224
    """Side of the stored square, in pixels."""
    fit: Fit = "crop"
    """crop: resize the shorter side and keep the centre, as in the paper; squash: keep everything, out of shape."""

    on_error: Literal["stop", "skip"] = "stop"
    """At a bad picture: stop, or leave it out and say so."""

    def examples(self) -> Iterator[Example]:
        """Every picture with its captions. Raises UserError for files that are not what the source promises."""
        raise NotImplementedError

    def run(self) -> None:
        check_output(self)
        name = type(self).__name__.lower()
        write(self.examples(), self, ImageConfig(self.size, self.fit), {"reader": name}, self.on_error)


def example(split: str, image_id: int, folder: Path, file_name: str, captions: Sequence[str]) -> Example:
    return Example(split, image_id, file_name, partial(open_image, folder / file_name), captions)


def folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder of pictures")
    return Path(path)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, empty ones too. Raises UserError when it is not there or no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would part at U+2028, too
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON, or cut off ({error})") from None
