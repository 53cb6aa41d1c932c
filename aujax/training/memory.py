"""Whether a compiled program fits into the memory of a device. Sizes are bytes per device."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import psutil
from jax.sharding import Mesh

from aujax import processes
from aujax.errors import UserError

_EXHAUSTED = "RESOURCE_EXHAUSTED"
_USABLE = 0.95  # of the memory of a device: the allocator needs some for itself


class DoesNotFit(Exception):
    """A program or an array is larger than the memory of a device; the message has both sizes."""


def capacity(mesh: Mesh, state: Any = ()) -> int:
    """Returns the memory that a program may use on each device of this process, the given `state` included."""
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return int(_USABLE * (min(available(device) for device in mesh.local_devices) + stored))


def available(device: Any) -> float:
    """Returns the free memory of a device of this process; devices on the CPU share that of the machine."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return psutil.virtual_memory().available / jax.local_device_count()


def needed(program: jax.stages.Compiled) -> int:
    """Returns the memory of a program while it runs, arguments and results included, as the compiler counts it."""
    sizes: Any = program.memory_analysis()
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )


def compiled(lowered: Any) -> Any:
    """Returns the compiled program; `DoesNotFit` if the compiler already finds it too large."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        raise DoesNotFit(f"more than a device has ({str(error).splitlines()[0]})") from error


def check(size: int, capacity: int) -> None:
    """Raises `DoesNotFit`, in all processes, unless `size` is within the `capacity` of each process."""
    if processes.smallest(capacity - size) < 0:
        raise DoesNotFit(f"{readable(size)} of each device, which has {readable(capacity)} left")


def compile_for_batch(
    lower: Callable[[int], Any], size: int, *, unit: int, capacity: int, work: str, advice: str = ""
) -> Any:
    """Returns the compiled program for a batch of `size` faces.

    Args:
      lower: batch size -> lowered program.
      size: batch size, a multiple of `unit`.
      unit: what the batch size must be divisible by.
      capacity: memory of each device.
      work: the option of the batch size and the program's work, for messages.
      advice: options that need less memory, for messages.

    Raises:
      UserError: the program does not fit; the message has the largest batch size that does.
    """
    program = functools.cache(lambda faces: compiled(lower(faces)))

    def needed_for(faces):
        try:
            return needed(program(faces))
        except DoesNotFit:
            return math.inf

    try:
        check(needed(program(size)), capacity)
    except DoesNotFit as error:
        fits = largest_batch(needed_for, size, unit=unit, capacity=capacity)
        most = f"the largest that fits is about {fits}" if fits else "not even a smaller one fits"
        more = f"; {advice}" if advice else ""
        raise UserError(f"--config.{work} {size} faces needs {error}; {most}{more}") from error
    return program(size)


def largest_batch(needed_for: Callable[[int], float], size: int, *, unit: int, capacity: int) -> int:
    """Returns about the largest multiple of `unit` below `size` that needs at most `capacity`; 0 if none does.

    Halves the size until it fits, and interpolates from there: memory grows linearly. Each call of `needed_for`
    compiles a program.

    >>> largest_batch(lambda faces: 100 + 7 * faces, 640, unit=8, capacity=1000)
    128
    """
    while (smaller := size // 2 // unit * unit) and needed_for(smaller) > capacity:
        size = smaller
    if not smaller:
        return 0
    base = needed_for(smaller)
    slope = (needed_for(size) - base) / (size - smaller)
    guess = smaller + int((capacity - base) / max(slope, 1.0)) // unit * unit
    return guess if guess < size and needed_for(guess) <= capacity else smaller


@contextlib.contextmanager
def exhaustion_explained() -> Iterator[None]:
    """Turns the runtime's error about a full device into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        raise UserError(
            f"the memory of a device is full ({str(error).splitlines()[0]}); take a smaller --config.data.batch_size "
            "or --config.data.eval_batch_size, or set --config.data.cache=off"
        ) from error


def readable(size: int) -> str:
    """Returns a number of bytes with three digits and a unit.

    >>> readable(2_500_000_000), readable(4_000_000)
    ('2.33 GiB', '3.81 MiB')
    """
    number = size / 2**10
    for unit in ("KiB", "MiB"):
        if number < 2**10:
            return f"{number:.3g} {unit}"
        number /= 2**10
    return f"{number:.3g} GiB"
