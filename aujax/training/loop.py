"""`train_and_evaluate`: everything that happens between a configuration and a run folder."""

import dataclasses
import functools
import hashlib
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import rich.console
import rich.progress

from aujax import methods, processes, run_files, runs, weight_files
from aujax.config import Config
from aujax.data import feed
from aujax.data.batch import abstract, check_divisible, data_mesh, replicate, replicated
from aujax.data.store import Faces, open_faces
from aujax.errors import UserError
from aujax.evaluation import evaluate
from aujax.models import pretrained
from aujax.training import memory
from aujax.training.checkpoint import Checkpoints
from aujax.training.epochs import Training, open_epochs
from aujax.training.log import Log
from aujax.training.step import TrainState, create_state

log = logging.getLogger(__name__)


def train_and_evaluate(config: Config, workdir: pathlib.Path) -> None:
    """Trains as configured, validates, keeps checkpoints; continues where an interrupted run left off.

    Whatever the user can mend (data, options, folder, memory) is a UserError before the first step and before anything
    is written.
    """
    faces = _open(config)
    train = faces.source("train")
    mesh = data_mesh()
    if jax.process_count() > 1:
        processes.check_agreement(_facts(config, faces, workdir))
    check_divisible(config.data.batch_size, mesh, option="data.batch_size", parts=config.gradient_accumulation)
    runs.check_continuation(workdir, config, faces)
    model = runs.build_model(config, len(faces.expressions))
    steps_per_epoch = feed.num_batches(len(train), config.data.batch_size)
    tx, schedule = runs.optimizer_of(config, steps_per_epoch)
    state = _starting_state(model, config, tx, mesh, workdir)
    first_epoch = int(state.step) // steps_per_epoch
    console = rich.console.Console(quiet=not processes.is_first())
    console.print(_opening(first_epoch, config, faces, mesh, workdir))
    if first_epoch >= config.epochs:
        return
    with memory.exhaustion_explained():
        epochs = open_epochs(Training(model, tx, config, mesh), train, state)
        console.print(epochs.about)
        validate = _validation(model, config, faces, mesh, state, keep=epochs.resident)
        runs.start(workdir, config, faces)
        log = Log(workdir, step=int(state.step))
        checkpoints = Checkpoints(workdir / run_files.CHECKPOINTS, keep=config.keep_checkpoints)
        with checkpoints, _progress(console) as bar:
            task = bar.add_task("training", total=config.epochs * steps_per_epoch, completed=int(state.step))
            for epoch in range(first_epoch, config.epochs):
                started = time.perf_counter()
                state, totals = epochs.run(state, epoch, functools.partial(bar.advance, task))
                numbers = _numbers(totals, epoch)
                seconds = time.perf_counter() - started
                step = (epoch + 1) * steps_per_epoch
                rates = _rates(schedule, step, len(train) / seconds)
                log.write("train", step, {"epoch": epoch + 1} | numbers | rates)
                if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                    summary = validate(state)
                    layer = model.method.aligned(config.au_layers)[-1]
                    names = ("accuracy", "balanced_accuracy", "cam_cos", "att_cos", "att_cos_by_layer")
                    score = {name: summary[name] for name in names}
                    log.write("validation", step, {"epoch": epoch + 1, "split": config.model_selection} | score)
                    checkpoints.save(step, state, {"accuracy": score["accuracy"], "epoch": epoch + 1})
                    console.print(_line(epoch + 1, config, numbers, score, layer))


def _open(config: Config) -> Faces:
    if not config.data.dir:
        raise UserError(
            "--config.data.dir: expected a prepared data set, got nothing; make one with "
            "`python -m aujax.data.prepare synthetic --out data/synthetic` and give its folder"
        )
    faces = open_faces(config.data.dir)
    runs.check_expressions(config, faces)
    faces.source("train")
    _check_selection_split(config, faces)
    if config.au_weight and not faces.landmarks["train"]:
        raise UserError(
            f"--config.au_weight: AU maps need landmarks, but no training face of {faces.directory} has any; "
            "prepare the data set with --landmarks=dlib or --landmarks=FILE, or set --config.au_weight=0"
        )
    return faces


def _check_selection_split(config: Config, faces: Faces) -> None:
    split = config.model_selection
    if split not in faces.splits:
        other = "test" if split == "validation" else "validation"
        remedy = f", or select it on {other} with --config.model_selection={other}" if other in faces.splits else ""
        raise UserError(
            f"--config.model_selection: the best epoch is selected on the split {split!r}, which {faces.directory} "
            f"does not have; prepare the data set again with a share for --{split}{remedy}"
        )


def _facts(config: Config, faces: Faces, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what must be the same in all processes of a run, by names that a user knows."""
    options = {f"config.{name}": value for name, value in run_files.flat(dataclasses.asdict(config)).items()}
    for free in ("config.data.dir", "config.data.read_threads"):  # each process may have its own
        del options[free]
    saved = workdir / run_files.CHECKPOINTS
    steps = sorted(int(path.name) for path in saved.iterdir() if path.name.isdigit()) if saved.is_dir() else []
    files = [pathlib.Path(source) for source in config.weight_files]
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    content = {"codebook": runs.codebook_content(config), "weights": weights, "data set": faces.fingerprint}
    return options | content | {"checkpoints": steps, "versions": runs.versions()}


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
    return replicate(create_state(variables, tx), mesh)


def _validation(
    model: methods.Classifier, config: Config, faces: Faces, mesh: jax.sharding.Mesh, state: TrainState, *, keep: bool
) -> Callable[[TrainState], dict[str, Any]]:
    """Returns state -> summary over the split that chooses the best epoch; the host may keep its decoded faces."""
    forward = evaluate.make_forward(model, config, mesh)
    fitting = memory.fitting(
        lambda size: forward.lower(state.variables, abstract(size, config.input_size, mesh)),
        evaluate.batch_size(config, mesh),
        unit=mesh.size,
        room=memory.limit(mesh, state.variables),
        option="data.eval_batch_size",
        work="validating",
    )
    eval_step = evaluate.make_eval_step(fitting, mesh)
    layer = model.method.aligned(config.au_layers)[-1]
    split = functools.partial(evaluate.whole_split, faces.source(config.model_selection), config, mesh)
    batches = functools.cache(lambda: list(split())) if keep else split

    def validate(state: TrainState) -> dict[str, Any]:
        predictions = evaluate.predict(eval_step, state.variables, batches(), mesh=mesh)
        return evaluate.validation_metrics(predictions, faces.expressions, layer=layer)

    return validate


def _numbers(totals: Any, epoch: int) -> dict[str, float]:
    numbers = {name: float(mean.compute()) for name, mean in jax.device_get(totals).items()}
    if not np.isfinite(numbers["loss"]):
        raise UserError(
            f"the loss of epoch {epoch + 1} is {numbers['loss']}: training diverged; train again "
            "in a new --workdir with a lower --config.optimizer.learning_rate, or set --config.optimizer.clip_norm=1"
        )
    return numbers


def _rates(schedule: optax.Schedule, step: int, images_per_second: float) -> dict[str, float]:
    return {
        "learning_rate": np.asarray(schedule(step - 1)).item(),
        "images_per_second": round(images_per_second, 1),
    }


def _opening(first_epoch: int, config: Config, faces: Faces, mesh: jax.sharding.Mesh, workdir: pathlib.Path) -> str:
    if first_epoch >= config.epochs:
        return f"{workdir} has finished its {config.epochs} epochs already"
    what = f"{config.method} on {faces.splits['train']} faces, {mesh.size} x {mesh.devices.flat[0].device_kind}"
    best = f"best epoch selected on {config.model_selection}"
    return f"{what}; from epoch {first_epoch + 1} of {config.epochs}; {best}; compiling the step"


def _line(epoch: int, config: Config, numbers: dict[str, float], summary: dict[str, Any], layer: str) -> str:
    cosine = summary["att_cos"]
    attention = "" if cosine is None else f", att_cos {cosine:.3f} ({layer})"
    accuracy = f"{config.model_selection} accuracy {summary['accuracy']:.3f}"
    return f"epoch {epoch}/{config.epochs}: loss {numbers['loss']:.3f}; {accuracy}{attention}"


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
