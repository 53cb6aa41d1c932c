"""The run folder: what a training writes, checked when it is read, and the classifier in it.

The names and contents of its files are in `run_files`.
"""

import dataclasses
import datetime
import importlib.metadata
import math
import pathlib
import platform
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aujax import checkpoints, codebook, files, methods, processes, run_files
from aujax.config import Config, from_config_dict, method_options
from aujax.data.batch import DATA_AXIS, data_mesh, replicated
from aujax.data.store import Faces, open_faces
from aujax.errors import UserError

_MANIFEST_KEYS = {"expressions", "data", "codebook"}
_DAMAGED = "`aujax train` writes it, and without it the run folder is damaged"
_VISIBLE_WITHIN = 60.0  # seconds until every process sees a file that process 0 wrote
_PACKAGES = ("aujax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class Run(NamedTuple):
    """A trained classifier: `methods.forward(run.model, run.variables, image)` applies it.

    `variables` has the collections params and batch_stats; `checkpoint` the step, epoch and kind of the checkpoint.
    """

    config: Config
    model: methods.Classifier
    variables: dict[str, Any]
    manifest: dict[str, Any]
    checkpoint: dict[str, Any]

    @property
    def attention_layer(self) -> str:
        """The layer whose attention is reported."""
        return self.model.method.reported_layer(self.config.au_layers)


def load_run(workdir: str | pathlib.Path, *, which: str = "best") -> Run:
    """Returns the classifier of a run folder, from its "best" (by validation accuracy) or "latest" checkpoint.

    Raises:
      UserError: the folder is not a run, was written by another version, or has no checkpoint yet.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / run_files.CONFIG).is_file():
        raise UserError(
            f"--workdir: {workdir} is not a run folder (no config.json); train one: aujax train --workdir={workdir}"
        )
    manifest = _read_manifest(workdir)
    config = from_config_dict(run_files.read_json(workdir / run_files.CONFIG, remedy=_DAMAGED))
    _check_codebook(workdir, config, manifest)
    model = build_model(config, len(manifest["expressions"]))
    like = abstract_variables(model, config)
    restored = checkpoints.restore(workdir / run_files.CHECKPOINTS, like, replicated(data_mesh()), which=which)
    if restored is None:
        raise UserError(f"--workdir: {workdir} has no checkpoint yet; the first is written at the first validation")
    step, variables, metrics = restored
    return Run(config, model, variables, manifest, {"step": step, "epoch": metrics["epoch"], "which": which})


def open_data(run: Run, data_dir: str | None) -> Faces:
    """Returns the data set in `data_dir`, by default the one that the run was trained on."""
    if not (data_dir or run.config.data.dir):
        raise UserError(
            "--data-dir: expected a prepared data set, got nothing, and the run names none: its weights were "
            f"trained elsewhere, on {run.manifest['data']['name']}; give the folder that "
            "`aujax prepare ... --out DIR` wrote"
        )
    faces = open_faces(data_dir or run.config.data.dir)
    trained_on = run.manifest["expressions"]
    if list(faces.expressions) != trained_on:
        raise UserError(
            f"--data-dir: expected a data set with the expressions that the run was trained on, "
            f"{', '.join(trained_on)}; "
            f"{faces.directory} has {', '.join(faces.expressions)}; give another, or prepare it with these classes"
        )
    return faces


def temperature(run: Run, workdir: pathlib.Path, *, fingerprint: str | None) -> tuple[float | None, str]:
    """Returns the temperature that calibrates the loaded weights, or None and a sentence with the reason.

    It must have been fitted on the data of this fingerprint; None accepts any data. A damaged file is a UserError.
    """
    path = workdir / run_files.CALIBRATION
    if not path.is_file():
        return None, "No temperature was fitted: the run was not evaluated on its validation split."
    remedy = "evaluate the validation split again with `aujax eval`"
    content = run_files.read_json(path, remedy=remedy)
    try:
        value, step = content["temperature"], content["checkpoint"]["step"]
        data = content.get("data", {})
        fitted_on = data.get("fingerprint")
        if value is True or not 0 < value < math.inf:
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{path}: expected a temperature above 0 and its checkpoint, got {content!r:.60}; {remedy}"
        raise UserError(message) from error
    unused = f"No temperature is used: the one in {run_files.CALIBRATION}"
    if step != run.checkpoint["step"]:
        used = run.checkpoint["step"]
        return None, f"{unused} belongs to other weights, those of step {step} instead of step {used}."
    if fingerprint and fitted_on not in (None, fingerprint):
        return None, f"{unused} was fitted to other data, {data.get('dir', 'unknown')}."
    return float(value), ""


def build_model(config: Config, num_classes: int) -> methods.Classifier:
    """Returns the network that the configuration describes; parts that do not fit together are a UserError."""
    try:
        return methods.build_model(
            config.method,
            num_classes=num_classes,
            backbone=config.backbone or None,
            output_stride=config.output_stride or None,
            dtype=jnp.dtype(config.dtype),
            axis_name=DATA_AXIS if config.batch_norm == "cross_device" else None,
            rematerialize=config.rematerialize,
            options=method_options(config),
        )
    except ValueError as error:
        raise UserError(f"--config.backbone or --config.output_stride: {error}") from error


def initial_variables(model: methods.Classifier, config: Config) -> dict[str, Any]:
    """Returns random parameters drawn from the seed, for images of the configured size."""
    image = jnp.zeros((1, config.input_size, config.input_size, 3))
    return methods.init(model, jax.random.key(config.seed), image)


def abstract_variables(model: methods.Classifier, config: Config) -> dict[str, Any]:
    """Returns shapes and types of the collections params and batch_stats, without computing them.

    An image size that the network does not accept is a UserError.
    """
    image = jax.ShapeDtypeStruct((1, config.input_size, config.input_size, 3), jnp.float32)
    try:
        return {"batch_stats": {}, **jax.eval_shape(model.init, jax.random.key(0), image)}
    except ValueError as error:
        raise UserError(f"--config.image_size: {error}") from error


def check_continuation(workdir: pathlib.Path, config: Config, faces: Faces) -> None:
    """Raises a UserError unless the folder is new, or its run was started with these options and data."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir: expected a run folder or a new name, got the file {workdir}")
    if not (workdir / run_files.CONFIG).exists():
        found = {path.name.removesuffix(".partial") for path in workdir.iterdir()} if workdir.is_dir() else set()
        if found - {run_files.MANIFEST, run_files.CONFIG}:  # these are what a start leaves that was interrupted
            raise UserError(f"--workdir: {workdir} is not empty and not a run folder; choose a new folder")
        return
    manifest = _read_manifest(workdir)
    if imported := manifest.get("imported"):
        raise UserError(
            f"--workdir: {workdir} holds a released model, imported from {imported['from']}, which is evaluated and "
            "not trained further; choose a new folder"
        )
    # An option that did not exist yet when the run was started had its default.
    defaults, now = (run_files.training_options(dataclasses.asdict(options)) for options in (Config(), config))
    stored = run_files.read_json(workdir / run_files.CONFIG, remedy=_DAMAGED)
    before = defaults | run_files.training_options(stored)
    if changed := [name for name in before if before[name] != now.get(name)]:
        name = min(changed)
        raise UserError(
            f"--workdir: {workdir} was started with config.{name}={before[name]!r}, now it is {now.get(name)!r}; "
            "choose another folder or the same options"
        )
    _check_codebook(workdir, config, manifest)
    fingerprint = manifest["data"]["fingerprint"]
    if fingerprint != faces.fingerprint:
        raise UserError(
            f"--config.data.dir: {workdir} was started on data with fingerprint {fingerprint[:12]}, {faces.directory} "
            f"has {faces.fingerprint[:12]}; choose another --workdir, or the data set it was started on"
        )


def start(workdir: pathlib.Path, config: Config, faces: Faces) -> None:
    """Writes config.json and manifest.json, unless the folder has them; of several processes, process 0 does."""
    processes.wait_for_all("the folder is checked")
    if processes.is_first() and not (workdir / run_files.CONFIG).exists():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir: {workdir} cannot be made ({error.strerror}); choose another folder") from error
        data = {"dir": config.data.dir, "fingerprint": faces.fingerprint, "splits": faces.splits}
        _write(workdir, config, {"expressions": list(faces.expressions), "data": data})
    processes.wait_for_all("the folder exists")
    # A network file system may keep the answer that there is no such file, of an earlier check, for a while.
    deadline = time.monotonic() + _VISIBLE_WITHIN
    while not (workdir / run_files.CONFIG).exists():
        if time.monotonic() > deadline:
            raise UserError(f"--workdir: {workdir} is not on a disk that all processes see; choose a folder that is")
        time.sleep(_VISIBLE_WITHIN / 60)


def write_imported(
    workdir: pathlib.Path, config: Config, variables: methods.Variables, imported: dict[str, Any], *, dataset: str
) -> None:
    """Writes a new run folder around weights that were trained elsewhere; its one checkpoint is at step 0.

    The manifest stores their origin (`imported`) and the name of the training data, whose content is not known.
    """
    with checkpoints.Checkpoints(workdir / run_files.CHECKPOINTS) as writer:
        # Accuracy and epoch are not known; there is no other checkpoint to compare with.
        writer.save(0, jax.device_put(variables, replicated(data_mesh())), {"accuracy": 0.0, "epoch": 0})
    data = {"dir": config.data.dir, "name": dataset, "fingerprint": None, "splits": {}}
    expressions = list(codebook.load(config.codebook).expressions)
    _write(workdir, config, {"imported": imported, "expressions": expressions, "data": data})


def _write(workdir, config, about):
    """Writes manifest.json, with versions and devices added, and config.json, which makes the folder a run."""
    manifest = {"schema_version": run_files.SCHEMA_VERSION} | about
    manifest |= {
        "codebook": codebook_content(config),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "platform": platform.platform(),
    }
    files.write_json(workdir / run_files.MANIFEST, manifest)
    files.write_json(workdir / run_files.CONFIG, dataclasses.asdict(config))


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def codebook_content(config: Config) -> dict[str, Any]:
    """Returns the content of the codebook: a user's file may change or move."""
    book = codebook.load(config.codebook)
    return {"aus": {name: list(aus) for name, aus in book.aus.items()}, "rendering": book.rendering}


def _check_codebook(workdir, config, manifest):
    if manifest["codebook"] != codebook_content(config):
        raise UserError(
            f"--config.codebook: {config.codebook} has changed since {workdir} was started; restore its content "
            f"(manifest.json has it), or choose another --workdir"
        )


def _read_manifest(workdir):
    """Returns the content of manifest.json; a run folder of another schema version is a UserError."""
    path = workdir / run_files.MANIFEST
    manifest = run_files.read_json(path, remedy=_DAMAGED)
    if manifest.get("schema_version") != run_files.SCHEMA_VERSION:
        raise UserError(
            f"--workdir: {workdir} was written by another version of aujax, whose options and files have other names "
            f"(schema version {manifest.get('schema_version')}, expected {run_files.SCHEMA_VERSION}); "
            "train again in a new folder, or use the version that wrote it"
        )
    if _MANIFEST_KEYS - manifest.keys():
        raise UserError(f"{path}: expected an object with {sorted(_MANIFEST_KEYS)}; {_DAMAGED}")
    return manifest
