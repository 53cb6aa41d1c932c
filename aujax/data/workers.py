"""Progress bars and parallel maps over many files."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from typing import TypeVar

import cv2
import rich.console
import rich.progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def track(items: Iterable[Item], total: int | None, description: str) -> Generator[Item, None, None]:
    """Yields the items and shows a progress bar on standard error; `total` is their number, None if unknown."""
    console = rich.console.Console(stderr=True)
    yield from rich.progress.track(items, description=description, total=total, console=console)


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    description: str,
    in_processes: bool = False,
    chunksize: int = 16,
) -> Generator[Result, None, None]:
    """Yields `function(item)` for each item, in their order, with a progress bar; close the generator to stop early.

    Args:
      function: with `in_processes`, it, the items and the results must be picklable.
      jobs: the number of threads or processes; with 1, everything happens in the caller's thread.
      description: the text beside the progress bar.
      in_processes: for functions that hold the interpreter lock.
      chunksize: how many items a worker takes at once.
    """
    if jobs == 1:
        yield from track(map(function, items), len(items), description)
        return
    # Fresh processes: forked ones would share the state of OpenCV's and JAX's threads.
    pool = multiprocessing.get_context("spawn").Pool(jobs, _start_process) if in_processes else ThreadPool(jobs)
    with pool:
        yield from track(pool.imap(function, items, chunksize), len(items), description)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    cv2.setNumThreads(1)  # there is a process per processor already
