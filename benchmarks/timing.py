"""What the benchmarks share: timing in turns, the line that says on what, and a small network for a first try."""

import datetime
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import jax

Work = Callable[[], object]
Clock = Callable[[], float]

# By the published network of a method: one of its family that takes seconds.
SMALL = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}


def turns(works: Sequence[Work], repeats: int, clock: Clock = time.perf_counter) -> list[tuple[float, ...]]:
    """Returns the seconds of each work in every turn, run one after the other so that other load slows all alike."""
    seconds = [[_seconds(work, clock) for work in works] for _ in range(repeats + 1)]
    return list(zip(*seconds[1:], strict=True))  # the first turn compiles


def in_turns(works: Sequence[Work], repeats: int) -> list[float]:
    """Returns the median seconds of each work, over the turns."""
    return [statistics.median(seconds) for seconds in turns(works, repeats)]


def _seconds(work: Work, clock: Clock) -> float:
    start = clock()
    work()
    return clock() - start


def machine() -> str:
    """Returns the processor or accelerator, the version of JAX and the date, on which all times depend."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    where = "" if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}; "
    return f"{where}{model}, {cores} of its cores; {datetime.date.today()}, jax {jax.__version__}"
