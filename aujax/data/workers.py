"""Work on many files at once, with a progress bar and the time left on standard error."""

import contextlib
import multiprocessing
import signal
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.pool import Pool
from typing import TypeVar

import cv2
import rich.console
import rich.progress

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int | None, what: str) -> Generator[Item, None, None]:
    """The items, while a bar shows how many of `total` (None: unknown) have come."""
    console = rich.console.Console(stderr=True)
    yield from rich.progress.track(items, description=what, total=total, console=console)


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[Pool]:
    """A pool of fresh processes, ended on the way out; Ctrl-C reaches only the parent."""
    with multiprocessing.get_context("spawn").Pool(jobs, _start) as pool:
        yield pool


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
