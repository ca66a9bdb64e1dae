"""Worker processes: a parallel map that keeps the order and runs only a few jobs ahead."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from typing import TypeVar

from caption.errors import UserError

J = TypeVar("J")
R = TypeVar("R")
JOBS_PER_WORKER = 4  # that are waiting, running, or not yet collected


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Iterator[R]:
    """Yield function(job) for every job in order, computed by worker processes, or by this one if `workers` is 0.
    Raises UserError if a worker is killed."""
    if not workers:
        yield from map(function, jobs)
        return
    pending: deque[Future[R]] = deque()
    pool = ProcessPoolExecutor(workers, initializer=_initialise_worker)
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= JOBS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; completed work is kept: run the same command "
            "again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _initialise_worker() -> None:
    """Ignore Ctrl-C, which reaches every process but is handled by the main one, and exit when that one has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def exit_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
