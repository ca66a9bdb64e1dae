"""The order in which the items of a data set are put into batches."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class BucketSampler(Sampler[list[int]]):
    """Yield batches of items of similar length, mixed anew in every epoch.

    `keys` [N, K] holds the sort keys of every item, the most important first. The items are shuffled and cut into
    pools of so many batches; each pool is sorted by its keys and cut into batches; the batches are shuffled. A pool of
    one batch makes batches of items of any length. With `exact_length`, all items of a batch have equal keys. The order
    depends on `seed` and the epoch alone, so training can resume at any batch.

    In the first `curriculum_epochs`, items and batches come by their first key, from stage to stage: a curriculum
    (Bengio et al., 2009), since an image with short captions is an easy one. Within a stage they remain shuffled:
    sorted by every word, they would be of one wording after the other.
    """

    MAX_POOL_SIZE = 50
    STAGE = 5  # words by which captions of two stages differ

    def __init__(
        self,
        keys: NDArray[np.int64],
        batch_size: int,
        seed: int,
        exact_length: bool = False,
        max_pool_size: int = MAX_POOL_SIZE,
        curriculum_epochs: int = 0,
    ) -> None:
        self.keys, self.batch_size, self.seed, self.exact_length = keys, batch_size, seed, exact_length
        self.stages, self.curriculum_epochs = keys[:, 0] // self.STAGE, curriculum_epochs
        # At most a quarter of the data set, or sorting would always group the same items.
        self.pool_size = max(1, min(max_pool_size, len(keys) // batch_size // 4))
        self.epoch, self.skip = 1, 0
        self._cache: tuple[int, list[list[int]]] | None = None

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Let the next iteration run over this epoch, without its first `skip` batches."""
        self.epoch, self.skip = epoch, skip

    def batches(self) -> list[list[int]]:
        """Return all batches of the epoch."""
        if self._cache is None or self._cache[0] != self.epoch:
            self._cache = self.epoch, self._shuffle()
        return self._cache[1]

    def _shuffle(self) -> list[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.keys))
        in_stages = self.epoch <= self.curriculum_epochs
        if in_stages:
            order = order[np.argsort(self.stages[order], kind="stable")]
        pool_items = len(order) if self.exact_length else self.batch_size * self.pool_size
        batches: list[list[int]] = []
        for start in range(0, len(order), pool_items):
            items = order[start : start + pool_items]
            items = items[np.lexsort(self.keys[items].T[::-1])]
            keys = self.keys[items]
            cuts = (np.flatnonzero((keys[1:] != keys[:-1]).any(1)) + 1).tolist() if self.exact_length else []
            for bucket in np.split(items, cuts):
                batches += [bucket[i : i + self.batch_size].tolist() for i in range(0, len(bucket), self.batch_size)]
        batches = [batches[i] for i in generator.permutation(len(batches))]
        return sorted(batches, key=lambda batch: self.stages[batch].max()) if in_stages else batches

    def __len__(self) -> int:
        return len(self.batches()) - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches()[self.skip :])


def sequential_batches(count: int, batch_size: int) -> list[list[int]]:
    """Return the items 0 to `count` - 1 in order, cut into batches."""
    return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]
