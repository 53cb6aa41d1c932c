"""From disk to the step: faces read a second by 1 to 16 threads, and how much of an epoch is the compiled step.

    python benchmarks/input_path.py [--smoke] [--reading] [--data DIR] [--faces N] [--method CAM] [--backbone NAME]
                                    [--image_size P] [--batch N] [--threads 1,2,4,8,16] [--repeats N]

Without --data, faces of 256 px are drawn first. The first table reads them all, decoded and resized, as the feed does
and as resident data are loaded; "of a core" divides by the processor time of all threads. The second, left out with
--reading, runs whole epochs as `train.py` does, resident and fed, in turns with the bare step on one batch that is on
the device already; "in the step" is the step's share of an epoch.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import jax
import numpy as np
import timing
import training

from aujax import cli
from aujax.config import Config, DataConfig
from aujax.data import device_cache, feed
from aujax.data.batch import data_mesh, to_mesh
from aujax.data.store import FaceSource, open_faces
from aujax.training import loop
from aujax.training import step as steps


def draw(folder: pathlib.Path, count: int) -> str:
    """Returns the folder of a new data set of drawn faces."""
    sizes = [f"--train={count}", "--validation=7", "--test=7", "--size=256"]
    cli.main(["prepare", "synthetic", f"--out={folder}", *sizes])
    return str(folder)


def reading(source: FaceSource, size: int, batch: int, threads: int) -> timing.Work:
    """Returns the work of feeding every face once, on the host alone."""
    order = np.arange(len(source))
    return lambda: [None for _ in feed.batches(source, order, batch_size=batch, size=size, threads=threads)]


def epoch(config: Config, source: FaceSource) -> timing.Work:
    """Returns the work of one epoch of training."""
    made, state = training.start(config)
    run = loop.open_epochs(made, source, state).run
    carry = [state]

    def work() -> None:
        carry[0], _ = jax.block_until_ready(run(carry[0], 0, lambda _: None))

    return work


def bare(config: Config, source: FaceSource) -> timing.Work:
    """Returns the work of as many steps as an epoch has, on a batch that waits on the device."""
    made, state = training.start(config)
    order, batch_size = np.arange(len(source)), config.data.batch_size
    host = next(iter(feed.batches(source, order, batch_size=batch_size, size=config.resize_size, threads=1)))
    batch, carry = to_mesh(host, made.mesh), [state]
    step = steps.make_train_step(made).lower(state, batch).compile()

    def work() -> None:
        for _ in range(feed.num_batches(len(source), batch_size)):
            carry[0], _ = jax.block_until_ready(step(carry[0], batch))

    return work


def measure(source: FaceSource, config: Config, threads: list[int], repeats: int, *, reading_only: bool) -> None:
    """Prints both tables, or the first."""
    count, size = len(source), config.resize_size
    works = [reading(source, size, config.data.batch_size, number) for number in threads]
    works.append(lambda: device_cache.load(source, size, data_mesh(), threads=max(threads)))
    names = [f"fed, {number} threads" for number in threads] + [f"resident, {max(threads)} threads, once"]
    print(f"reading {count} faces at {size} px\n{'':<28}{'a second':>10}{'of a core':>14}")
    for name, work, seconds in zip(names, works, timing.in_turns(works, repeats), strict=True):
        started = time.process_time()
        work()
        print(f"{name:<28}{count / seconds:>10.0f}{count / (time.process_time() - started):>14.0f}")
    if reading_only:
        return
    with_ = {where: dataclasses.replace(config.data, cache=where) for where in ("device", "off")}
    works = [bare(config, source), *(epoch(dataclasses.replace(config, data=data), source) for data in with_.values())]
    alone, *whole = timing.in_turns(works, repeats)
    print(f"\nan epoch of {config.method} at {config.input_size} px, batches of {config.data.batch_size}")
    print(f"{'':<28}{'a second':>10}{'in the step':>14}")
    print(f"{'bare step':<28}{count / alone:>10.0f}{1:>14.1%}")
    for name, seconds in zip(("resident", "fed"), whole, strict=True):
        print(f"{name:<28}{count / seconds:>10.0f}{alone / seconds:>14.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few faces, two numbers of threads")
    parser.add_argument("--reading", action="store_true", help="the first table alone")
    parser.add_argument("--data", help="prepared data set (default: drawn faces)")
    parser.add_argument("--faces", type=int, default=512, help="how many are drawn (default: 512)")
    parser.add_argument("--method", default="CAM", help="row that is trained (default: CAM)")
    parser.add_argument(
        "--backbone", default="resnet_tiny", help='its network (default: resnet_tiny; "": the published one)'
    )
    parser.add_argument("--image_size", type=int, default=96, help="pixels a side (default: 96)")
    parser.add_argument("--batch", type=int, default=32, help="faces a step (default: 32)")
    parser.add_argument("--threads", default="1,2,4,8,16", help="numbers of threads (default: 1,2,4,8,16)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: 5)")
    options = parser.parse_args()
    if options.smoke:
        options.faces, options.threads, options.repeats, options.image_size = 32, "1,2", 1, 32
    config = Config(method=options.method, backbone=options.backbone, image_size=options.image_size)
    with tempfile.TemporaryDirectory() as folder:
        directory = options.data or draw(pathlib.Path(folder) / "faces", options.faces)
        threads = [int(number) for number in options.threads.split(",")]
        data = DataConfig(dir=directory, batch_size=options.batch, read_threads=threads[-1])
        print(f"{timing.machine()}; median of {options.repeats} turns\n")
        source, config = open_faces(directory).source("train"), dataclasses.replace(config, data=data)
        measure(source, config, threads, options.repeats, reading_only=options.reading)


if __name__ == "__main__":
    main()
