"""The images and captions of a data set in flat arrays, collected before the first image is opened.

COCO has 123,287 images and 616,767 captions. As Python lists of lists of words they take more than a gigabyte; here a
caption takes its letters, four bytes per word and sixteen for two offsets.
"""

import hashlib
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import SPLITS
from caption.data.vocabulary import UNKNOWN, Vocabulary
from caption.data.words import WORDS
from caption.errors import UserError

# Reasons to leave out an image or a caption. The harmless ones never stop the work.
HARMLESS = ("captions without words", "images without captions")
DROP_REASONS = (*HARMLESS, "captions that are not text", "duplicate images", "images not on disk")


class Example(NamedTuple):
    """An image and its captions, as a reader yields them."""

    split: str
    image_id: int
    file_name: str
    path: str  # the argument of the opener that `write` is given
    captions: Iterable[Any]  # strings, unless the source is malformed


class Problem(NamedTuple):
    """A line of the report."""

    split: str
    image_id: int | str
    file_name: str
    problem: str
    fatal: bool = True  # stops the work, unless --on-error skip leaves out the image or the caption


class StringPool:
    """A list of strings in one block of memory."""

    def __init__(self) -> None:
        self.letters, self.ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self.letters += text.encode("utf-8", "replace")  # half a surrogate pair becomes a question mark
        self.ends.append(len(self.letters))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> str:
        return self.letters[self.ends[index] : self.ends[index + 1]].decode("utf-8")


class Listing:
    """Images in the order in which they were added, with their captions as text and as word numbers. Words are numbered
    in the order of their first occurrence; `index_map` turns the numbers into a vocabulary's."""

    def __init__(self, word_kind: str = "ptb", keep_uncaptioned: bool = False) -> None:
        """`word_kind` is one of WORDS; with `keep_uncaptioned`, images without captions are kept."""
        self.word_kind, self.tokenise = word_kind, WORDS[word_kind].tokenise
        self.keep_uncaptioned = keep_uncaptioned
        self.splits = array("b")  # of each image, as its index in SPLITS
        self.ids = array("q")
        self.names, self.paths, self.texts = StringPool(), StringPool(), StringPool()
        self.caption_offsets = array("q", [0])  # image n has the captions from entry n to entry n + 1
        self.words = array("i")
        self.word_offsets = array("q", [0])  # caption c has the words from entry c to entry c + 1
        self.word_numbers: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.dropped = dict.fromkeys(DROP_REASONS, 0)
        self._seen_ids: set[int] = set()
        self._seen_paths: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, example: Example, resolved: str = "") -> None:
        """Add an image that has a caption with at least one word, or any with `keep_uncaptioned`. Anything that is left
        out goes into the report.
        `resolved` is the one name of a file that has several. Raises UserError for an id beyond 64 bits."""
        if not -(2**63) <= example.image_id < 2**63:
            raise UserError(f"{example.file_name} has the id {example.image_id}, but must have one of at most 64 bits")
        duplicate = self._find_duplicate(example.image_id, resolved or example.path)
        if duplicate:
            self.drop(example, "duplicate images", duplicate)
            return
        for number, caption in enumerate(example.captions, 1):
            if not isinstance(caption, str):
                problem = f"caption {number} is {type(caption).__name__}, not text: {caption!r:.60}"
                self.drop(example, "captions that are not text", problem)
                continue
            words = self.tokenise(caption)
            if words:
                # All tools that read a caption expect a single line, and HDF5's strings end at a null character.
                self.texts.append(" ".join(caption.replace("\0", " ").split()))
                self.words.extend(self.word_numbers.setdefault(word, len(self.word_numbers)) for word in words)
                self.word_offsets.append(len(self.words))
            else:
                self.drop(example, "captions without words", f"caption {number} has no words: {caption!r:.60}")
        if len(self.texts) == self.caption_offsets[-1] and not self.keep_uncaptioned:
            self.drop(example, "images without captions", "no caption")
            return
        self.caption_offsets.append(len(self.texts))
        self.splits.append(SPLITS.index(example.split))
        self.ids.append(example.image_id)
        self.names.append(example.file_name)
        self.paths.append(example.path)

    def _find_duplicate(self, image_id: int, path: str) -> str:
        if image_id in self._seen_ids:
            return f"duplicate id {image_id}"
        self._seen_ids.add(image_id)
        # The digest takes 45 bytes of memory; the path would take more.
        key = hashlib.blake2b(path.encode("utf-8", "replace"), digest_size=12).digest()
        if key in self._seen_paths:
            return "duplicate image; in two splits, a model would be tested on what it was trained on"
        self._seen_paths.add(key)
        return ""

    def drop(self, example: Example, reason: str, problem: str) -> None:
        """Count and report an image or a caption that is left out; `reason` is one of DROP_REASONS."""
        self.dropped[reason] += 1
        fatal = reason not in HARMLESS
        self.problems.append(Problem(example.split, example.image_id, example.file_name, problem, fatal))

    def vocabulary(self, min_count: int) -> Vocabulary:
        """Return the vocabulary of the train split. Raises UserError if there is none, or none of it has a caption."""
        train = np.frombuffer(self.splits, np.int8) == SPLITS.index("train")
        if not train.any():
            raise UserError("there is no train split to count words on; give --vocabulary and a data file that has one")
        if not np.diff(np.frombuffer(self.caption_offsets, np.int64))[train].any():
            raise UserError(
                "the train split has no captions to count words on; give --vocabulary and a data file that has some"
            )
        captions, words = (np.frombuffer(offsets, np.int64) for offsets in (self.caption_offsets, self.word_offsets))
        in_train = np.repeat(np.repeat(train, np.diff(captions)), np.diff(words))
        counts = np.bincount(np.frombuffer(self.words, np.int32)[in_train], minlength=len(self.word_numbers))
        return Vocabulary.from_counts(
            dict(zip(self.word_numbers, counts.tolist(), strict=True)), min_count, self.word_kind
        )

    def index_map(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """Return the vocabulary's index of every word number."""
        return np.array([vocabulary.word_to_index.get(word, UNKNOWN) for word in self.word_numbers], np.int32)

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the folders of the images, which may move."""
        digest = hashlib.sha256()
        for offsets in (self.splits, self.ids, self.caption_offsets, self.names.ends, self.texts.ends):
            digest.update(offsets.tobytes())
        digest.update(self.names.letters)
        digest.update(self.texts.letters)
        return digest.hexdigest()


def concatenate_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integers of several ranges, one range after the other.

    >>> concatenate_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
