"""Read Flickr30k: results_20130124.token, or Kaggle's CSV (Young et al., 2014). It has no official splits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocess.captions import read_captions
from preprocess.flickr8k import read_split_lists
from preprocess.folder import Folder
from preprocess.records import Example

LISTS = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}


@dataclass(frozen=True, kw_only=True)
class Flickr30k(Folder):
    """Flickr30k from results_20130124.token or results.csv. For Karpathy's splits read dataset_flickr30k.json with
    `karpathy`, or give --lists."""

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
        return read_split_lists(self.images, read_captions(path), path, Path(self.lists), LISTS)
