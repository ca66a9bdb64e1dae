"""A listing and its pictures -> the HDF5 file that `caption.data.hdf5` describes."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from caption.config import ImageConfig
from caption.data.hdf5 import FORMAT, SPLITS, read_vocabulary
from caption.data.images import BadImage, encode_jpeg, fit_image, reuse_memory, to_array
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.errors import UserError
from caption.progress import ProgressBar, Sized
from preprocess import journal, report
from preprocess.backends import Features, Jpegs, Maker, Pixels, format_size
from preprocess.journal import Journal, unfinished
from preprocess.options import Output, read_shard
from preprocess.records import Listing, Problem, spans
from preprocess.verify import digests
from preprocess.workers import parallel_map

CHUNK = 32  # pictures a job
SYNC_SECONDS = 5.0  # the most work that a loss of power can undo
BLOCK = 10_000  # captions that are Python objects at a time
SAMPLE = 16  # pictures whose JPEG files tell how long all will be

AnyStore = Pixels | Jpegs | Features


class Task(NamedTuple):
    """Some pictures for a worker."""

    paths: list[str]
    places: list[int]  # of their records


class Made(NamedTuple):
    """What a worker made of a picture, or why it could not."""

    record: Any
    problem: str = ""


class Prepare:
    """Open pictures, fit them into a square, make their records; runs in the workers."""

    def __init__(self, opener: Callable[[str], Image], image: ImageConfig, make: Maker) -> None:
        """`opener` makes an RGB picture of a path, or raises BadImage."""
        self.opener, self.image, self.make = opener, image, make

    def __call__(self, task: Task) -> list[Made]:
        reuse_memory()
        return [self._one(path, place) for path, place in zip(*task, strict=True)]

    def _one(self, path: str, place: int) -> Made:
        try:
            picture = to_array(fit_image(self.opener(path), self.image.size, self.image.fit))
        except BadImage as error:
            return Made(None, str(error).removeprefix(f"{path}: "))
        return Made(self.make(picture, place))


def write(
    listing: Listing,
    opener: Callable[[str], Image],
    options: Output,
    image: ImageConfig,
    source: dict[str, Any],
    stopping: bool = True,
) -> None:
    """Write all pictures and captions, grouped by split; go on where an earlier run was cut off.

    `source` goes into the manifest. Everything wrong is named in a report file; unless `stopping`, pictures and
    captions that cannot be used are left out. Raises UserError when something is wrong and `stopping`, when there is
    nothing to write, or the disk is too small.
    """
    path, folder = Path(options.output), unfinished(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    report.tell(listing.problems, path, stopping)
    if not len(listing):
        raise UserError("there is not one picture with a caption; look at the paths given")
    vocabulary = _vocabulary(listing, options)
    part, parts = read_shard(options.shard)
    order = listing.order()
    order = order[len(order) * (part - 1) // parts : len(order) * part // parts]  # numbers of pictures in the listing
    splits = np.frombuffer(listing.splits, np.int8)
    counts = {split: int((splits[order] == i).sum()) for i, split in enumerate(SPLITS) if i in splits}

    store, details = _make_store(options, image, folder, counts, [listing.paths[n] for n in order], opener)
    recipe = {
        "source": source,
        "size": image.size,
        "fit": image.fit,
        **details,
        "min_count": options.min_count,
        "max_length": options.max_length,
        "vocabulary_from": Path(options.vocabulary).name,
    }
    inputs = {"shard": options.shard, "listing": listing.digest[:16], "vocabulary": vocabulary.digest[:16]}
    with journal.locked(path):
        log = _begin(store, folder, options, {**recipe, **inputs})
        if options.shard:  # so that merge knows what belongs together
            recipe |= {"shard": part, "shards": parts, "set": inputs["listing"]}
        jobs = _chunks(sorted(log.bad)) + _chunks(range(log.done, len(order)))
        tasks = (Task([listing.paths[n] for n in order[numbers]], store.places(numbers)) for numbers in jobs)
        results = parallel_map(Prepare(opener, image, store.make), tasks, min(options.workers, len(jobs)))
        todo = sum(map(len, jobs))
        work = Sized(_fill(store, log, folder, jobs, results), todo)
        for _ in ProgressBar(work, "pictures", "pictures", len(order) - todo):
            pass

        bad = [_problem(listing, int(order[number]), reason) for number, reason in sorted(log.bad.items())]
        report.tell([*listing.problems, *bad], path, stopping)
        with store.open() as file:
            file.attrs["format"] = FORMAT
            file.create_dataset("vocabulary", data=vocabulary.words, dtype=h5py.string_dtype())
            made: dict[str, Any] = {}
            encoder, start = listing.encoder(vocabulary), 0
            for split, count in counts.items():
                members = np.setdiff1d(np.arange(start, start + count), list(log.bad))
                if count and not len(members) and not options.shard:
                    raise UserError(f"split {split}: not one of its {count} pictures can be read; {bad[0].problem}")
                store.finish(file, split, members)
                written = _write_captions(file[split], listing, order[members], encoder, options.max_length)
                made[split] = {**written, "bad_pictures": count - len(members)}
                start += count
            manifest = {**recipe, "dropped": listing.dropped, "splits": made, "digests": digests(file)}
            file.attrs["manifest"] = json.dumps(manifest, ensure_ascii=False)
        store.sync()
        log.whole = True
        log.save(folder)
        journal.settle(path)
    _summarise(path, manifest, len(vocabulary))


def _vocabulary(listing: Listing, options: Output) -> Vocabulary:
    if options.vocabulary:
        return read_vocabulary(options.vocabulary)
    vocabulary = listing.vocabulary(options.min_count)
    if len(vocabulary) == len(SPECIALS):
        raise UserError(f"no word stands {options.min_count} times in the train split; give a lower --min-count")
    return vocabulary


def _make_store(
    options: Output,
    image: ImageConfig,
    folder: Path,
    counts: dict[str, int],
    paths: Sequence[str],
    opener: Callable[[str], Image],
) -> tuple[AnyStore, dict[str, Any]]:
    """The store asked for, and what the manifest says of it."""
    details: dict[str, Any] = {"store": options.store}
    if options.store == "pixels":
        return Pixels(folder, counts, image.size), details
    if options.store == "jpeg":
        sample = paths[:: max(1, len(paths) // SAMPLE)]
        made = Prepare(opener, image, lambda picture, place: len(encode_jpeg(picture, options.quality)))
        lengths = [each.record for each in made(Task(list(sample), [0] * len(sample))) if not each.problem]
        mean = float(np.mean(lengths)) if lengths else image.size**2
        return Jpegs(folder, counts, options.quality, mean), {**details, "quality": options.quality}
    from preprocess.features import make_encoder  # PyTorch takes seconds and hundreds of megabytes to import

    encode, shape, identity = make_encoder(options.encoder, image.size, options.device)
    return Features(folder, counts, encode, shape, CHUNK), {**details, "encoder": identity}


def _begin(store: AnyStore, folder: Path, options: Output, recipe: dict[str, Any]) -> Journal:
    """Lay out the file, or go on with it; the room on the disk is looked at before. Returns how far the work is."""
    log = None if options.overwrite else journal.load(folder)
    if log:
        journal.check_same(folder, log.recipe, recipe)
    elif folder.exists():
        shutil.rmtree(folder)
    there = sum(each.stat().st_blocks * 512 for each in folder.glob("*")) if log else 0
    free, needed = shutil.disk_usage(folder.parent).free, store.bytes - there
    if needed > free:
        raise UserError(
            f"{options.output}: {store.told}, but only {format_size(free)} are free there; "
            "choose another --output, a smaller --size or --store jpeg"
        )
    total = sum(store.counts.values())
    print(f"{options.output}: {store.told}; {format_size(free)} are free", flush=True)
    if log:
        retried = f", and the {len(log.bad)} bad ones once more" if log.bad else ""
        print(f"going on after {log.done} of {total} pictures{retried}", flush=True)
    folder.mkdir(exist_ok=True)
    store.begin(fresh=log is None)
    return log or Journal(recipe, options.overwrite)


def _chunks(numbers: Sequence[int]) -> list[list[int]]:
    """Jobs, cut where a number divides by CHUNK, so that an interrupted run has the same ones as an unbroken run."""
    jobs: dict[int, list[int]] = {}
    for number in numbers:
        jobs.setdefault(number // CHUNK, []).append(number)
    return list(jobs.values())


def _fill(
    store: AnyStore, log: Journal, folder: Path, jobs: list[list[int]], results: Iterable[list[Made]]
) -> Iterator[int]:
    """Keep what the workers made, and from time to time note on the disk how far that is; yields each number."""

    def save(state: Journal) -> None:
        store.sync()
        state.save(folder)

    saved = time.monotonic()
    with ThreadPoolExecutor(1) as saver:  # the disk may take its time; the workers need not wait for it
        saving = saver.submit(save, replace(log, bad=log.bad.copy()))
        try:
            for numbers, made in zip(jobs, results, strict=True):
                good = [(number, each.record) for number, each in zip(numbers, made, strict=True) if not each.problem]
                if good:
                    store.keep(*zip(*good, strict=True))
                for number, each in zip(numbers, made, strict=True):
                    log.bad.pop(number, None)
                    if each.problem:
                        log.bad[number] = each.problem
                log.done = max(log.done, numbers[-1] + 1)
                if saving.done() and time.monotonic() - saved > SYNC_SECONDS:
                    saving.result()
                    saving = saver.submit(save, replace(log, bad=log.bad.copy()))
                    saved = time.monotonic()
                yield from numbers
        finally:  # nothing done is lost, whatever ended the work
            saving.result()
            save(log)


def _problem(listing: Listing, number: int, reason: str) -> Problem:
    return Problem(SPLITS[listing.splits[number]], listing.ids[number], listing.names[number], reason)


def _write_captions(
    group: h5py.Group, listing: Listing, members: NDArray[np.int64], encoder: NDArray[np.int32], max_length: int
) -> dict[str, int]:
    """Write names, references and encoded captions of some pictures of the listing; return what was counted."""
    firsts, starts = (np.frombuffer(each, np.int64) for each in (listing.image_captions, listing.caption_words))
    source = np.frombuffer(listing.words, np.int32)
    counts = (firsts[1:] - firsts[:-1])[members]
    captions = spans(firsts[members], counts)
    lengths = (starts[1:] - starts[:-1])[captions]
    kept = np.minimum(lengths, max_length)
    caption_words = np.cumsum([0, *kept], dtype=np.int64)
    group["image_ids"] = np.frombuffer(listing.ids, np.int64)[members]
    group["image_captions"] = np.cumsum([0, *counts], dtype=np.int64)
    group["caption_words"] = caption_words
    words = group.create_dataset("words", (caption_words[-1],), np.int32)
    references = group.create_dataset("references", (len(captions),), h5py.string_dtype())
    for i in range(0, len(captions), BLOCK):
        part = slice(i, i + BLOCK)
        numbers = source[spans(starts[captions[part]], kept[part])]
        words[caption_words[i] : caption_words[i] + len(numbers)] = encoder[numbers]
        references[part] = [listing.texts[n] for n in captions[part]]
    names = group.create_dataset("file_names", (len(members),), h5py.string_dtype())
    for i in range(0, len(members), BLOCK):
        names[i : i + BLOCK] = [listing.names[n] for n in members[i : i + BLOCK]]
    cut = int((lengths > max_length).sum())
    return {"pictures": len(members), "captions": len(captions), "captions_cut": cut}


def _summarise(path: Path, manifest: dict[str, Any], words: int) -> None:
    for split, counts in manifest["splits"].items():
        print(f"{split}: {counts['pictures']} pictures, {counts['captions']} captions")
        if counts["captions_cut"]:
            print(f"  {counts['captions_cut']} captions cut to {manifest['max_length']} words for training")
        if counts["bad_pictures"]:
            print(f"  left out: {counts['bad_pictures']} bad pictures")
    for what, count in manifest["dropped"].items():
        if count:
            print(f"left out: {count} {what}")
    if report.report_path(path).exists():
        print(f"{report.report_path(path)} names what was left out, and pictures that are in no list")
    print(f"vocabulary: {words} words")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
