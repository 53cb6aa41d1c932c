"""Once through the training faces: resident on the devices, many steps a call, or fed from disk, step by step.

Both take the same faces in the same order through the same step; which one it is changes rounding at most.
"""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from aujax import methods, processes
from aujax.config import Config
from aujax.data import device_cache, feed
from aujax.data.batch import abstract, replicate, to_mesh_ahead
from aujax.data.store import FaceSource
from aujax.errors import UserError
from aujax.training import memory, step
from aujax.training.step import Means, TrainState

_CALL_SECONDS = 1.0  # of steps in one call: long enough to cost nothing, short enough to be interrupted
_IN_FLIGHT = 2  # steps that wait on the devices, with their batches

# (state, number of the epoch, advance) -> (state, means over the epoch); `advance` is told of steps as they are done.
Epoch = Callable[[TrainState, int, Callable[[int], None]], tuple[TrainState, Means]]


class Epochs(NamedTuple):
    """How to go through an epoch, in words where its faces are, and whether they are decoded once and kept."""

    run: Epoch
    about: str
    resident: bool


class Training(NamedTuple):
    """What a step is made of."""

    model: methods.Classifier
    tx: optax.GradientTransformation
    config: Config
    mesh: Mesh


def open_epochs(training: Training, source: FaceSource, state: TrainState) -> Epochs:
    """Compiles the step for a state like this, and places the faces as `config.data.cache` says.

    What does not fit into the devices' memory is a UserError, before anything is trained.
    """
    wanted, why = training.config.data.cache, ""
    if wanted != "off":
        try:
            return _resident(training, source, state)
        except memory.NoRoom as error:
            if wanted == "device":
                raise UserError(
                    f"--config.data.cache=device: {len(source)} faces and the step need {error}; set it to auto, "
                    "lower --config.data.resize_size, or use more devices"
                ) from error
            why = f"; to keep them on the devices would take {error}"
    return _fed(training, source, state, why)


def _resident(training: Training, source: FaceSource, state: TrainState) -> Epochs:
    config, mesh = training.config, training.mesh
    looped = step.loops_are_fast(mesh)
    program = _resident_program(training, len(source), state)
    faces = device_cache.load(source, config.resize_size, mesh, threads=config.data.read_threads)

    def run(state: TrainState, epoch: int, advance: Callable[[int], None]) -> tuple[TrainState, Means]:
        order = feed.epoch_order(config.seed, epoch, len(source)).astype(np.int32)
        rows, valid = feed.batch_rows(order, config.data.batch_size)
        batches = replicate((rows, valid), mesh)
        totals = replicate(step.no_means(training.model, config), mesh)
        done, count = 0, 1
        while done < len(rows):
            started, last = time.perf_counter(), min(done + count, len(rows))
            bounds = replicate((np.int32(done), np.int32(last)), mesh)
            state, totals = program(state, totals, faces, *batches, *bounds)
            jax.block_until_ready(totals)
            if looped:
                wanted = _CALL_SECONDS * (last - done) / (time.perf_counter() - started)
                # By one clock: all processes must run the same steps.
                count = max(1, int(processes.least(wanted)))
            advance(last - done)
            done = last
        return state, totals

    size = device_cache.bytes_per_device(len(source), config.resize_size, mesh)
    return Epochs(run, f"all faces on the devices, {memory.shown(size)} on each", resident=True)


def _resident_program(training: Training, count: int, state: TrainState) -> Any:
    """Returns the compiled steps over that many faces; NoRoom if faces and step do not fit together."""
    config, mesh = training.config, training.mesh
    room = memory.limit(mesh, state)
    memory.check(device_cache.bytes_per_device(count, config.resize_size, mesh), room)
    rows, valid = feed.batch_rows(np.arange(count, dtype=np.int32), config.data.batch_size)
    lowered = step.make_resident_steps(*training).lower(
        state,
        replicate(step.no_means(training.model, config), mesh),
        abstract(device_cache.faces_per_device(count, mesh) * mesh.size, config.resize_size, mesh),
        *replicate((rows, valid, np.int32(0), np.int32(1)), mesh),
    )
    program = memory.compiled(lowered)
    memory.check(memory.needed(program), room)
    return program


def _fed(training: Training, source: FaceSource, state: TrainState, why: str) -> Epochs:
    config, mesh = training.config, training.mesh
    program = _fed_program(training, state)

    def run(state: TrainState, epoch: int, advance: Callable[[int], None]) -> tuple[TrainState, Means]:
        totals, flying = replicate(step.no_means(training.model, config), mesh), collections.deque()
        for batch in to_mesh_ahead(_batches(source, config, epoch), mesh):
            state, means = program(state, batch)
            totals = _merged(totals, means)
            flying.append(means)
            if len(flying) > _IN_FLIGHT:
                jax.block_until_ready(flying.popleft())
            advance(1)
        return state, totals

    return Epochs(run, f"faces read from disk by {config.data.read_threads} threads{why}", resident=False)


def _fed_program(training: Training, state: TrainState) -> Any:
    config, mesh = training.config, training.mesh
    train_step = step.make_train_step(*training)
    return memory.fitting(
        lambda faces: train_step.lower(state, abstract(faces, config.resize_size, mesh)),
        config.data.batch_size,
        unit=mesh.size * config.gradient_accumulation,
        room=memory.limit(mesh, state),
        option="data.batch_size",
        work="a step of",
        advice="--config.rematerialize=True and --config.gradient_accumulation need less",
    )


def _batches(source: FaceSource, config: Config, epoch: int) -> Any:
    return feed.batches(
        source,
        feed.epoch_order(config.seed, epoch, len(source)),
        batch_size=config.data.batch_size,
        size=config.resize_size,
        threads=config.data.read_threads,
    )


@functools.partial(jax.jit, donate_argnums=0)
def _merged(totals: Means, means: Means) -> Means:
    return jax.tree.map(jnp.add, totals, means)
