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

# By the published network of a method: one of its family that takes seconds.
SMALL = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}


def turns(works: Sequence[Work], repeats: int) -> list[tuple[float, ...]]:
    """Returns the seconds of each work in every turn, run one after the other so that a busy machine slows all alike."""
    return list(
        zip(*[[_seconds(work) for work in works] for _ in range(repeats + 1)][1:], strict=True)
    )  # 1st: compiles


def in_turns(works: Sequence[Work], repeats: int) -> list[float]:
    """Returns the median seconds of each work, over the turns."""
    return [statistics.median(times) for times in turns(works, repeats)]


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> str:
    """Returns the processor or accelerator, the version of JAX and the date, on which all times depend."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    where = "" if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}; "
    return f"{where}{model}, {cores} of its cores; {datetime.date.today()}, jax {jax.__version__}"
