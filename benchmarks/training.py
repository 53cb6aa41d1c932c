"""A training at its first step, as the benchmarks of steps need it."""

import jax

from aujax import runs
from aujax.config import Config
from aujax.data.batch import data_mesh, replicate
from aujax.training.optimizer import optimizer_of
from aujax.training.step import Training, TrainState, create_state


def start(
    config: Config, mesh: jax.sharding.Mesh | None = None, *, steps_per_epoch: int = 1000
) -> tuple[Training, TrainState]:
    """Returns what a step is made of, for seven expressions, and its first state, on the mesh or on all devices."""
    mesh = mesh or data_mesh()
    model = runs.build_model(config, 7)
    tx, _ = optimizer_of(config, steps_per_epoch=steps_per_epoch)
    return Training(model, tx, config, mesh), replicate(create_state(runs.initial_variables(model, config), tx), mesh)
