"""Complete the HDF5 file that `caption.data.hdf5` describes: names, captions, vocabulary and manifest."""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import write_manifest, write_texts
from caption.data.vocabulary import Vocabulary
from caption.errors import UserError
from preprocess.records import Listing, concatenate_ranges
from preprocess.stores import FixedSizeStore, JpegStore
from preprocess.verify import compute_digests

BLOCK = 10_000  # captions that are Python objects at a time


def complete_file(
    store: FixedSizeStore | JpegStore,
    listing: Listing,
    order: NDArray[np.int64],
    bad: dict[int, str],
    vocabulary: Vocabulary,
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """Write everything but the records into the store's file and return the manifest.

    `order` maps the numbers of the store to those of the listing; the images in `bad` (number -> reason) are left
    out. Raises UserError if that leaves a split empty, unless the file is a shard.
    """
    with store.open() as file:
        write_texts(file, "vocabulary", vocabulary.words)
        splits: dict[str, Any] = {}
        index_map = listing.index_map(vocabulary)
        for split, (first, end) in store.ranges.items():
            numbers = np.setdiff1d(np.arange(first, end), list(bad))
            if end > first and not len(numbers) and "shard" not in recipe:
                raise UserError(f"split {split}: none of its {end - first} images can be read; {bad[min(bad)]}")
            store.complete_split(file, split, numbers)
            counts = _write_captions(file[split], listing, order[numbers], index_map, recipe["max_length"])
            splits[split] = {**counts, "bad_images": end - first - len(numbers)}
        manifest = {**recipe, "dropped": listing.dropped, "splits": splits, "digests": compute_digests(file)}
        write_manifest(file, manifest)
    store.sync()
    return manifest


def _write_captions(
    group: h5py.Group, listing: Listing, images: NDArray[np.int64], index_map: NDArray[np.int32], max_length: int
) -> dict[str, int]:
    """Write the names, references and encoded captions of images of the listing; return their counts."""
    caption_offsets, word_offsets = (
        np.frombuffer(offsets, np.int64) for offsets in (listing.caption_offsets, listing.word_offsets)
    )
    word_numbers = np.frombuffer(listing.words, np.int32)
    counts = np.diff(caption_offsets)[images]
    captions = concatenate_ranges(caption_offsets[images], counts)
    lengths = np.diff(word_offsets)[captions]
    cut_lengths = np.minimum(lengths, max_length)
    offsets = np.cumsum([0, *cut_lengths], dtype=np.int64)
    group["image_ids"] = np.frombuffer(listing.ids, np.int64)[images]
    group["caption_offsets"] = np.cumsum([0, *counts], dtype=np.int64)
    group["word_offsets"] = offsets
    words = group.create_dataset("words", (offsets[-1],), np.int32)
    for i in range(0, len(captions), BLOCK):
        block = slice(i, i + BLOCK)
        numbers = word_numbers[concatenate_ranges(word_offsets[captions[block]], cut_lengths[block])]
        words[offsets[i] : offsets[i] + len(numbers)] = index_map[numbers]
    write_texts(group, "references", (listing.texts[n] for n in captions))
    write_texts(group, "file_names", (listing.names[n] for n in images))
    return {"images": len(images), "captions": len(captions), "captions_cut": int((lengths > max_length).sum())}
