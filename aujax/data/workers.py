"""Progress bars and parallel maps over many files."""

import collections
import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from multiprocessing.pool import Pool, ThreadPool
from typing import TypeVar

import cv2
import rich.console
import rich.progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2


def processors() -> int:
    """Returns the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def track(items: Iterable[Item], total: int | None, description: str) -> Generator[Item, None, None]:
    """Yields the items and shows a progress bar on standard error; `total` is their number, None if unknown."""
    console = rich.console.Console(stderr=True)
    yield from rich.progress.track(items, description=description, total=total, console=console)


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int,
    description: str,
    in_processes: bool = False,
    total: int | None = None,
) -> Generator[Result, None, None]:
    """Yields `function(item)` for each item, in their order, with a progress bar; close the generator to stop early.

    Only `_AHEAD` items for each worker are requested, and their results kept, before the consumer takes the first one:
    memory does not grow with the number of items.

    Args:
      function: with `in_processes`, it, the items and the results must be picklable.
      items: their number is shown if it is known.
      jobs: the number of threads or processes; with 1, everything happens in the caller's thread.
      description: the text beside the progress bar; "" for no progress bar.
      in_processes: for functions that hold the interpreter lock.
      total: the number of items that have no length, if it is known.
    """
    total = len(items) if isinstance(items, Sized) else total

    def in_order(pool: Pool) -> Iterator[Result]:
        started = collections.deque()
        for item in items:
            started.append(pool.apply_async(function, (item,)))
            if len(started) == _AHEAD * jobs:
                yield started.popleft().get()
        while started:
            yield started.popleft().get()

    with contextlib.ExitStack() as stack:
        results = map(function, items)
        if jobs > 1:
            results = in_order(stack.enter_context(process_pool(jobs) if in_processes else ThreadPool(jobs)))
        yield from track(results, total, description) if description else results


def process_pool(jobs: int) -> Pool:
    """Returns a pool of fresh processes: forked ones would share the state of OpenCV's and JAX's threads."""
    return multiprocessing.get_context("spawn").Pool(jobs, _start_process)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    cv2.setNumThreads(1)  # there is a process per processor already
