"""Read Flickr8k (Hodosh et al., 2013) and Flickr30k (Young et al., 2014), whose splits are lists of image names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caption.errors import UserError
from preprocess.captions import Row, read_captions, read_tokens
from preprocess.folder import Folder
from preprocess.records import Example
from preprocess.sources import ImageFiles, build_example, group_by_image, read_lines

LISTS_8K = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
LISTS_30K = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}


@dataclass(frozen=True, kw_only=True)
class Flickr8k(ImageFiles):
    """Flickr8k from its original archives. A split without a split list is left out."""

    images: str
    """The folder Flicker8k_Dataset."""
    text: str
    """The folder Flickr8k_text, with Flickr8k.token.txt and the split lists."""

    def examples(self) -> Iterator[Example]:
        tokens = Path(self.text) / "Flickr8k.token.txt"
        return read_split_lists(self.images, read_tokens(tokens), tokens, Path(self.text), LISTS_8K)


@dataclass(frozen=True, kw_only=True)
class Flickr30k(Folder):
    """Flickr30k from results_20130124.token or results.csv. For Karpathy's splits read dataset_flickr30k.json with
    `karpathy`, or give --lists."""

    captions: str = field()  # required, unlike a folder's
    """The caption file, results_20130124.token or results.csv."""
    val: float = 1014 / 31783
    """Fraction of the images for validation, without --lists."""
    test: float = 1000 / 31783
    """Fraction of the images for testing, without --lists."""
    lists: str = ""
    """A folder with train.txt, val.txt and test.txt: names of images, with or without .jpg."""

    def examples(self) -> Iterator[Example]:
        if not self.lists:
            return super().examples()
        path = Path(self.captions)
        return read_split_lists(self.images, read_captions(path), path, Path(self.lists), LISTS_30K)


def read_split_lists(
    images: str, rows: Iterator[Row], captions_path: Path, folder: Path, lists: dict[str, str]
) -> Iterator[Example]:
    """Yield the images of the split lists in `folder`, in their order, with all their captions. A list may omit the
    suffix `.jpg`. Raises UserError if there is no list, or a name in it has no caption."""
    captions = dict(group_by_image((row.image, row.caption) for row in rows))
    # Ids are made from all names with captions, so that they do not depend on which lists exist.
    ids = {name: number for number, name in enumerate(sorted(captions))}
    if not any((folder / name).is_file() for name in lists.values()):
        raise UserError(f"{folder}: contains none of the split lists {', '.join(lists.values())}")
    for split, file_name in lists.items():
        path = folder / file_name
        if not path.is_file():
            continue
        for line in filter(None, map(str.strip, read_lines(path))):
            name = line if line in captions else f"{line}.jpg"
            if name not in captions:
                raise UserError(f"{path}: {line} has no caption in {captions_path.name}")
            yield build_example(split, ids[name], images, name, captions[name])
