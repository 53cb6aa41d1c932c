"""One global batch on 1, 2, 4 and 8 virtual devices of this machine: losses, collectives, memory and time of a step.

    python benchmarks/scaling.py [--smoke] [--method CAM] [--batch 32] [--image_size 96] [--repeats N]
    python benchmarks/scaling.py --resident 8,64,256 [--faces 12271] [the same options]

Virtual devices share the processor, so the time says what dividing costs and not what it gains. "apart" is the largest
relative difference of a loss from that on one device over three steps; "sent" is what a device sends in a step in
collectives, gradients included, by the usual algorithm over a ring of n devices.

With --resident, the step over device-resident faces is compiled for so many devices, with --batch faces on each, and
not run.
"""

import argparse
import collections
import dataclasses
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"

import faces
import jax
import numpy as np
import timing
import training

from aujax import methods
from aujax.config import Config, DataConfig, OptimizerConfig
from aujax.data import device_cache, feed
from aujax.data.batch import Batch, abstract, data_mesh, replicated, to_mesh
from aujax.training import memory
from aujax.training import step as steps

# Bytes that a device sends for each byte of the result, among n devices.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1,
}
COLLECTIVE = re.compile(rf" = (.*) ({'|'.join(SENT)})\(.*?(?:replica_groups=(\S+)|$)")


def sent(program: jax.stages.Compiled, devices: int) -> dict[str, float]:
    """Returns how many bytes a device sends in each kind of collective of a compiled program."""
    sizes: dict[str, float] = collections.defaultdict(float)
    for results, kind, groups in COLLECTIVE.findall(program.as_text()):
        if explicit := re.match(r"\{\{([\d,]+)\}", groups):  # {{0,1},{2,3}}
            members = explicit[1].count(",") + 1
        elif short := re.match(r"\[\d+,(\d+)\]", groups):  # [2,2]<=[4]
            members = int(short[1])
        else:
            members = devices
        for dtype, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", results):
            width = int(re.sub("[a-z]", "", dtype) or 8) // 8
            sizes[kind] += SENT[kind](members) * width * np.prod([int(n) for n in shape.split(",") if n], dtype=int)
    return sizes


def listed(sizes: dict[str, float]) -> str:
    """Returns the bytes of each kind of collective as text."""
    return ", ".join(f"{kind} {memory.readable(int(size))}" for kind, size in sizes.items() if size) or "nothing"


def resident_step(devices: int, config: Config, count: int) -> jax.stages.Compiled:
    """Returns the compiled step over `count` device-resident faces, which are not loaded."""
    made, state = training.start(config, data_mesh(jax.devices()[:1]))
    mesh = data_mesh(jax.devices()[:devices])
    made = made._replace(mesh=mesh)
    rows, valid = feed.batch_rows(np.arange(count, dtype=np.int32), config.data.batch_size)
    given = (state, steps.zero_means(made)), (rows, valid, np.int32(0))
    (state, totals), rest = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), given
    )
    stored = device_cache.faces_per_device(count, mesh) * devices
    return (
        steps.make_cached_steps(made).lower(state, totals, abstract(stored, config.resize_size, mesh), *rest).compile()
    )


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
    parser.add_argument("--batch", type=int, default=32, help="faces of all devices, or of each (default: 32)")
    parser.add_argument("--image_size", type=int, default=96, help="pixels a side (default: 96)")
    parser.add_argument("--repeats", type=int, default=9, help="turns (default: 9)")
    parser.add_argument("--resident", default="", help="numbers of devices to compile for, with device-resident faces")
    parser.add_argument("--faces", type=int, default=12271, help="device-resident faces (default: 12271)")
    options = parser.parse_args()
    counts, repeats = ((1, 2), 2) if options.smoke else ((1, 2, 4, 8), options.repeats)
    if options.resident:
        counts = [int(count) for count in options.resident.split(",")]
    jax.config.update("jax_num_cpu_devices", max(counts))
    config = Config(
        method=options.method,
        backbone=timing.SMALL[methods.method(options.method).backbone],
        image_size=64 if options.smoke else options.image_size,
        data=DataConfig(batch_size=options.batch),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    if options.resident:
        print(f"{timing.machine()}; {options.method}, {options.batch} faces on each, {options.faces} resident\n")
        print(f"{'devices':>7}{'stored':>11}{'temporary':>11}   sent by each in a step")
        for count in counts:
            data = dataclasses.replace(config.data, batch_size=options.batch * count)
            program = resident_step(count, dataclasses.replace(config, data=data), options.faces)
            stored = device_cache.bytes_per_device(options.faces, config.resize_size, data_mesh(jax.devices()[:count]))
            temporary = program.memory_analysis().temp_size_in_bytes
            sizes = listed(sent(program, count))
            print(f"{count:>7}{memory.readable(stored):>11}{memory.readable(temporary):>11}   {sizes}", flush=True)
        return
    batch = faces.batch(options.batch, config.resize_size)
    measured = [step_on(count, config, batch) for count in counts]
    times = timing.in_turns([work for work, *_ in measured], repeats)
    print(f"{timing.machine()}; {options.method}, {options.batch} faces, median of {repeats} turns\n")
    print(f"{'devices':>7}{'ms a step':>11}{'ratio':>7}{'MiB each':>10}{'loss apart':>12}   sent")
    for count, seconds, (_, program, losses) in zip(counts, times, measured, strict=True):
        apart = max(abs(loss / first - 1) for loss, first in zip(losses, measured[0][2], strict=True))
        size = memory.needed(program) / 2**20
        print(
            f"{count:>7}{seconds * 1e3:>11.1f}{seconds / times[0]:>7.2f}{size:>10.1f}{apart:>12.1e}   "
            f"{listed(sent(program, count))}"
        )


if __name__ == "__main__":
    main()
