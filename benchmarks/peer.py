"""The training step on a CPU beside plain PyTorch's, of the same network: images a second, and ratios.

    python benchmarks/peer.py [--smoke] [--networks tiny,resnet50,deit] [--require RATIO] [--repeats N] [--clock cpu]

Three steps take turns in one process, in float32 with SGD and Nesterov momentum: aujax's step without its views (the
images are only normalized, and there is no alignment loss), the whole step with views (augmentation, AU maps and
alignment), and PyTorch's eager step on images that are already normalized, in the faster of its two memory layouts. A
ratio is the median over the turns. `--require` exits with status 1 if aujax without views is below RATIO of PyTorch's
speed. Where other programs compete for the cores, compare the processor time of a single core: `taskset -c 0 python
benchmarks/peer.py --clock cpu`; PyTorch's threads wait for each other and lose more than XLA's otherwise.

PyTorch (`pip install torch==2.13.0`) is needed for this comparison alone: without it, only aujax is timed.
"""

# ruff: noqa: E402, because memory is set up, as in `aujax train`, before NumPy is imported
from aujax.cli import keep_freed_memory

keep_freed_memory()

import argparse
import dataclasses
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import faces
import jax
import jax.numpy as jnp
import numpy as np
import timing
import training

from aujax import augment
from aujax.config import Config, DataConfig
from aujax.data.batch import sharded
from aujax.training import step as steps


class Network(NamedTuple):
    """A row of the comparison: method and backbone of aujax, pixels a side, and images a step."""

    method: str
    backbone: str
    size: int
    batch: int


NETWORKS = {
    "tiny": Network("CAM", "resnet_tiny", 112, 32),
    "resnet50": Network("CAM", "resnet50", 224, 8),
    "deit": Network("TS-CAM", "deit_small", 224, 8),
}


def only_normalized(order_key, key, batch, config: Config, num_classes: int) -> augment.Views:
    """Returns the stored images as views, in place of `steps.training_views`."""
    image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, config.normalization)
    no_map = jnp.zeros(batch.image.shape[:3]), jnp.zeros_like(batch.valid)
    return augment.Views(image, *no_map, jax.nn.one_hot(batch.expression, num_classes))


def aujax_step(config: Config) -> tuple[timing.Work, int]:
    """Returns the compiled step on stored images, as a function, and the number of parameters."""
    made, state = training.start(config)
    batch = jax.device_put(faces.batch(config.data.batch_size, config.resize_size), sharded(made.mesh))
    program = steps.make_train_step(made).lower(state, batch).compile()
    carry = [state]

    def work() -> None:
        carry[0], _ = jax.block_until_ready(program(carry[0], batch))

    return work, sum(leaf.size for leaf in jax.tree.leaves(state.params))


def torch_step(row: Network, config: Config, channels_last: bool) -> tuple[timing.Work, int]:
    """Returns PyTorch's step as a function, and the number of parameters."""
    import torch
    import torch_networks

    model = torch_networks.network(row.backbone, row.size, 7)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    stored = faces.batch(row.batch, row.size)
    image = np.asarray(augment.normalize(stored.image / np.float32(255), config.normalization))
    image = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    label = torch.from_numpy(stored.expression).long()
    options = config.optimizer
    optimizer = torch.optim.SGD(
        model.parameters(),
        options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=True,
    )

    def work() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()

    return work, sum(parameter.numel() for parameter in model.parameters())


def line(name: str, row: Network, repeats: int, clock: timing.Clock, with_torch: bool) -> tuple[str, float]:
    """Returns the row of the table, and the speed of aujax without views relative to PyTorch's; 0 without PyTorch."""
    config = Config(
        method=row.method, backbone=row.backbone, image_size=row.size, data=DataConfig(batch_size=row.batch)
    )
    plain = dataclasses.replace(config, au_weight=0.0, data=DataConfig(batch_size=row.batch, resize_size=row.size))
    with mock.patch.object(steps, "training_views", only_normalized):
        without, count = aujax_step(plain)
    works: list[Callable[[], object]] = [without, aujax_step(config)[0]]
    if with_torch:
        layouts = [torch_step(row, config, channels_last) for channels_last in (False, True)]
        for _, torch_count in layouts:
            if torch_count != count:
                raise SystemExit(f"{name}: {count:,} parameters in aujax, {torch_count:,} in PyTorch: not the same")
        trials = timing.turns([work for work, _ in layouts], max(repeats // 4, 1), clock)
        works.append(layouts[int(np.argmin([statistics.median(trial) for trial in trials]))][0])
    turns = timing.turns(works, repeats, clock)
    medians = [statistics.median(times) for times in turns]
    views = statistics.median(b - a for a, b in zip(turns[0], turns[1], strict=True))
    text = f"{name:<10}{row.size:>7}{row.batch:>7}" + "".join(f"{row.batch / time:>10.1f}" for time in medians[:2])
    if not with_torch:
        return text + f"{'-':>10}{'-':>10}{'-':>10}{views / row.batch * 1e3:>10.2f}", 0.0
    ratios = [statistics.median(b / a for a, b in zip(mine, turns[2], strict=True)) for mine in turns[:2]]
    text += f"{row.batch / medians[2]:>10.1f}" + "".join(f"{ratio:>10.2f}" for ratio in ratios)
    return text + f"{views / row.batch * 1e3:>10.2f}", ratios[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small networks and images: does it run at all?")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="rows to measure (default: all)")
    parser.add_argument("--require", type=float, help="exit with status 1 below this ratio of PyTorch's speed")
    parser.add_argument("--repeats", type=int, default=15, help="turns (default: 15)")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="time or processor time")
    options = parser.parse_args()
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    rows = {name: NETWORKS[name] for name in options.networks.split(",")}
    if options.smoke:
        options.repeats = 2
        for name, row in rows.items():
            rows[name] = row._replace(backbone=timing.SMALL.get(row.backbone, row.backbone), size=64, batch=4)
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        print("torch is not installed (pip install torch==2.13.0): only aujax is timed")
    print(f"{timing.machine()}; float32, median of {options.repeats} turns, {options.clock} time\n")
    print("                              images a second         aujax / torch     views,")
    print("network    pixels  batch   without     views     torch   without     views  ms/image")
    ratios = []
    for name, row in rows.items():
        text, ratio = line(name, row, options.repeats, clock, with_torch)
        print(text, flush=True)
        ratios.append(ratio)
    if options.require is not None and min(ratios) < options.require:
        sys.exit(f"aujax without views is below {options.require} of PyTorch's speed, or that is unknown")


if __name__ == "__main__":
    main()
