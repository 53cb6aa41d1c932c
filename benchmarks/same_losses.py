"""How far the losses of a training on several devices equal those on one: whole epochs on virtual devices of a CPU.

    python benchmarks/same_losses.py [--smoke] [--devices 2,4,5,8] [--faces 400] [--batch 40] [--epochs 2]

The demo's configuration is trained on drawn faces. A number is the largest relative difference of a step's loss, up to
that step, from one device. The last row shows what rounding alone does: one device, each starting parameter changed by
1.2e-7 of itself, the precision of float32.
"""

import argparse
import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"

import input_path
import jax
import numpy as np
import timing
import training

from aujax import config as configs
from aujax.config import Config
from aujax.data import feed
from aujax.data.batch import data_mesh, replicate, to_mesh
from aujax.data.store import FaceSource, open_faces
from aujax.training import step as steps


def losses(config: Config, source: FaceSource, devices: int, *, change: float = 0.0) -> np.ndarray:
    """Returns the loss of every step, from parameters that are changed by this relative amount."""
    batches = feed.num_batches(len(source), config.data.batch_size)
    made, state = training.start(config, data_mesh(jax.devices()[:devices]), steps_per_epoch=batches)
    rng = np.random.default_rng(0)

    def changed(x: jax.Array) -> np.ndarray:
        return np.asarray(x) * (1 + change * rng.choice([-1, 1], x.shape)).astype(np.float32)

    state = state._replace(params=replicate(jax.tree.map(changed, jax.device_get(state.params)), made.mesh))
    step = steps.make_train_step(made)
    values = []
    for epoch in range(config.epochs):
        order = feed.epoch_order(config.seed, epoch, len(source))
        options = {"batch_size": config.data.batch_size, "size": config.resize_size, "threads": 1}
        for batch in feed.batches(source, order, **options):
            state, means = step(state, to_mesh(batch, made.mesh))
            values.append(float(means["loss"].compute()))
    return np.array(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two steps on one and two devices")
    parser.add_argument("--devices", default="2,4,5,8", help="numbers of devices (default: 2,4,5,8)")
    parser.add_argument("--faces", type=int, default=400, help="training faces (default: 400)")
    parser.add_argument("--batch", type=int, default=40, help="faces a step (default: 40)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs (default: 2)")
    options = parser.parse_args()
    if options.smoke:
        options.devices, options.faces, options.batch, options.epochs = "2", 28, 14, 1
    counts = [int(count) for count in options.devices.split(",")]
    jax.config.update("jax_num_cpu_devices", max(counts))
    with tempfile.TemporaryDirectory() as folder:
        directory = input_path.draw(pathlib.Path(folder) / "faces", options.faces)
        changes = {"data.dir": directory, "data.batch_size": options.batch, "epochs": options.epochs}
        config = configs.from_config_dict(configs.file_options("synthetic") | changes)
        source = open_faces(directory).source("train")
        one = losses(config, source, 1)
        rows = {f"{count} devices": losses(config, source, count) for count in counts}
        rows["rounding alone"] = losses(config, source, 1, change=2.0**-23)
    shown = sorted({1, 3, 5, 7, 10, len(one) // options.epochs, len(one)} & set(range(1, len(one) + 1)))
    print(f"\n{timing.machine()}; {len(source)} faces, batches of {options.batch}, {options.epochs} epochs\n")
    print(f"{'':<16}" + "".join(f"{f'step {step}':>10}" for step in shown) + f"{'mean of the last epoch':>25}")
    for name, values in rows.items():
        apart = np.maximum.accumulate(abs(values / one - 1))
        last = abs(np.mean(np.split(values, options.epochs)[-1]) / np.mean(np.split(one, options.epochs)[-1]) - 1)
        print(f"{name:<16}" + "".join(f"{apart[step - 1]:>10.0e}" for step in shown) + f"{last:>25.1e}")


if __name__ == "__main__":
    main()
