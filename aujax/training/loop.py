"""`train_and_evaluate`: from a configuration to a run folder.

Below it: the state that training starts from, an epoch over device-resident or streamed faces, and the validation.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.progress

from aujax import checkpoints, codebook, processes, run_files, runs, weight_files
from aujax.config import Config
from aujax.data import device_cache, feed
from aujax.data.batch import abstract, check_divisible, data_mesh, replicate, replicated, to_mesh_ahead
from aujax.data.store import FaceSource, open_faces
from aujax.errors import UserError
from aujax.evaluation import evaluate
from aujax.models import pretrained
from aujax.training import memory
from aujax.training import step as steps
from aujax.training.log import Log
from aujax.training.optimizer import optimizer_of
from aujax.training.step import Means, Training, TrainState

log = logging.getLogger(__name__)

_IN_FLIGHT = 2  # streamed steps that wait on the devices, with their batches


def train_and_evaluate(config: Config, workdir: pathlib.Path) -> None:
    """Trains as configured, validates, keeps checkpoints; continues an interrupted run in the same folder.

    Every mistake that the user can fix (data, options, folder, memory) is a UserError before the first step and before
    anything is written.
    """
    faces = _open_data(config)
    source = faces.source("train")
    mesh = data_mesh()
    if jax.process_count() > 1:
        processes.check_agreement(_shared_facts(config, faces, workdir))
    check_divisible(config.data.batch_size, mesh, option="data.batch_size", parts=config.gradient_accumulation)
    runs.check_continuation(workdir, config, faces)
    model = runs.build_model(config, len(faces.expressions))
    layer = model.method.reported_layer(config.au_layers)
    steps_per_epoch = feed.num_batches(len(source), config.data.batch_size)
    tx, schedule = optimizer_of(config, steps_per_epoch)
    training = Training(model, tx, config, mesh)
    state = _starting_state(training, workdir)
    first_epoch = int(state.step) // steps_per_epoch

    console = rich.console.Console(quiet=not processes.is_first())
    if first_epoch >= config.epochs:
        console.print(f"{workdir} has finished its {config.epochs} epochs already")
        return
    console.print(
        f"{config.method} on {len(source)} faces, {mesh.size} x {mesh.devices.flat[0].device_kind}; "
        f"from epoch {first_epoch + 1} of {config.epochs}; "
        f"best epoch selected on {config.model_selection}; compiling the step"
    )
    with memory.exhaustion_explained():
        epochs = open_epochs(training, source, state)
        console.print(epochs.description)
        validate = _validation(training, faces, state, layer=layer, spare=epochs.spare)
        runs.start(workdir, config, faces)
        progress = rich.progress.Progress(
            "{task.description}",
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            "left",
            rich.progress.TimeRemainingColumn(),
            console=console,
        )
        folder = workdir / run_files.CHECKPOINTS
        saved = checkpoints.Checkpoints(folder, keep=config.keep_checkpoints, last=int(state.step))
        with Log(workdir, step=int(state.step)) as log, saved, progress:
            task = progress.add_task("training", total=config.epochs * steps_per_epoch, completed=int(state.step))
            for epoch in range(first_epoch + 1, config.epochs + 1):
                started = time.perf_counter()
                state, totals = epochs.run(state, epoch - 1, functools.partial(progress.advance, task))
                means = {name: float(mean.compute()) for name, mean in jax.device_get(totals).items()}
                if not np.isfinite(means["loss"]):
                    raise _diverged(f"the loss of epoch {epoch} is {means['loss']}")
                seconds = time.perf_counter() - started
                step = epoch * steps_per_epoch
                rates = {
                    "learning_rate": np.asarray(schedule(step - 1)).item(),
                    "images_per_second": round(len(source) / seconds, 1),
                }
                log.write("train", step, {"epoch": epoch} | means | rates)
                if epoch % config.validate_every and epoch < config.epochs:
                    continue

                scores = validate(state)
                log.write("validation", step, {"epoch": epoch, "split": config.model_selection} | scores)
                saved.save(step, state, {"accuracy": scores["accuracy"], "epoch": epoch})
                attention = "" if scores["att_cos"] is None else f", att_cos {scores['att_cos']:.3f} ({layer})"
                console.print(
                    f"epoch {epoch}/{config.epochs}: loss {means['loss']:.3f}; "
                    f"{config.model_selection} accuracy {scores['accuracy']:.3f}{attention}"
                )


def _diverged(problem: str) -> UserError:
    return UserError(
        f"{problem}: training diverged; train again in a new --workdir with a lower --config.optimizer.learning_rate, "
        "or set --config.optimizer.clip_norm=1"
    )


def _open_data(config):
    """Returns the data set, after the checks that it has what the options need."""
    if not config.data.dir:
        raise UserError(
            "--config.data.dir: expected a prepared data set, got nothing; make one with "
            "`aujax prepare synthetic --out data/synthetic` and give its folder"
        )
    faces = open_faces(config.data.dir)
    book = codebook.load(config.codebook)
    if book.expressions != faces.expressions:
        raise UserError(
            f"--config.codebook: {config.codebook} has the expressions {', '.join(book.expressions)}, but the data set "
            f"{faces.directory} has {', '.join(faces.expressions)}; give a codebook file with the data set's class list"
        )
    faces.source("train")
    split = config.model_selection
    if split not in faces.splits:
        other = "test" if split == "validation" else "validation"
        remedy = f", or select it on {other} with --config.model_selection={other}" if other in faces.splits else ""
        raise UserError(
            f"--config.model_selection: the best epoch is selected on the split {split!r}, which {faces.directory} "
            f"does not have; prepare the data set again with a share for --{split}{remedy}"
        )
    if config.au_weight and not faces.landmarks["train"]:
        raise UserError(
            f"--config.au_weight: AU maps need landmarks, but no training face of {faces.directory} has any; "
            "prepare the data set with --landmarks=dlib or --landmarks=FILE, or set --config.au_weight=0"
        )
    return faces


def _shared_facts(config, faces, workdir):
    """Returns what must be the same in all processes of a run, by names that a user knows."""
    facts = {f"config.{name}": value for name, value in run_files.flat(dataclasses.asdict(config)).items()}
    for name in ("config.data.dir", "config.data.read_threads"):  # each process may have its own
        del facts[name]
    weights = [pathlib.Path(source) for source in config.weight_files]
    return facts | {
        "codebook": runs.codebook_content(config),
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights if file.is_file()],
        "data set": faces.fingerprint,
        "checkpoints": run_files.checkpoint_steps(workdir),
        "versions": runs.versions(),
    }


def _starting_state(training: Training, workdir) -> TrainState:
    """Returns the latest saved state that is intact, or a new one: random from the seed, or with pretrained weights."""
    model, tx, config, mesh = training
    like = jax.eval_shape(lambda variables: steps.create_state(variables, tx), runs.abstract_variables(model, config))
    if checkpoint := checkpoints.restore(workdir / run_files.CHECKPOINTS, like, replicated(mesh), which="intact"):
        return checkpoint[1]
    variables = random = runs.initial_variables(model, config)
    for source in config.weight_files:
        try:
            variables = pretrained.load_backbone(weight_files.read(source), model, variables)
        except ValueError as error:
            raise UserError(f"--config.weights: {source}: {error}") from error
    if config.weight_files and (missing := pretrained.not_loaded(random, variables)):
        log.warning("--config.weights has no values for %s: initialized at random", ", ".join(missing))
    return replicate(steps.create_state(variables, tx), mesh)


class Epochs(NamedTuple):
    """An epoch as a function, a description of where its faces are stored, and the memory that training leaves.

    `run(state, epoch, advance)` returns the state and the means over the epoch, which is counted from 0. It calls
    `advance` with the number of steps that were computed since the call before. `spare` is the memory of each device
    beside device-resident faces and their steps; 0 for streamed faces.
    """

    run: Callable[..., tuple[TrainState, Means]]
    description: str
    spare: int


def open_epochs(training: Training, source: FaceSource, state: TrainState) -> Epochs:
    """Compiles the step for a state like this one, and stores the faces as configured by `data.cache`.

    Device-resident and streamed faces give the same numbers, up to rounding: the same faces in the same order go
    through the same step. What does not fit into device memory is a UserError, before anything is trained.
    """
    cache = training.config.data.cache
    if cache == "off":
        return _streamed(training, source, state)
    try:
        return _cached(training, source, state)
    except memory.DoesNotFit as error:
        if cache == "device":
            raise UserError(
                f"--config.data.cache=device: {len(source)} faces and the step need {error}; set it to auto, "
                "lower --config.data.resize_size, or use more devices"
            ) from error
        streamed = _streamed(training, source, state)
        return streamed._replace(description=f"{streamed.description}; device-resident faces would take {error}")


def _cached(training, source, state) -> Epochs:
    """Returns epochs over device-resident faces, many steps in a call; `DoesNotFit` if faces and step are too large."""
    config, mesh = training.config, training.mesh
    size = device_cache.bytes_per_device(len(source), config.resize_size, mesh)
    capacity = memory.capacity(mesh, state)
    memory.check(size, capacity)
    # Compiled for shapes alone, before the faces are loaded.
    rows, valid = feed.batch_rows(np.arange(len(source), dtype=np.int32), config.data.batch_size)
    stored = device_cache.faces_per_device(len(source), mesh) * mesh.size
    arguments = (
        state,
        replicate(steps.zero_means(training), mesh),
        abstract(stored, config.resize_size, mesh),
        *replicate((rows, valid, np.int32(0)), mesh),
    )
    per_call = steps.steps_per_call(len(rows), mesh)
    calls, rest = divmod(len(rows), per_call)
    counts = [per_call] * calls + [1] * rest
    programs = {
        count: memory.compiled(steps.make_cached_steps(training, count).lower(*arguments)) for count in set(counts)
    }
    needed = max(map(memory.needed, programs.values()))
    memory.check(needed, capacity)
    faces = device_cache.load(source, config.resize_size, mesh, threads=config.data.read_threads)

    def run(state, epoch, advance):
        order = feed.epoch_order(config.seed, epoch, len(source)).astype(np.int32)
        rows, valid = feed.batch_rows(order, config.data.batch_size)
        batches = replicate((rows, valid), mesh)
        totals = replicate(steps.zero_means(training), mesh)
        done = 0
        for count in counts:
            state, totals = programs[count](state, totals, faces, *batches, replicate(np.int32(done), mesh))
            jax.block_until_ready(totals)
            advance(count)
            done += count
        return state, totals

    sharing = device_cache.devices_per_copy(mesh.size)
    copies = f", a copy on every {sharing} devices" if sharing < mesh.size else ""
    where = f"all faces in device memory, {memory.readable(size)} on each{copies}"
    return Epochs(run, where, spare=capacity - needed)


def _streamed(training, source, state) -> Epochs:
    """Returns epochs over faces that are loaded and decoded ahead of the step, one step in a call."""
    config, mesh = training.config, training.mesh
    train_step = steps.make_train_step(training)
    program = memory.compile_for_batch(
        lambda faces: train_step.lower(state, abstract(faces, config.resize_size, mesh)),
        config.data.batch_size,
        unit=mesh.size * config.gradient_accumulation,
        capacity=memory.capacity(mesh, state),
        work="data.batch_size: a step of",
        advice="--config.rematerialize=True and --config.gradient_accumulation need less",
    )
    add = jax.jit(functools.partial(jax.tree.map, jnp.add), donate_argnums=0)

    def run(state, epoch, advance):
        batches = feed.batches(
            source,
            feed.epoch_order(config.seed, epoch, len(source)),
            batch_size=config.data.batch_size,
            size=config.resize_size,
            threads=config.data.read_threads,
        )
        totals = replicate(steps.zero_means(training), mesh)
        in_flight = collections.deque()
        for batch in to_mesh_ahead(batches, mesh):
            state, means = program(state, batch)
            totals = add(totals, means)
            in_flight.append(means)
            if len(in_flight) > _IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            advance(1)
        return state, totals

    return Epochs(run, f"faces loaded from disk by {config.data.read_threads} threads", spare=0)


def _validation(training, faces, state, *, layer, spare) -> Callable[[TrainState], dict[str, Any]]:
    """Returns state -> summary over the split that selects the best epoch.

    Args:
      training: of the run.
      faces: the data set.
      state: structure, shapes and types of the states to validate.
      layer: whose attention is reported.
      spare: memory of each device that training leaves. If the split fits into it, it stays there, otherwise it is
        loaded for every validation.
    """
    model, _, config, mesh = training
    source = faces.source(config.model_selection)
    batch = evaluate.batch_size(config, mesh)
    forward = evaluate.make_forward(model, config, mesh)
    capacity = memory.capacity(mesh, state.variables)
    program = memory.compile_for_batch(
        lambda size: forward.lower(state.variables, abstract(size, config.input_size, mesh)),
        batch,
        unit=mesh.size,
        capacity=capacity,
        work="data.eval_batch_size: validating",
    )
    eval_step = evaluate.make_eval_step(program, mesh)

    def load():
        return to_mesh_ahead(evaluate.whole_split(source, config, mesh), mesh)

    images = feed.num_batches(len(source), batch) * (batch // mesh.size) * config.input_size**2 * 3
    stays = processes.smallest(min(spare, capacity - memory.needed(program)) - images) >= 0
    batches = functools.cache(lambda: list(load())) if stays else load

    def validate(state):
        predictions = evaluate.predict(eval_step, state.variables, batches(), mesh=mesh)
        if not np.isfinite(predictions.columns["logits"]).all():  # nothing else tells after the last step
            raise _diverged("logits of the validation are not finite")
        return evaluate.validation_metrics(predictions, faces.expressions, layer=layer)

    return validate
