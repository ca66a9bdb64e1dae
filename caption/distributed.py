"""Data-parallel processes, as torchrun starts them; with a single process, all of this does nothing.

A batch has `training.batch_size` images however many processes share it, and however many micro-batches each process
makes of its part. Steps, learning rates and results are therefore those of one process, and a run can be resumed with
another number of processes.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.utils.data import Dataset, Sampler

from caption.device import choose_device
from caption.errors import UserError

T = TypeVar("T")
ANSWER_SECONDS = 2.0  # for the processes that lost the connection to another to say that they are there


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[torch.device]:
    """Join the processes of torchrun, if it started this one, and yield its device. Only rank 0 prints.

    An error in one process ends all of them, and only one shows it. If a process was killed, one of the others names it
    in a UserError. Raises UserError if there are fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
    store, own_rank, processes = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=own_rank, world_size=processes)
    if own_rank:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        yield device
    except Exception as error:
        shown = _agree(error, store)
        if shown is error:
            raise
        raise shown from None
    distributed.destroy_process_group()


def _agree(error: Exception, store: Any) -> BaseException:
    """Return what this process raises for its error: SystemExit if another process shows the cause.

    A process that lost the connection to another cannot tell to which, or why: each that ends with an error says so in
    the store, which torchrun keeps, and those that do not answer were killed.
    """
    missing: list[int] = []
    try:
        store.set(f"ended/{rank()}", "")
        if isinstance(error, distributed.DistError) or (type(error) is RuntimeError and "gloo" in str(error)):
            missing = _missing(store)
        if store.add("shown", 1) > 1:
            return SystemExit(2)
    except distributed.DistError:  # without torchrun, process 0 keeps the store
        missing = [0]
    if not missing:
        return error
    names = " and ".join(str(number) for number in missing)
    return UserError(
        f"no answer from process {names} of {world_size()} (counted from 0): killed, or its machine failed; what was "
        "saved is whole, and train.py continues with --resume"
    )


def _missing(store: Any) -> list[int]:
    """Return the ranks that do not end with an error in the next seconds, until a process shows one."""
    missing, deadline = [*range(world_size())], time.monotonic() + ANSWER_SECONDS
    while missing and not store.add("shown", 0) and time.monotonic() < deadline:
        missing = [number for number in missing if not store.check([f"ended/{number}"])]
        time.sleep(0.1)
    return missing


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; rank 0 writes the files."""
    return distributed.get_rank() if world_size() > 1 else 0


def all_reduce(values: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def sum_integers(*values: int) -> list[int]:
    """Return the sums of integers over all processes, without synchronising with a GPU."""
    return [int(value) for value in all_reduce(torch.tensor(values, dtype=torch.int64)).tolist()]


def gather(items: dict[int, T]) -> dict[int, T]:
    """Return the items of all processes, in each of them."""
    if world_size() == 1:
        return items
    gathered: list[Any] = [None] * world_size()
    distributed.all_gather_object(gathered, items)
    return {key: value for rank_items in gathered for key, value in rank_items.items()}


def broadcast(value: T) -> T:
    """Return the value of rank 0, in every process."""
    return gather({rank(): value})[0]


def broadcast_buffers(module: nn.Module) -> None:
    """Give the module of every process the buffers of rank 0, such as the statistics of batch normalisation."""
    if world_size() > 1:
        for values in module.buffers():
            distributed.broadcast(values, 0)


def seed_rank(seed: int, step: int) -> None:
    """Seed every rank but 0 differently."""
    if rank():
        torch.manual_seed(int(np.random.SeedSequence((seed, step, rank())).generate_state(1)[0]))


def shard(batches: list[list[int]]) -> list[list[int]]:
    """Return the batches of this process, of a list that is the same in all."""
    return batches[rank() :: world_size()]


class DistributedBatches(Sampler[list[int]]):
    """This process's part of every batch, as `accumulation_steps` micro-batches.

    A micro-batch takes every n-th item, since neighbours have similar lengths. If a batch has too few items, the
    micro-batch is `[~item]`, a padding batch made from its first item, because every process must take part.
    """

    def __init__(self, batches: Sampler[list[int]], accumulation_steps: int = 1) -> None:
        self.batches, self.accumulation_steps = batches, accumulation_steps

    def __len__(self) -> int:
        return len(self.batches) * self.accumulation_steps  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        stride = world_size() * self.accumulation_steps
        for batch in self.batches:
            for start in range(rank() * self.accumulation_steps, (rank() + 1) * self.accumulation_steps):
                yield batch[start::stride] or [~batch[0]]


class PaddingBatches(Dataset[Any]):
    """A data set that also makes padding batches: one image with captions of length 0, which no sum counts."""

    def __init__(self, data: Any) -> None:
        """Wrap `data`, whose batches have the `lengths` of the captions."""
        self.data = data

    def __getitems__(self, items: list[int]) -> Any:
        if items[0] >= 0:
            return self.data.__getitems__(items)
        batch = self.data.__getitems__([~items[0]])
        return batch._replace(lengths=torch.zeros_like(batch.lengths))
