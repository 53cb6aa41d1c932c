"""One global batch on 1, 2, 4 and 8 virtual devices of this machine: losses, collectives, memory and time of a step.

    python benchmarks/scaling.py [--smoke] [--method CAM] [--batch 32] [--image_size 96] [--repeats N]

Virtual devices share the processor, so the time says what dividing costs and not what it gains. "apart" is the largest
relative difference of a loss from that on one device over three steps; "exchanged" counts the numbers that each device
gives to collectives in a step, gradients included.
"""

import argparse
import collections
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import faces
import jax
import numpy as np
import timing
import training

from aujax import methods
from aujax.config import Config, DataConfig, OptimizerConfig
from aujax.data.batch import Batch, data_mesh, to_mesh
from aujax.training import memory
from aujax.training import step as steps

COLLECTIVE = re.compile(r" ((?:all|reduce-scatter|collective|ragged)-?[a-z-]*)\(")


def exchanged(program: jax.stages.Compiled) -> dict[str, int]:
    """Returns how many numbers each kind of collective of a compiled program exchanges."""
    sizes: dict[str, int] = collections.Counter()
    for line in program.as_text().splitlines():
        if found := COLLECTIVE.search(line):
            shapes = re.findall(r"\[([\d,]*)\]", line[: found.start()].partition(" = ")[2])
            sizes[found[1]] += sum(int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes)
    return sizes


def step_on(devices: int, config: Config, batch: Batch) -> tuple[timing.Work, jax.stages.Compiled, list[float]]:
    """Returns the work of one step, its program, and the losses of the first three."""
    mesh = data_mesh(jax.devices()[:devices])
    made, state = training.start(config, mesh)
    placed = to_mesh(batch, mesh)
    compiled = steps.make_train_step(made).lower(state, placed).compile()
    carry = [state]

    def work() -> float:
        carry[0], means = jax.block_until_ready(compiled(carry[0], placed))
        return float(means["loss"].compute())

    return work, compiled, [work() for _ in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two numbers of devices, small images")
    parser.add_argument("--method", default="CAM", help="row, on its small network (default: CAM)")
    parser.add_argument("--batch", type=int, default=32, help="faces of all devices (default: 32)")
    parser.add_argument("--image_size", type=int, default=96, help="pixels a side (default: 96)")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: 9)")
    options = parser.parse_args()
    counts, repeats = ((1, 2), 2) if options.smoke else ((1, 2, 4, 8), options.repeats)
    config = Config(
        method=options.method,
        backbone=timing.SMALL[methods.method(options.method).backbone],
        image_size=64 if options.smoke else options.image_size,
        data=DataConfig(batch_size=options.batch),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    batch = faces.batch(options.batch, config.resize_size)
    measured = [step_on(count, config, batch) for count in counts]
    times = timing.in_turns([work for work, *_ in measured], repeats)
    print(f"{timing.machine()}; {options.method}, {options.batch} faces, median of {repeats} turns\n")
    print(f"{'devices':>7}{'ms a step':>11}{'ratio':>7}{'MiB each':>10}{'loss apart':>12}   exchanged")
    for count, seconds, (_, program, losses) in zip(counts, times, measured, strict=True):
        apart = max(abs(loss / first - 1) for loss, first in zip(losses, measured[0][2], strict=True))
        kinds = ", ".join(f"{kind} {size:,}" for kind, size in exchanged(program).items()) or "nothing"
        size = memory.needed(program) / 2**20
        print(f"{count:>7}{seconds * 1e3:>11.1f}{seconds / times[0]:>7.2f}{size:>10.1f}{apart:>12.1e}   {kinds}")


if __name__ == "__main__":
    main()
