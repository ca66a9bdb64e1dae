"""Several processes, each with its share of every batch: what torchrun starts. Alone, all of this does nothing.

A batch is of `training.batch_size` images, however many processes share it, and however many parts each of them takes
one after the other. So steps, learning rates and results are those of one process, and a run goes on with any number.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import Dataset, Sampler

from caption.device import choose_device

T = TypeVar("T")


def init(device: torch.device) -> torch.device:
    """Join the processes that torchrun started, if it did; the device of this one. Only the first prints."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")  # a UserError, if there are fewer
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    if rank():
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    return device


def destroy() -> None:
    """Leave them."""
    if world_size() > 1:
        distributed.destroy_process_group()


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Of this process, from 0; the first one writes."""
    return distributed.get_rank() if world_size() > 1 else 0


def all_reduce(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def sum_integers(*values: int) -> list[int]:
    """The same of numbers on the CPU; a GPU is not asked."""
    return [int(value) for value in all_reduce(torch.tensor(values, dtype=torch.int64)).tolist()]


def gather(mine: dict[int, T]) -> dict[int, T]:
    """What all processes have, in each."""
    if world_size() == 1:
        return mine
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def broadcast(value: T) -> T:
    """The first process' value, in each."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def seed_rank(seed: int, step: int) -> None:
    """Random numbers of its own for each process but the first."""
    if rank():
        torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1)[0]))


def shard(batches: list[list[int]]) -> list[list[int]]:
    """This process' share of batches that are all of one kind."""
    return batches[rank() :: world_size()]


class DistributedBatches(Sampler[list[int]]):
    """This process' part of every batch, in `parts` pieces after each other.

    Every n-th item, since neighbours are of like length. Where a batch has too few items, its first stands in, as
    `~item`: the processes must all take part.
    """

    def __init__(self, batches: Sampler[list[int]], parts: int = 1) -> None:
        self.batches, self.parts = batches, parts

    def __len__(self) -> int:
        return len(self.batches) * self.parts  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        every = world_size() * self.parts
        for batch in self.batches:
            for part in range(rank() * self.parts, (rank() + 1) * self.parts):
                yield batch[part::every] or [~batch[0]]


class PaddingBatches(Dataset[Any]):
    """A data set that also gives stand-ins: an image with captions of no words, which count nowhere."""

    def __init__(self, data: Any) -> None:
        """`data` makes batches of several items, whose lengths are the captions'."""
        self.data = data

    def __getitems__(self, items: list[int]) -> Any:
        if items[0] >= 0:
            return self.data.__getitems__(items)
        batch = self.data.__getitems__([~items[0]])
        return batch._replace(lengths=torch.zeros_like(batch.lengths))

    def __getitem__(self, item: int) -> Any:
        return self.__getitems__([item])
