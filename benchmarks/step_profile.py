"""Where the milliseconds of a training step go: by part of the step and by kind of operation.

    python benchmarks/step_profile.py [--smoke] [--method CAM] [--batch 32] [--image_size P] [--dtype bfloat16]
                                      [--steps N] [--top N]

Runs compiled steps under JAX's profiler and adds up the time of each operation of the program, on whichever device it
ran. An operation belongs to the part of the step that it was traced in; a fusion, which may hold several, to that of
its result.
Operations that run at the same time are counted with their own time each.
"""

import argparse
import collections
import pathlib
import re
import tempfile
from typing import NamedTuple

import faces
import jax
import timing
import training

from aujax import methods
from aujax.config import Config, DataConfig
from aujax.data.batch import sharded
from aujax.training import memory
from aujax.training import step as steps

# What an operation's name says of the part it belongs to; the first that matches.
PARTS = {
    "views: AU maps, augmentation": "/views/",
    "backward pass": "transpose(",
    "alignment and cross-entropy": "/loss/",
    "forward pass": "/gradients/",
    "update": "/update/",
}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = .*? ([\w-]+)\((.*)")
_HOLDS_OTHERS = ("while", "call", "conditional")  # their operations are counted one by one
_HEAVY = ("convolution", "dot")  # what a fusion is named after if it has one


class Operation(NamedTuple):
    """An instruction of a compiled program: its kind, and where it was traced."""

    kind: str
    traced: str


def operations(program: jax.stages.Compiled) -> dict[str, Operation]:
    """Returns every instruction by name; one that the compiler made is traced to the first that uses its result."""
    found, users, kinds, inside = {}, collections.defaultdict(list), collections.defaultdict(set), ""
    for line in program.as_text().splitlines():
        if match := _COMPUTATION.match(line):
            inside = match[1]
        elif match := _INSTRUCTION.match(line):
            name, kind, rest = match.groups()
            traced = re.search(r'op_name="([^"]*)"', rest)
            calls = re.search(r"calls=%?([\w.-]+)", rest)
            kinds[inside].add(kind)
            heavy = next((x for x in _HEAVY if calls and x in kinds[calls[1]]), kind)
            found[name] = Operation(heavy, traced[1] if traced else "")
            for operand in re.findall(r"%([\w.-]+)", rest.partition(")")[0]):
                users[operand].append(name)

    def traced(name: str, hops: int = 4) -> str:
        if found[name].traced or not hops:
            return found[name].traced
        return next(filter(None, (traced(user, hops - 1) for user in users[name])), "")

    return {name: operation._replace(traced=traced(name)) for name, operation in found.items()}


def durations(folder: str, known: dict[str, Operation]) -> dict[str, float]:
    """Returns the nanoseconds of every operation in the profile below the folder, "" for what is none of the known."""
    newest = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))[-1]
    times: dict[str, float] = collections.Counter()
    kernels = {re.sub(r"[.-]", "_", name): name for name in known}
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        on_gpu = plane.name.startswith("/device:GPU")
        for line in plane.lines:
            if on_gpu and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op", "")
                held = name in known and known[name].kind not in _HOLDS_OTHERS
                if on_gpu and not held:
                    # A kernel inside a recorded graph of them carries the graph's name, and its own as an identifier.
                    name = kernels.get(re.sub(r"__\d+$", "", event.name), "")
                if on_gpu or (held and event.name == name):
                    times[name] += event.duration_ns
    return times


def part_of(traced: str) -> str:
    """Returns the part of the step that an operation was traced in."""
    return next((part for part, sign in PARTS.items() if sign in traced), "the rest: copies, waiting, libraries")


def table(times: dict[str, float], key, steps_: int, top: int | None = None) -> None:
    """Prints milliseconds a step and share by what `key` calls an operation, the longest first."""
    sums: dict[str, float] = collections.Counter()
    for name, duration in times.items():
        sums[key(name)] += duration
    for name, duration in sorted(sums.items(), key=lambda item: -item[1])[:top]:
        print(f"{duration / 1e6 / steps_:>10.2f} ms{duration / sum(sums.values()):>8.1%}   {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and images: does it run at all?")
    parser.add_argument("--method", default="CAM", help="row (default: CAM)")
    parser.add_argument("--batch", type=int, default=32, help="faces a step (default: 32)")
    parser.add_argument("--image_size", type=int, default=0, help="pixels a side (default: the method's own)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of activations")
    parser.add_argument("--steps", type=int, default=5, help="profiled steps (default: 5)")
    parser.add_argument("--top", type=int, default=10, help="longest operations listed (default: 10)")
    options = parser.parse_args()
    small = timing.SMALL[methods.method(options.method).backbone] if options.smoke else ""
    size, batch = (64, 4) if options.smoke else (options.image_size, options.batch)
    config = Config(
        method=options.method, backbone=small, image_size=size, dtype=options.dtype, data=DataConfig(batch_size=batch)
    )
    made, state = training.start(config)
    held = jax.device_put(faces.batch(batch, config.resize_size), sharded(made.mesh))
    program = steps.make_train_step(made).lower(state, held).compile()
    state, _ = program(state, held)  # the first one allocates
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(options.steps):
                state, _ = jax.block_until_ready(program(state, held))
        known = operations(program)
        times = durations(folder, known)
    print(f"{timing.machine()}; {options.method}, {batch} faces of {config.input_size} px, {options.dtype}")
    print(f"{memory.readable(memory.needed(program))} a device, {options.steps} steps\n\nby part of the step")
    known[""] = Operation("library kernels in graphs", "")
    table(times, lambda name: part_of(known[name].traced), options.steps)
    print("\nby kind of operation")
    table(times, lambda name: known[name].kind, options.steps)
    print(f"\nthe {options.top} longest operations")
    table(times, lambda name: f"{name}: {known[name].traced}", options.steps, options.top)


if __name__ == "__main__":
    main()
