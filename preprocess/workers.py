"""Worker processes: jobs in, results out in the jobs' order, never more than a few ahead."""

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
AHEAD = 4  # jobs a worker that wait, run, or wait to be taken


def available_cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Iterator[R]:
    """function(job) of every job, by so many processes; without any, here. Raises UserError when a process dies."""
    if not workers:
        yield from map(function, jobs)
        return
    waiting: deque[Future[R]] = deque()
    pool = ProcessPoolExecutor(workers, initializer=_begin)
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; what is done is kept: run the same command "
            "again, with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Ctrl-C reaches every process, but the main one decides; and when that is gone, so are its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
