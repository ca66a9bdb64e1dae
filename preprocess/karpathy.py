"""Read Karpathy's JSON: dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json; and sets that were published
in its form, as RSICD (Lu et al., 2018) and UCM-Captions (Qu et al., 2016) of remote sensing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caption.data.hdf5 import SPLITS
from caption.errors import UserError
from preprocess.records import Example
from preprocess.sources import ImageFiles, build_example, read_json, reading_entry


@dataclass(frozen=True, kw_only=True)
class Karpathy(ImageFiles):
    """Flickr8k, Flickr30k or COCO with Karpathy's splits, or a set in the same form, such as RSICD. As is usual,
    `restval` is part of the train split."""

    images: str
    """The folder of images; for COCO the one that contains train2014 and val2014."""
    json: str
    """dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json, dataset_rsicd.json or the like."""

    def examples(self) -> Iterator[Example]:
        number = -1
        for number, entry in enumerate(read_json(self.json, "images.item")):
            with reading_entry(f"{self.json}: image {number}"):
                split = "train" if entry["split"] == "restval" else entry["split"]
                name = (Path(entry.get("filepath", "")) / entry["filename"]).as_posix()
                captions = [sentence["raw"] for sentence in entry["sentences"]]
                image_id = int(entry.get("cocoid", entry.get("imgid", number)))
            if split not in SPLITS:
                raise UserError(
                    f"{self.json}: image {number} has the split {split!r}; known: {', '.join(SPLITS)}, restval"
                )
            yield build_example(split, image_id, self.images, name, captions)
        if number < 0:
            raise UserError(
                f"{self.json}: has no list 'images', or an empty one; give one of Karpathy's dataset_*.json"
            )
