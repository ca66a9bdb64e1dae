"""Everything that is known of a data set before its first picture is opened, in flat arrays.

COCO has 123,287 pictures and 616,767 captions. As Python lists of lists of words they take more than a gigabyte; here a
caption takes its letters, four bytes a word and sixteen for two offsets.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caption.data.hdf5 import SPLITS
from caption.data.vocabulary import UNKNOWN, Vocabulary, tokenise
from caption.errors import UserError

# Why a picture or a caption does not come in. The first two are no mistakes: they never stop the work.
DROPPED = (
    "captions without words",
    "pictures without captions",
    "captions that are not text",
    "pictures that stand twice",
    "pictures not on disk",
)


class Example(NamedTuple):
    """A picture and its captions, as a reader finds them."""

    split: str
    image_id: int
    file_name: str
    path: str  # what the source's `open` takes
    captions: Iterable[Any]  # strings, if the source is sound


class Problem(NamedTuple):
    """A line of the report."""

    split: str
    image_id: int | str
    file_name: str
    problem: str
    stops: bool = True  # the work, unless --on-error skip leaves the picture or the caption out


class Texts:
    """A list of strings in one piece of memory."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.letters, self.ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self.letters += text.encode("utf-8", "replace")  # half a surrogate pair becomes a question mark
        self.ends.append(len(self.letters))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> str:
        return self.letters[self.ends[number] : self.ends[number + 1]].decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class Listing:
    """Pictures in the order in which they were added, their captions as text and as numbered words.

    Words are numbered as they come; `encoder` turns these numbers into those of a vocabulary.
    """

    def __init__(self) -> None:
        self.splits = array("b")  # of each picture, its place in SPLITS
        self.ids = array("q")
        self.names, self.paths, self.texts = Texts(), Texts(), Texts()
        self.image_captions = array("q", [0])  # picture n has the captions image_captions[n] to image_captions[n + 1]
        self.words = array("i")
        self.caption_words = array("q", [0])  # caption c has the words caption_words[c] to caption_words[c + 1]
        self.numbers: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.dropped = dict.fromkeys(DROPPED, 0)
        self._seen_ids: set[int] = set()
        self._seen_paths: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, example: Example) -> None:
        """A picture with at least one caption of at least one word is kept; what is wrong goes into the report."""
        problem = self._twice(example)
        if problem:
            self.tell(example, "pictures that stand twice", problem)
            return
        for number, caption in enumerate(example.captions, 1):
            if not isinstance(caption, str):
                problem = f"caption {number} is {type(caption).__name__}, not text: {caption!r:.60}"
                self.tell(example, "captions that are not text", problem)
                continue
            words = tokenise(caption)
            if words:
                # A caption is one line in every tool that will read it; HDF5's strings end at a null character.
                self.texts.append(" ".join(caption.replace("\0", " ").split()))
                self.words.extend(self.numbers.setdefault(word, len(self.numbers)) for word in words)
                self.caption_words.append(len(self.words))
            else:
                self.tell(example, "captions without words", f"caption {number} holds no word: {caption!r:.60}")
        if len(self.texts) == self.image_captions[-1]:
            self.tell(example, "pictures without captions", "no caption")
            return
        self.image_captions.append(len(self.texts))
        self.splits.append(SPLITS.index(example.split))
        self.ids.append(example.image_id)
        self.names.append(example.file_name)
        self.paths.append(example.path)

    def _twice(self, example: Example) -> str:
        if example.image_id in self._seen_ids:
            return f"its id {example.image_id} stands before"
        self._seen_ids.add(example.image_id)
        key = hashlib.blake2b(example.path.encode("utf-8", "replace"), digest_size=12).digest()  # of a path, 45 bytes
        if key in self._seen_paths:
            return "the same picture stands before; in two splits it would be trained and tested on"
        self._seen_paths.add(key)
        return ""

    def tell(self, example: Example, why: str, problem: str) -> None:
        """Something of an example does not come in; `why` is one of DROPPED."""
        self.dropped[why] += 1
        stops = why not in DROPPED[:2]
        self.problems.append(Problem(example.split, example.image_id, example.file_name, problem, stops))

    def order(self) -> NDArray[np.int64]:
        """The pictures by split."""
        return np.argsort(np.frombuffer(self.splits, np.int8), kind="stable")

    def vocabulary(self, min_count: int) -> Vocabulary:
        """Of the train split alone. Raises UserError where there is none."""
        train = np.frombuffer(self.splits, np.int8) == SPLITS.index("train")
        if not train.any():
            raise UserError("there is no train split to count words on; give --vocabulary and a data file that has one")
        firsts, starts = (np.frombuffer(each, np.int64) for each in (self.image_captions, self.caption_words))
        words = np.repeat(np.repeat(train, firsts[1:] - firsts[:-1]), starts[1:] - starts[:-1])
        counts = np.bincount(np.frombuffer(self.words, np.int32)[words], minlength=len(self.numbers))
        return Vocabulary.from_counts(dict(zip(self.numbers, counts.tolist(), strict=True)), min_count)

    def encoder(self, vocabulary: Vocabulary) -> NDArray[np.int32]:
        """The vocabulary's number of each word of ours."""
        return np.array([vocabulary.word_to_index.get(word, UNKNOWN) for word in self.numbers], np.int32)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but the folders of the pictures, which may move."""
        found = hashlib.sha256()
        for part in (self.splits, self.ids, self.image_captions, self.names.ends, self.texts.ends):
            found.update(part.tobytes())
        found.update(self.names.letters)
        found.update(self.texts.letters)
        return found.hexdigest()


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all elements of several stretches, one stretch after the other.

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
