"""What the readers of pictures on disk have in common."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from caption.config import ImageConfig
from caption.errors import UserError
from caption.images import open_image
from preprocess.writer import Example, Output, check_output, write


@dataclass(frozen=True, kw_only=True)
class Pictures(Output):
    """Pictures on disk."""

    size: int = 224
    """Side of the stored square, in pixels."""
    fit: Literal["crop", "squash"] = "crop"
    """crop: resize the shorter side and keep the centre, as in the paper; squash: keep everything, out of shape."""

    def image(self) -> ImageConfig:
        return ImageConfig(self.size, self.fit)

    def examples(self) -> Iterator[Example]:
        """Every picture with its captions. Raises UserError for files that are not what the source promises."""
        raise NotImplementedError

    def run(self) -> None:
        check_output(self)
        name = type(self).__name__.lower()
        write(self.examples(), self, self.image(), {"reader": name})


def example(split: str, image_id: int, folder: Path, file_name: str, captions: Sequence[str]) -> Example:
    return Example(split, image_id, file_name, partial(open_image, folder / file_name), captions)


def folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder of pictures")
    return Path(path)


def read_lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
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
