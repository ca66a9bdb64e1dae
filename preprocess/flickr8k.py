"""Flickr8k as its original archives have it: Flicker8k_Dataset/ and Flickr8k_text/ (Hodosh et al., 2013)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caption.errors import UserError
from preprocess.sources import Pictures, example, folder, read_lines
from preprocess.writer import Example

LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


@dataclass(frozen=True, kw_only=True)
class Flickr8k(Pictures):
    """Flickr8k from its original archives. A split list that is missing is a split that is not there."""

    images: str
    """The folder Flicker8k_Dataset."""
    text: str
    """The folder Flickr8k_text, with Flickr8k.token.txt and the split lists."""

    def examples(self) -> Iterator[Example]:
        images, text = folder(self.images), Path(self.text)
        captions: dict[str, list[str]] = {}
        tokens = text / "Flickr8k.token.txt"
        for number, line in enumerate(read_lines(tokens), 1):
            if not line.strip():
                continue
            name, tab, caption = line.partition("\t")
            if not tab or "#" not in name:
                raise UserError(f"{tokens}: line {number} is not 'picture.jpg#0<tab>caption': {line[:60]!r}")
            captions.setdefault(name.rpartition("#")[0], []).append(caption.strip())
        # An id must not depend on which lists are there.
        ids = {name: number for number, name in enumerate(sorted(captions))}
        if not any((text / name).is_file() for name in LISTS.values()):
            raise UserError(f"{text}: holds none of the split lists {', '.join(LISTS.values())}")
        for split, listing in LISTS.items():
            if not (text / listing).is_file():
                continue
            for name in filter(None, map(str.strip, read_lines(text / listing))):
                if name not in captions:
                    raise UserError(f"{text / listing}: {name} has no caption in {tokens.name}")
                yield example(split, ids[name], images, name, captions[name])
