"""`train_and_evaluate`: everything that happens between a configuration and a run folder."""

import functools
import logging
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
import rich.progress

from aujax import evaluation, methods, processes, run_files, runs, weight_files
from aujax.config import Config
from aujax.data import feed
from aujax.data.builders import Faces, FaceSource, open_faces
from aujax.data.records import check_divisible, data_mesh, replicated, to_mesh
from aujax.errors import UserError
from aujax.metrics import Mean
from aujax.models import pretrained
from aujax.training.checkpoint import Checkpoints
from aujax.training.step import TrainState, create_state, make_train_step

log = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: pathlib.Path) -> None:
    """Trains as configured, validates, keeps checkpoints; continues where an interrupted run left off.

    Whatever the user can mend (data, options, folder) is a UserError before the first step and before anything is
    written.
    """
    faces = _open(config)
    train = faces.source("train")
    mesh = data_mesh()
    check_divisible(config.data.batch_size, mesh, option="data.batch_size")
    runs.check_continuation(workdir, config, faces)
    model = runs.build_model(config, len(faces.expressions))
    steps_per_epoch = feed.num_batches(len(train), config.data.batch_size)
    tx, schedule = runs.optimizer_of(config, steps_per_epoch)
    state = _starting_state(model, config, tx, mesh, workdir)
    runs.start(workdir, config, faces)

    train_step = make_train_step(model, tx, config, mesh)
    validate = _validation(model, config, faces, mesh)
    console = rich.console.Console(quiet=not processes.is_first())
    first_epoch = int(state.step) // steps_per_epoch
    log = runs.Log(workdir, step=int(state.step))
    checkpoints = Checkpoints(workdir / run_files.CHECKPOINTS, keep=config.keep_checkpoints)
    with checkpoints, _progress(console) as bar:
        console.print(_opening(first_epoch, config, faces, mesh, workdir))
        task = bar.add_task("training", total=config.epochs * steps_per_epoch, completed=int(state.step))
        for epoch in range(first_epoch, config.epochs):
            started, totals = time.perf_counter(), None
            for batch in _epoch(train, config, epoch):
                state, means = train_step(state, to_mesh(batch, mesh))
                totals = means if totals is None else _merged(totals, means)
                bar.advance(task)
            numbers = _numbers(totals, epoch)
            seconds = time.perf_counter() - started
            step = (epoch + 1) * steps_per_epoch
            rate = {
                "learning_rate": np.asarray(schedule(step - 1)).item(),
                "images_per_second": round(len(train) / seconds, 1),
            }
            log.write("train", step, {"epoch": epoch + 1} | numbers | rate)
            if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                summary = validate(state)
                score = {name: summary[name] for name in ("cl", "balanced_accuracy", "cam_cos", "att_cos")}
                log.write("validation", step, {"epoch": epoch + 1} | score)
                checkpoints.save(step, state, {"cl": summary["cl"], "epoch": epoch + 1})
                console.print(_line(epoch + 1, config, numbers, summary, model.method.aligned(config.au_layers)[-1]))


def _open(config: Config) -> Faces:
    if not config.data.dir:
        raise UserError(
            "--config.data.dir: expected a prepared data set, got nothing; make one with "
            "`python -m aujax.data.prepare synthetic --out data/synthetic` and give its folder"
        )
    faces = open_faces(config.data.dir)
    runs.check_expressions(config, faces)
    for split in ("train", "validation"):
        faces.source(split)
    if config.au_weight and not faces.landmarks["train"]:
        raise UserError(
            f"--config.au_weight: AU maps need landmarks, but no training face of {faces.directory} has any; "
            "prepare the data set with --landmarks=dlib or --landmarks=FILE, or set --config.au_weight=0"
        )
    return faces


def _starting_state(
    model: methods.Classifier,
    config: Config,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
) -> TrainState:
    """Returns the latest saved state, or the first one: from the seed, and from pretrained weights if there are any."""
    abstract = runs.abstract_state(model, config, tx)
    if found := runs.restore(workdir, abstract, replicated(mesh), which="latest"):
        return found[0]
    variables = random = runs.initial_variables(model, config)
    for source in config.weight_files:
        try:
            variables = pretrained.load_backbone(weight_files.read(source), model, variables)
        except ValueError as error:
            raise UserError(f"--config.weights: {source}: {error}") from error
    if config.weight_files and (drawn := pretrained.not_loaded(random, variables)):
        log.warning("--config.weights holds nothing for %s: drawn at random", ", ".join(drawn))
    return jax.device_put(create_state(variables, tx), replicated(mesh))


@functools.partial(jax.jit, donate_argnums=0)
def _merged(totals: dict[str, Mean], means: dict[str, Mean]) -> dict[str, Mean]:
    return jax.tree.map(jnp.add, totals, means)


def _epoch(train: FaceSource, config: Config, epoch: int) -> Any:
    return feed.batches(
        train,
        feed.epoch_order(config.seed, epoch, len(train)),
        batch_size=config.data.batch_size,
        size=config.load_size,
        threads=config.data.read_threads,
    )


def _validation(model: methods.Classifier, config: Config, faces: Faces, mesh: jax.sharding.Mesh) -> Any:
    """Returns state -> summary over the validation split."""
    read = evaluation.make_reader(model, config, mesh)
    source = faces.source("validation")

    def validate(state: TrainState) -> dict[str, Any]:
        batches = evaluation.whole_split(source, config, mesh)
        result = evaluation.evaluate(read, state.variables, batches, mesh=mesh, expressions=faces.expressions)
        return result.summary

    return validate


def _numbers(totals: Any, epoch: int) -> dict[str, float]:
    numbers = {name: float(mean.compute()) for name, mean in jax.device_get(totals).items()}
    if not np.isfinite(numbers["loss"]):
        raise UserError(
            f"the loss of epoch {epoch + 1} is {numbers['loss']}: training diverged; train again "
            "in a new --workdir with a lower --config.optimizer.learning_rate, or set --config.optimizer.clip_norm=1"
        )
    return numbers


def _opening(first_epoch: int, config: Config, faces: Faces, mesh: jax.sharding.Mesh, workdir: pathlib.Path) -> str:
    if first_epoch >= config.epochs:
        return f"{workdir} has finished its {config.epochs} epochs already"
    what = f"{config.method} on {faces.splits['train']} faces, {mesh.size} x {mesh.devices.flat[0].device_kind}"
    return f"{what}; from epoch {first_epoch + 1} of {config.epochs}. The first step is compiled, which takes a while."


def _line(epoch: int, config: Config, numbers: dict[str, float], summary: dict[str, Any], layer: str) -> str:
    cosine = summary["att_cos"][layer]
    attention = "" if cosine is None else f", att_cos {cosine:.3f} ({layer})"
    return (
        f"epoch {epoch}/{config.epochs}: loss {numbers['loss']:.3f}; validation accuracy {summary['cl']:.3f}{attention}"
    )


def _progress(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )
