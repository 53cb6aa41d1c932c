"""Training steps of each method without and with AU cues: images a second, memory, and what the cues cost.

    python benchmarks/training_step.py [--smoke] [--methods CAM,TS-CAM,...] [--batches 32,224] [--dtype bfloat16]
                                       [--rematerialize] [--accumulate N] [--image_size P] [--repeats N]

A step is what `train.py` runs on resident data: it takes its faces from the device's memory, draws augmentation and AU
maps, and updates the network, several steps a call on an accelerator and one on a CPU. Pixels are random. Without and
with cues take turns in one process; "cost" is the ratio of the medians. Memory is the compiler's count for one device,
the resident faces left out; "-" in place of a row means that it does not fit.
"""

import argparse
import dataclasses
import time
from typing import NamedTuple

import faces
import jax
import numpy as np
import timing
import training

from aujax import methods
from aujax.config import Config, DataConfig
from aujax.data import feed
from aujax.data.batch import replicate, sharded
from aujax.training import memory
from aujax.training import step as steps

STEPS = 20  # of an epoch, which one call computes where a loop is as fast as its steps
BATCHES_HELD = 4  # the resident faces, in batches


class Program(NamedTuple):
    """A compiled call, the work of running it once, and what it costs in advance."""

    work: timing.Work
    steps: int
    bytes: int
    compile_seconds: float


def program(config: Config) -> Program:
    """Returns the compiled training call of a configuration on random faces."""
    made, state = training.start(config)
    mesh = made.mesh
    batch = config.data.batch_size
    held = jax.device_put(faces.batch(BATCHES_HELD * batch, config.resize_size), sharded(mesh))
    rows, valid = feed.batch_rows(np.random.default_rng(0).permutation(BATCHES_HELD * batch).astype(np.int32), batch)
    count = steps.steps_per_call(STEPS, mesh)
    rows, valid = (np.resize(x, (count, batch)) for x in (rows, valid))
    fixed = (held, *replicate((rows, valid, np.int32(0)), mesh))
    carry = [state, replicate(steps.zero_means(made), mesh)]
    started = time.perf_counter()
    compiled = steps.make_cached_steps(made, count).lower(*carry, *fixed).compile()
    seconds = time.perf_counter() - started
    size = memory.needed(compiled) - sum(part.nbytes for part in held) // mesh.size

    def work() -> None:
        carry[:] = jax.block_until_ready(compiled(*carry, *fixed))

    return Program(work, count, size, seconds)


def configuration(row: methods.Method, batch: int, options: argparse.Namespace) -> Config:
    """Returns the training of a row with AU cues."""
    return Config(
        method=row.name,
        backbone=timing.SMALL[row.backbone] if options.smoke else "",
        image_size=64 if options.smoke else options.image_size,
        dtype=options.dtype,
        rematerialize=options.rematerialize,
        gradient_accumulation=options.accumulate,
        data=DataConfig(batch_size=batch),
    )


def line(row: methods.Method, batch: int, options: argparse.Namespace) -> str:
    """Returns a line of the table."""
    config = configuration(row, batch, options)
    try:
        both = [program(dataclasses.replace(config, au_weight=weight)) for weight in (0.0, 4.0)]
        times = timing.in_turns([one.work for one in both], options.repeats)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return f"{row.name:<20}{batch:>6}   - does not fit"
    seconds = [duration / one.steps for duration, one in zip(times, both, strict=True)]
    rates = "".join(f"{batch / duration:>10.1f}" for duration in seconds)
    sizes = "".join(f"{one.bytes / 2**20:>11.0f}" for one in both)
    costs = f"{seconds[1] / seconds[0]:>8.3f}x{both[1].bytes / both[0].bytes:>8.3f}x"
    return f"{row.name:<20}{batch:>6}{rates}{sizes}{costs}{both[1].compile_seconds:>9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks and images: does it run at all?")
    parser.add_argument(
        "--methods", default="CAM,TS-CAM,APViT", help="rows to measure, or all (default: CAM,TS-CAM,APViT)"
    )
    parser.add_argument("--batches", default="32,224", help="faces a step (default: 32,224)")
    parser.add_argument("--image_size", type=int, default=0, help="pixels a side (default: the method's own)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of activations")
    parser.add_argument("--rematerialize", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: 9)")
    options = parser.parse_args()
    if options.smoke:
        options.batches, options.repeats = "4", 2
    names = methods.METHODS if options.methods == "all" else options.methods.split(",")
    print(f"{timing.machine()}; {options.dtype}, median of {options.repeats} turns\n")
    print("                           images a second         MiB a device     cost of cues     compile")
    print(
        f"{'method':<20}{'batch':>6}{'without':>10}{'with':>10}{'without':>11}{'with':>11}{'time':>9}{'memory':>9}{'s':>9}"
    )
    for name in names:
        for batch in map(int, options.batches.split(",")):
            print(line(methods.method(name), batch, options), flush=True)


if __name__ == "__main__":
    main()
