"""Write a listing and its images into a data file, in parallel, and resume interrupted work."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from caption.config import ImageConfig
from caption.data.hdf5 import SPLITS
from caption.data.images import BadImage, encode_jpeg, fit_image, reuse_memory, to_array
from caption.data.vocabulary import SPECIALS, Vocabulary
from caption.data.words import unspaced_notice
from caption.errors import UserError
from caption.files import locked
from caption.progress import ProgressBar
from preprocess import journal
from preprocess.datafile import complete_file
from preprocess.journal import Journal, work_folder
from preprocess.options import Output, check_free, given_vocabulary, parse_shard
from preprocess.records import Listing, Problem
from preprocess.report import equal_images, format_size, print_summary, write_report
from preprocess.stores import CHUNK, FeatureStore, JpegStore, PixelStore, RecordEncoder
from preprocess.workers import parallel_map

SYNC_SECONDS = 5.0  # at most this much work is lost if the power fails
LAYOUT = 2  # of the records in an unfinished file; another one cannot be resumed
SAMPLE = 16  # images whose JPEG files give the estimate of the mean length

AnyStore = PixelStore | JpegStore | FeatureStore
Opener = Callable[[str], Image]  # returns the RGB image of a path, or raises BadImage


@dataclass(frozen=True)
class Worker:
    """Open images, fit them into a square and encode their records; runs in the worker processes. A task is the path of
    each image and the offset of its record in the file; the result, what the store's encoder returned for each, or
    BadImage with the reason why it cannot be used."""

    opener: Opener
    image: ImageConfig
    encode_record: RecordEncoder

    def __call__(self, task: Sequence[tuple[str, int]]) -> list[Any]:
        reuse_memory()
        return [self._process(path, offset) for path, offset in task]

    def _process(self, path: str, offset: int) -> Any:
        try:
            image = to_array(fit_image(self.opener(path), self.image.size, self.image.fit, self.image.interpolation))
        except BadImage as error:
            return BadImage(str(error).removeprefix(f"{path}: "))
        return self.encode_record(image, offset)


def write(
    listing: Listing, opener: Opener, options: Output, image: ImageConfig, source: dict[str, Any], strict: bool = True
) -> None:
    """Write all images and captions, grouped by split; resume if an earlier run was interrupted.

    `source` becomes part of the manifest. All problems are listed in a report file; unless `strict`, images and
    captions that cannot be used are left out. Raises UserError if there is a fatal problem and `strict`, if there is
    nothing to write, if the disk is too small, or if another process writes the file or has written it meanwhile.
    """
    path, folder = Path(options.output), work_folder(options.output)
    with locked(path):
        check_free(options)  # another command may have written the file meanwhile
        write_report(listing.problems, path, strict)
        if not len(listing):
            if listing.keep_uncaptioned:
                raise UserError("there is no image; check the paths")
            hint = ", or give --keep-uncaptioned" if listing.dropped["images without captions"] else ""
            raise UserError(f"no image has a caption; check the paths{hint}")
        sample = map(listing.texts.__getitem__, range(min(1000, len(listing.texts))))
        if notice := unspaced_notice(sample, listing.word_kind):
            print(notice, flush=True)
        vocabulary = _choose_vocabulary(listing, options)
        shard, shards = parse_shard(options.shard)
        splits = np.frombuffer(listing.splits, np.int8)
        order = np.argsort(splits, kind="stable")
        order = order[len(order) * (shard - 1) // shards : len(order) * shard // shards]  # numbers of the listing
        paths = [listing.paths[n] for n in order]
        counts = {split: int((splits[order] == i).sum()) for i, split in enumerate(SPLITS) if i in splits}

        store, details = _build_store(options, image, folder, counts, paths, opener)
        recipe = {
            "source": source,
            "size": image.size,
            "fit": image.fit,
            "interpolation": image.interpolation,
            **details,
            "min_count": options.min_count,
            "max_length": options.max_length,
            "words": listing.word_kind,
            "vocabulary_from": Path(options.vocabulary).name,
        }
        inputs = {
            "layout": LAYOUT,
            "shard": options.shard,
            "listing": listing.digest[:16],
            "vocabulary": vocabulary.digest[:16],
        }
        state = _start_or_resume(store, options, {**recipe, **inputs})
        if options.shard:  # so that merge can tell which shards belong together
            recipe |= {"shard": shard, "shards": shards, "listing": inputs["listing"]}
        _process_images(store, state, paths, Worker(opener, image, store.encode_record), options.workers)
        bad = [_problem(listing, int(order[number]), reason) for number, reason in sorted(state.bad.items())]
        write_report([*listing.problems, *bad], path, strict)
        manifest = complete_file(store, listing, order, state.bad, vocabulary, recipe)
        equal = equal_images(store.path)
        write_report([*listing.problems, *bad, *equal], path, strict)
        state.complete = True
        state.save(folder)
        journal.finalize(path)
    print_summary(path, manifest, len(vocabulary), equal)


def _choose_vocabulary(listing: Listing, options: Output) -> Vocabulary:
    if options.vocabulary:
        return given_vocabulary(options.vocabulary)
    vocabulary = listing.vocabulary(options.min_count)
    if len(vocabulary) == len(SPECIALS):
        raise UserError(f"no word occurs {options.min_count} times in the train split; give a lower --min-count")
    return vocabulary


def _build_store(
    options: Output, image: ImageConfig, folder: Path, counts: dict[str, int], paths: Sequence[str], opener: Opener
) -> tuple[AnyStore, dict[str, Any]]:
    """Return the store that was asked for, and its part of the manifest."""
    details: dict[str, Any] = {"store": options.store}
    if options.store == "pixels":
        return PixelStore(folder, counts, image.size), details
    if options.store == "jpeg":
        sample = paths[:: max(1, len(paths) // SAMPLE)]
        measure = Worker(opener, image, lambda pixels, offset: len(encode_jpeg(pixels, options.quality)))
        lengths = [length for length in measure([(path, 0) for path in sample]) if not isinstance(length, BadImage)]
        mean = float(np.mean(lengths)) if lengths else image.size**2
        return JpegStore(folder, counts, options.quality, mean), {**details, "quality": options.quality}
    from preprocess.features import build_feature_encoder  # PyTorch takes seconds and much memory to import

    encoder = build_feature_encoder(options.encoder, image.size, options.device, CHUNK)
    store = FeatureStore(folder, counts, encoder.encode, encoder.shape, encoder.batch_size)
    return store, {**details, "encoder": encoder.fingerprint}


def _start_or_resume(store: AnyStore, options: Output, recipe: dict[str, Any]) -> Journal:
    """Allocate the file or reopen an unfinished one, and return the journal. Raises UserError if the disk is too small,
    or the unfinished file has another recipe."""
    folder = store.folder
    state = None if options.overwrite else journal.load(folder)
    if state:
        journal.check_same_recipe(folder, state.recipe, recipe)
    elif folder.exists():
        shutil.rmtree(folder)
    allocated = sum(path.stat().st_blocks * 512 for path in folder.glob("*")) if state else 0
    free = shutil.disk_usage(folder.parent).free
    if store.nbytes - allocated > free:
        raise UserError(
            f"{options.output}: {store.estimate}, but only {format_size(free)} are free; choose another --output, a "
            "smaller --size or --store jpeg"
        )
    print(f"{options.output}: {store.estimate}; {format_size(free)} are free", flush=True)
    if state:
        retried = f"; retrying {len(state.bad)} bad images" if state.bad else ""
        print(f"resuming after {state.done} of {sum(store.counts.values())} images{retried}", flush=True)
    folder.mkdir(exist_ok=True)
    store.allocate(fresh=state is None)
    return state or Journal(recipe, options.overwrite)


def _process_images(store: AnyStore, state: Journal, paths: Sequence[str], worker: Worker, workers: int) -> None:
    """Run the worker on all images that are not done, and retry the bad ones."""
    jobs = _chunks(sorted(state.bad), store.chunk) + _chunks(range(state.done, len(paths)), store.chunk)
    tasks = (list(zip([paths[n] for n in numbers], store.offsets(numbers), strict=True)) for numbers in jobs)
    results = parallel_map(worker, tasks, min(workers, len(jobs)))
    remaining = sum(map(len, jobs))
    steps = _store_results(store, state, jobs, results)
    for _ in ProgressBar(steps, "images", "images", len(paths) - remaining, length=remaining):
        pass


def _chunks(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Cut rising numbers into jobs at the multiples of `size`: interrupted and unbroken runs have the same jobs."""
    return [list(job) for _, job in groupby(numbers, lambda number: number // size)]


def _store_results(store: AnyStore, state: Journal, jobs: list[list[int]], results: Iterable[Any]) -> Iterator[int]:
    """Add the workers' results to the store, save the journal now and then, and yield each image's number."""

    def save(snapshot: Journal) -> None:
        store.sync()
        snapshot.save(store.folder)

    last_save = time.monotonic()
    with ThreadPoolExecutor(1) as saver:  # so that the workers need not wait for the disk
        saving = saver.submit(save, replace(state, bad=state.bad.copy()))
        try:
            for numbers, job_results in zip(jobs, results, strict=True):
                _add_results(store, state, numbers, job_results)
                if saving.done() and time.monotonic() - last_save > SYNC_SECONDS:
                    saving.result()
                    saving = saver.submit(save, replace(state, bad=state.bad.copy()))
                    last_save = time.monotonic()
                yield from numbers
        finally:  # keep completed work, whatever ended the loop
            saving.result()
            save(state)


def _add_results(store: AnyStore, state: Journal, numbers: Sequence[int], results: Sequence[Any]) -> None:
    """Add the results of a job to the store and to the journal."""
    results_by_number = list(zip(numbers, results, strict=True))
    good = [(number, record) for number, record in results_by_number if not isinstance(record, BadImage)]
    if good:
        store.add(*zip(*good, strict=True))
    for number, record in results_by_number:
        state.bad.pop(number, None)
        if isinstance(record, BadImage):
            state.bad[number] = str(record)
    state.done = max(state.done, numbers[-1] + 1)


def _problem(listing: Listing, number: int, reason: str) -> Problem:
    return Problem(SPLITS[listing.splits[number]], listing.ids[number], listing.names[number], reason)
