"""Flickr8k as its original archives have it: Flicker8k_Dataset/ and Flickr8k_text/ (Hodosh et al., 2013)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caption.errors import UserError
from preprocess.captions import Row, read_tokens
from preprocess.records import Example
from preprocess.sources import Pictures, by_picture, example, read_lines

LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


@dataclass(frozen=True, kw_only=True)
class Flickr8k(Pictures):
    """Flickr8k from its original archives. A split list that is missing is a split that is not there."""

    images: str
    """The folder Flicker8k_Dataset."""
    text: str
    """The folder Flickr8k_text, with Flickr8k.token.txt and the split lists."""

    def folders(self) -> list[str]:
        return [self.images]

    def examples(self) -> Iterator[Example]:
        tokens = Path(self.text) / "Flickr8k.token.txt"
        return listed(self.images, read_tokens(tokens), tokens, Path(self.text), LISTS)


def listed(images: str, rows: Iterator[Row], source: Path, folder: Path, lists: dict[str, str]) -> Iterator[Example]:
    """Pictures in the order of the split lists that are there, with all their captions. A list may leave out `.jpg`.

    Raises UserError when there is no list, and for a name that has no caption.
    """
    captions = dict(by_picture((row.picture, row.caption) for row in rows))
    # An id must not depend on which lists are there.
    ids = {name: number for number, name in enumerate(sorted(captions))}
    if not any((folder / name).is_file() for name in lists.values()):
        raise UserError(f"{folder}: holds none of the split lists {', '.join(lists.values())}")
    for split, listing in lists.items():
        if not (folder / listing).is_file():
            continue
        for line in filter(None, map(str.strip, read_lines(folder / listing))):
            name = line if line in captions else f"{line}.jpg"
            if name not in captions:
                raise UserError(f"{folder / listing}: {line} has no caption in {source.name}")
            yield example(split, ids[name], images, name, captions[name])
