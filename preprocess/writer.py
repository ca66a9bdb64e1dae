"""Examples -> the HDF5 file that `caption.data` describes."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from PIL import Image

from caption.config import ImageConfig
from caption.data import FORMAT, SPLITS, read_vocabulary
from caption.errors import UserError
from caption.images import BadImage, fit_image, to_array
from caption.progress import Bar
from caption.vocabulary import SPECIALS, Vocabulary, tokenise


@dataclass(frozen=True)
class Example:
    """A picture and its captions, as a reader finds them."""

    split: str
    image_id: int
    file_name: str
    picture: Callable[[], Image.Image]  # opens or draws it: RGB
    captions: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What every source has in common."""

    output: str
    """The HDF5 file to write."""
    vocabulary: str = ""
    """Take the words of this data file instead of counting them on the train split."""
    overwrite: bool = False
    """Replace a file that is there."""
    min_count: int = 5
    """Keep words that stand at least so often in the captions of the train split."""
    max_length: int = 50
    """Longer captions are cut to so many words for training; references stay whole."""


def check_output(options: Output) -> None:
    """Raises UserError when the output is there already; before any work."""
    if Path(options.output).exists() and not options.overwrite:
        raise UserError(f"{options.output}: is there already; give --overwrite to replace it, or another --output")
    for name in ("min_count", "max_length"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be at least 1")


def write(
    examples: Iterable[Example],
    options: Output,
    image: ImageConfig,
    source: dict[str, Any],
    on_error: Literal["stop", "skip"] = "stop",
) -> None:
    """Write all examples, grouped by split, under a temporary name; rename when the file is whole.

    `source` goes into the manifest; at a bad picture `on_error` says whether to stop or to leave it out. Raises
    UserError when there is nothing to write, the disk is too small, or a picture is bad and `on_error` says stop.
    """
    check_output(options)
    splits, dropped = _sort(examples)
    vocabulary = _vocabulary(splits, options)
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(path, splits, image.size)
    part = path.with_name(path.name + ".part")
    try:
        with h5py.File(part, "w") as file:
            file.attrs["format"] = FORMAT
            file.create_dataset("vocabulary", data=vocabulary.words, dtype=h5py.string_dtype())
            splits_made = {}
            bad: list[str] = []
            for split, members in splits.items():
                group = file.create_group(split)
                kept, errors = _write_pictures(group, split, members, image, stopping=on_error == "stop")
                bad += errors
                splits_made[split] = {**_write_captions(group, kept, vocabulary, options), "bad_pictures": errors}
                if not kept and not (bad and on_error == "stop"):
                    raise UserError(f"split {split}: not one of its {len(members)} pictures can be read; {bad[0]}")
            if bad and on_error == "stop":
                more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
                raise UserError(f"{bad[0]}{more}; mend or remove them, or leave them out with --on-error skip")
            manifest = {
                "source": source,
                "size": image.size,
                "fit": image.fit,
                "min_count": options.min_count,
                "max_length": options.max_length,
                "vocabulary_from": Path(options.vocabulary).name,
                "dropped": dropped,
                "splits": splits_made,
            }
            file.attrs["manifest"] = json.dumps(manifest, ensure_ascii=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _report(path, manifest, vocabulary)


def _sort(examples: Iterable[Example]) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Examples by split, without empty captions and without pictures that have no other."""
    splits: dict[str, list[Example]] = {}
    dropped = {"empty_captions": 0, "pictures_without_captions": 0}
    for example in examples:
        captions = [caption for caption in example.captions if tokenise(caption)]
        dropped["empty_captions"] += len(example.captions) - len(captions)
        if captions:
            kept = Example(example.split, example.image_id, example.file_name, example.picture, captions)
            splits.setdefault(example.split, []).append(kept)
        else:
            dropped["pictures_without_captions"] += 1
    if not splits:
        raise UserError("there is not one picture with a caption; look at the paths given")
    return {split: splits[split] for split in SPLITS if split in splits}, dropped


def _vocabulary(splits: dict[str, list[Example]], options: Output) -> Vocabulary:
    if options.vocabulary:
        return read_vocabulary(options.vocabulary)
    if "train" not in splits:
        raise UserError("there is no train split to count words on; give --vocabulary and a data file that has one")
    captions = (tokenise(caption) for example in splits["train"] for caption in example.captions)
    vocabulary = Vocabulary.count(captions, options.min_count)
    if len(vocabulary) == len(SPECIALS):
        raise UserError(f"no word stands {options.min_count} times in the train split; give a lower --min-count")
    return vocabulary


def _check_room(path: Path, splits: dict[str, list[Example]], size: int) -> None:
    pictures = sum(len(members) for members in splits.values())
    texts = sum(len(caption) for members in splits.values() for example in members for caption in example.captions)
    needed, free = pictures * 3 * size**2 + 2 * texts, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"{path}: will take {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there; "
            "choose another --output or a smaller --size"
        )


def _write_pictures(
    group: h5py.Group, split: str, examples: list[Example], image: ImageConfig, stopping: bool
) -> tuple[list[Example], list[str]]:
    """Write the pictures that can be read; return their examples, and what is wrong with the others.

    When a bad picture will stop the work, the pictures after it are only looked at: all bad ones are found at once.
    """
    shape = (3, image.size, image.size)
    pictures = group.create_dataset(
        "images", (len(examples), *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
    )
    kept: list[Example] = []
    bad: list[str] = []
    for example in Bar(examples, split, "pictures"):
        try:
            picture = example.picture()
        except BadImage as error:
            bad.append(str(error))
            continue
        if not (bad and stopping):
            pictures[len(kept)] = to_array(fit_image(picture, image.size, image.fit))
            kept.append(example)
    pictures.resize(len(kept), 0)
    return kept, bad


def _write_captions(
    group: h5py.Group, examples: list[Example], vocabulary: Vocabulary, options: Output
) -> dict[str, int]:
    """Write names, references and encoded captions; return what was counted."""
    references = [caption for example in examples for caption in example.captions]
    encoded = [vocabulary.encode(tokenise(caption)) for caption in references]
    cut = sum(len(words) > options.max_length for words in encoded)
    encoded = [words[: options.max_length] for words in encoded]
    group["image_ids"] = np.array([example.image_id for example in examples], np.int64)
    for name, texts in (("file_names", [example.file_name for example in examples]), ("references", references)):
        group.create_dataset(name, data=texts, dtype=h5py.string_dtype())
    group["image_captions"] = np.cumsum([0, *(len(example.captions) for example in examples)], dtype=np.int64)
    group["caption_words"] = np.cumsum([0, *(len(words) for words in encoded)], dtype=np.int64)
    group["words"] = np.array([word for words in encoded for word in words], np.int32)
    return {"pictures": len(examples), "captions": len(references), "captions_cut": cut}


def _report(path: Path, manifest: dict[str, Any], vocabulary: Vocabulary) -> None:
    for split, counts in manifest["splits"].items():
        print(f"{split}: {counts['pictures']} pictures, {counts['captions']} captions")
        if counts["captions_cut"]:
            print(f"  {counts['captions_cut']} captions cut to {manifest['max_length']} words for training")
        if counts["bad_pictures"]:
            print(f"  {len(counts['bad_pictures'])} bad pictures left out", flush=True)
        for message in counts["bad_pictures"]:
            print(f"  left out: {message}", file=sys.stderr)
    for what, count in manifest["dropped"].items():
        if count:
            print(f"left out: {count} {what.replace('_', ' ')}")
    print(f"vocabulary: {len(vocabulary)} words")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
