"""Whether a compiled program fits into a device, and what to say where it does not. Sizes are bytes per device."""

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
_USED = 0.95  # of what a device has: the allocator needs some for itself


class NoRoom(Exception):
    """A program or an array is larger than a device; the message says how much it needs and what there is."""


def limit(mesh: Mesh, state: Any = ()) -> int:
    """Returns what each device of this process has left for a program, with the `state` that it holds already."""
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return int(_USED * (min(free(device) for device in mesh.local_devices) + held))


def free(device: Any) -> float:
    """Returns what a device of this process has left; devices on the CPU share what is left of the machine."""
    told = device.memory_stats() or {}
    if "bytes_limit" in told:
        return told["bytes_limit"] - told.get("bytes_in_use", 0)
    return psutil.virtual_memory().available / jax.local_device_count()


def needed(program: jax.stages.Compiled) -> int:
    """Returns what the program holds while it runs, its arguments and results included, as the compiler counts it."""
    sizes: Any = program.memory_analysis()
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )


def compiled(lowered: Any) -> Any:
    """Returns the compiled program; NoRoom if already the compiler sees that it is too large."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        raise NoRoom(f"more than a device has ({str(error).splitlines()[0]})") from error


def check(size: int, room: int) -> None:
    """Raises NoRoom, in all processes, unless `size` bytes fit into the `room` of each."""
    if processes.least(room - size) < 0:
        raise NoRoom(f"{shown(size)} of each device, which has {shown(room)} left")


def fitting(
    lower: Callable[[int], Any], size: int, *, unit: int, room: int, option: str, work: str, advice: str = ""
) -> Any:
    """Returns the compiled program for a batch of `size` faces, a multiple of `unit`.

    Where that does not fit into `room`, it is a UserError about `option` with the largest batch that does.
    """
    program = functools.cache(lambda faces: compiled(lower(faces)))

    def needed_for(faces: int) -> float:
        try:
            return needed(program(faces))
        except NoRoom:
            return math.inf

    try:
        check(needed(program(size)), room)
    except NoRoom as error:
        fits = largest(needed_for, size, unit=unit, room=room)
        most = f"the largest that fits is about {fits}" if fits else "not even a smaller one fits"
        more = f"; {advice}" if advice else ""
        raise UserError(f"--config.{option}: {work} {size} faces needs {error}; {most}{more}") from error
    return program(size)


def largest(needed_for: Callable[[int], float], size: int, *, unit: int, room: int) -> int:
    """Returns about the largest multiple of `unit` below `size` for which `needed_for` is at most `room`, 0 for none.

    Halves until it fits; from there memory grows along a line. Each question compiles a program.

    >>> largest(lambda faces: 100 + 7 * faces, 640, unit=8, room=1000)
    128
    """
    while (smaller := size // 2 // unit * unit) and needed_for(smaller) > room:
        size = smaller
    if not smaller:
        return 0
    base, slope = needed_for(smaller), (needed_for(size) - needed_for(smaller)) / (size - smaller)
    guess = smaller + int((room - base) / max(slope, 1.0)) // unit * unit
    return guess if guess < size and needed_for(guess) <= room else smaller


@contextlib.contextmanager
def exhaustion_explained() -> Iterator[None]:
    """Turns the runtime's report of a full device into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        raise UserError(
            f"the memory of a device is full ({str(error).splitlines()[0]}); take a smaller --config.data.batch_size "
            "or --config.data.eval_batch_size, or set --config.data.cache=off"
        ) from error


def shown(size: int) -> str:
    """Returns a size in words.

    >>> shown(2_500_000_000), shown(4_000_000)
    ('2.33 GiB', '3.81 MiB')
    """
    unit, name = next((pair for pair in ((2**30, "GiB"), (2**20, "MiB")) if size >= pair[0]), (2**10, "KiB"))
    return f"{size / unit:.3g} {name}"
