"""The run folder: everything that one training leaves behind, and how to get the classifier out of it.

Its files are those of `run_files`.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aujax import codebook, methods, processes, run_files
from aujax.config import Config, from_config_dict, method_options
from aujax.data.batch import data_mesh, replicated
from aujax.data.store import Faces, open_faces
from aujax.errors import UserError
from aujax.training import optimizer
from aujax.training import step as steps
from aujax.training.checkpoint import Checkpoints

_MANIFEST_KEYS = {"expressions", "data", "codebook"}
_DAMAGED = "train.py writes it, and without it the run folder is damaged"
_PACKAGES = ("aujax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class Run(NamedTuple):
    """A trained classifier: `methods.forward(run.model, run.variables, image)` reads it."""

    config: Config
    model: methods.Classifier
    variables: dict[str, Any]
    manifest: dict[str, Any]
    checkpoint: dict[str, Any]


def temperature(run: Run, workdir: pathlib.Path, *, fingerprint: str | None) -> run_files.Temperature:
    """Returns the temperature that calibrates the loaded weights, if it was fitted on the data of this fingerprint."""
    return run_files.read_temperature(
        workdir,
        step=run.checkpoint["step"],
        fingerprint=fingerprint,
        remedy="evaluate the validation split again with eval.py",
    )


def build_model(config: Config, num_classes: int) -> methods.Classifier:
    """Returns the network that the configuration describes; parts that do not fit together are a UserError."""
    try:
        return methods.build_model(
            config.method,
            num_classes=num_classes,
            backbone=config.backbone or None,
            output_stride=config.output_stride or None,
            dtype=jnp.dtype(config.dtype),
            axis_name=steps.DATA_AXIS if config.batch_norm == "cross_device" else None,
            rematerialize=config.rematerialize,
            options=method_options(config),
        )
    except ValueError as error:
        raise UserError(f"--config.backbone or --config.output_stride: {error}") from error


def initial_variables(model: methods.Classifier, config: Config) -> dict[str, Any]:
    """Returns random parameters from the seed, for pictures of the configured size."""
    return methods.init(model, jax.random.key(config.seed), _blank_picture(config))


def abstract_state(model: methods.Classifier, config: Config, tx: optax.GradientTransformation) -> steps.TrainState:
    """Returns the shapes and types of a training state, from nothing but the configuration.

    A picture size that the network cannot take is a UserError.
    """

    def blank() -> steps.TrainState:
        variables = model.init(jax.random.key(0), _blank_picture(config))
        return steps.create_state({"batch_stats": {}, **variables}, tx)

    try:
        return jax.eval_shape(blank)
    except ValueError as error:
        raise UserError(f"--config.image_size: {error}") from error


def _blank_picture(config: Config) -> jax.Array:
    return jnp.zeros((1, config.input_size, config.input_size, 3))


def optimizer_of(config: Config, steps_per_epoch: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the gradient transformation and the learning rate as a function of the step."""
    schedule = optimizer.learning_rate(config.optimizer, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    return optimizer.make_optimizer(config.optimizer, schedule), schedule


def check_expressions(config: Config, faces: Faces) -> None:
    """Raises a UserError unless the codebook's class list is that of the data set."""
    book = codebook.load(config.codebook)
    if book.expressions != faces.expressions:
        raise UserError(
            f"--config.codebook: {config.codebook} has the expressions {', '.join(book.expressions)}, but the data set "
            f"{faces.directory} has {', '.join(faces.expressions)}; give a codebook file with the data set's class list"
        )


def check_continuation(workdir: pathlib.Path, config: Config, faces: Faces) -> None:
    """Raises a UserError unless the folder is new, or its run was started with these options and data."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir: expected a run folder or a new name, got the file {workdir}")
    if not (workdir / run_files.CONFIG).exists():
        if workdir.is_dir() and any(workdir.iterdir()):
            raise UserError(f"--workdir: {workdir} is not empty and not a run folder; choose a new folder")
        return
    manifest = _read_manifest(workdir)
    if imported := manifest.get("imported"):
        raise UserError(
            f"--workdir: {workdir} holds a released model, imported from {imported['from']}, which is evaluated and "
            "not trained on; choose a new folder"
        )
    # An option that is newer than the run had its default value.
    before = _plain(Config()) | run_files.flat(_read(workdir / run_files.CONFIG))
    now = _plain(config)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed := [name for name in changed if name not in run_files.FREE_OPTIONS]:
        name = changed[0]
        raise UserError(
            f"--workdir: {workdir} was started with config.{name}={before.get(name)!r}, now it is {now.get(name)!r}"
            f"{f' ({len(changed)} options differ)' if len(changed) > 1 else ''}; "
            "choose another folder or the same options"
        )
    _check_codebook(workdir, config, manifest)
    fingerprint = manifest["data"]["fingerprint"]
    if fingerprint != faces.fingerprint:
        raise UserError(
            f"--config.data.dir: {workdir} was started on data with fingerprint {fingerprint[:12]}, {faces.directory} "
            f"has {faces.fingerprint[:12]}; choose another --workdir, or the data set it was started on"
        )


def _plain(config: Config) -> dict[str, Any]:
    """Returns the options by dotted names, as config.json gives them back."""
    return run_files.flat(json.loads(json.dumps(dataclasses.asdict(config))))


def start(workdir: pathlib.Path, config: Config, faces: Faces) -> None:
    """Writes config.json and manifest.json, unless the folder has them; of several processes, the first one does."""
    processes.wait_for_all("the folder is checked")
    if processes.is_first() and not (workdir / run_files.CONFIG).exists():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir: {workdir} cannot be made ({error.strerror}); choose another folder") from error
        _write(workdir / run_files.MANIFEST, _manifest(config, faces))
        _write(workdir / run_files.CONFIG, dataclasses.asdict(config))
    processes.wait_for_all("the folder is there")
    if not (workdir / run_files.CONFIG).exists():
        raise UserError(f"--workdir: {workdir} is not on a disk that all processes see; choose a folder that is")


def write_imported(
    workdir: pathlib.Path, config: Config, variables: methods.Variables, imported: Mapping[str, Any], *, dataset: str
) -> None:
    """Writes a new run folder around weights that were trained elsewhere; its one checkpoint is at step 0.

    The manifest keeps where they come from (`imported`), and the name of the training data: its content is not known.
    """
    expressions = codebook.load(config.codebook).expressions
    tx, _ = optimizer_of(config, steps_per_epoch=1)
    state = jax.device_put(steps.create_state(variables, tx), replicated(data_mesh()))
    with Checkpoints(workdir / run_files.CHECKPOINTS) as checkpoints:
        # Accuracy and epoch are not known; there is no other checkpoint to compare with.
        checkpoints.save(0, state, {"accuracy": 0.0, "epoch": 0})
    data = {"dir": config.data.dir, "name": dataset, "fingerprint": None, "splits": {}}
    about = {
        "imported": dict(imported),
        "expressions": list(expressions),
        "data": data,
        "codebook": codebook_content(config),
    }
    _write(workdir / run_files.MANIFEST, about | _surroundings())
    _write(workdir / run_files.CONFIG, dataclasses.asdict(config))


def load_run(workdir: str | pathlib.Path, *, which: str = "best") -> Run:
    """Returns the classifier of a run folder, from its "best" (by validation accuracy) or "latest" checkpoint.

    A folder that is not a run, or has no checkpoint yet, is a UserError.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / run_files.CONFIG).is_file():
        raise UserError(
            f"--workdir: {workdir} is not a run folder (no config.json); train one: python train.py --workdir={workdir}"
        )
    manifest = _read_manifest(workdir)
    config = from_config_dict(_read(workdir / run_files.CONFIG))
    _check_codebook(workdir, config, manifest)
    model = build_model(config, len(manifest["expressions"]))
    tx, _ = optimizer_of(config, steps_per_epoch=1)
    found = restore(workdir, abstract_state(model, config, tx), replicated(data_mesh()), which=which)
    if found is None:
        raise UserError(f"--workdir: {workdir} has no checkpoint yet; the first is written at the first validation")
    state, metrics = found
    checkpoint = {"step": int(state.step), "epoch": metrics["epoch"], "which": which}
    return Run(config, model, state.variables, manifest, checkpoint)


def open_data(run: Run, data_dir: str | None) -> Faces:
    """Returns the data set in `data_dir`, by default the one that the run was trained on."""
    if not (data_dir or run.config.data.dir):
        raise UserError(
            f"--data_dir: expected a prepared data set, got nothing, and the run has none of its own: its weights were "
            f"trained elsewhere, on {run.manifest['data']['name']}; give the folder that "
            "`python -m aujax.data.prepare ... --out DIR` wrote"
        )
    faces = open_faces(data_dir or run.config.data.dir)
    check_expressions(run.config, faces)
    return faces


def restore(
    workdir: pathlib.Path, like: steps.TrainState, sharding: jax.sharding.Sharding, *, which: str
) -> tuple[steps.TrainState, dict[str, float]] | None:
    """Returns the saved state with its validation metrics, placed by `sharding`; None before the first checkpoint."""
    if not (workdir / run_files.CHECKPOINTS).is_dir():
        return None
    with Checkpoints(workdir / run_files.CHECKPOINTS) as checkpoints:
        found = checkpoints.find(which)
        return found and (checkpoints.restore(found[0], like, sharding), found[1])


def _manifest(config: Config, faces: Faces) -> dict[str, Any]:
    return {
        "expressions": list(faces.expressions),
        "data": {"dir": config.data.dir, "fingerprint": faces.fingerprint, "splits": faces.splits},
        "codebook": codebook_content(config),
        **_surroundings(),
    }


def _surroundings() -> dict[str, Any]:
    return {
        "schema_version": run_files.SCHEMA_VERSION,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that make the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def codebook_content(config: Config) -> dict[str, Any]:
    """Returns what a codebook says, for a file of the user's may change or move."""
    book = codebook.load(config.codebook)
    return {"aus": {name: list(aus) for name, aus in book.aus.items()}, "rendering": book.rendering}


def _check_codebook(workdir: pathlib.Path, config: Config, manifest: dict[str, Any]) -> None:
    if manifest["codebook"] != codebook_content(config):
        raise UserError(
            f"--config.codebook: {config.codebook} has changed since {workdir} was started; bring its content back "
            f"(manifest.json holds it), or choose another --workdir"
        )


def _read(path: pathlib.Path) -> dict[str, Any]:
    return run_files.read_json(path, remedy=_DAMAGED)


def _read_manifest(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the content of manifest.json; a run folder of another schema version is a UserError."""
    path = workdir / run_files.MANIFEST
    manifest = _read(path)
    if manifest.get("schema_version") != run_files.SCHEMA_VERSION:
        raise UserError(
            f"--workdir: {workdir} was written by another version of aujax, whose options and files have other names "
            f"(schema version {manifest.get('schema_version')}, expected {run_files.SCHEMA_VERSION}); "
            "train again in a new folder, or use the version that wrote it"
        )
    if _MANIFEST_KEYS - manifest.keys():
        raise UserError(f"{path}: expected an object with {sorted(_MANIFEST_KEYS)}; {_DAMAGED}")
    return manifest


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
