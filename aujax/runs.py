"""The run folder: everything that one training leaves behind, and how to get the classifier out of it.

config.json     the resolved options
manifest.json   versions, devices, data fingerprint, expressions
log.jsonl       one JSON object per line: kind ("train" or "validation"), step, epoch, numbers
checkpoints/    the latest and the best state
eval/<split>/   what `eval.py` measured
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aujax import codebook, methods
from aujax.config import Config, from_config_dict
from aujax.data.builders import Faces
from aujax.data.records import data_mesh, replicated
from aujax.errors import UserError
from aujax.training import step as steps
from aujax.training.checkpoint import Checkpoints

# What may differ between a run and its continuation: nothing that changes a number.
_FREE_OPTIONS = {"data.dir", "data.read_threads", "data.eval_batch_size", "keep_checkpoints"}
_PACKAGES = ("aujax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class Run(NamedTuple):
    """A trained classifier: `methods.forward(run.model, run.variables, image)` reads it."""

    config: Config
    model: methods.Classifier
    variables: dict[str, Any]
    manifest: dict[str, Any]
    checkpoint: dict[str, Any]


def build_model(config: Config, num_classes: int) -> methods.Classifier:
    """Returns the network that the configuration describes; what does not fit together is a UserError."""
    try:
        return methods.build_model(
            config.method,
            num_classes=num_classes,
            backbone=config.backbone or None,
            output_stride=config.output_stride or None,
            dtype=jnp.dtype(config.dtype),
            axis_name=steps.DATA_AXIS if config.batch_norm == "cross_device" else None,
        )
    except ValueError as error:
        raise UserError(f"--config: {error}") from error


def initial_variables(model: methods.Classifier, config: Config) -> dict[str, Any]:
    """Returns random parameters from the seed, for pictures of the configured size."""
    image = jnp.zeros((1, config.image_size, config.image_size, 3))
    return methods.init(model, jax.random.key(config.seed), image)


def optimizer_of(config: Config, steps_per_epoch: int) -> tuple[Any, Any]:
    """Returns the gradient transformation and the learning rate as a function of the step."""
    schedule = steps.learning_rate(config.optimizer, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    return steps.make_optimizer(config.optimizer, schedule), schedule


def check_expressions(config: Config, faces: Faces) -> None:
    """Raises a UserError unless the codebook's class list is that of the data set."""
    book = codebook.load(config.codebook)
    if book.expressions != faces.expressions:
        raise UserError(
            f"--config.codebook: {config.codebook} has the expressions {', '.join(book.expressions)}, but the data set "
            f"{faces.directory} has {', '.join(faces.expressions)}; give a codebook file with the data set's class list"
        )


def start(workdir: pathlib.Path, config: Config, faces: Faces) -> None:
    """Makes the run folder, or makes sure that the one there was started with this configuration and data."""
    resolved = dataclasses.asdict(config)
    manifest = _manifest(config, faces)
    if not (workdir / "config.json").exists():
        if workdir.is_dir() and any(workdir.iterdir()):
            raise UserError(f"--workdir: {workdir} is not empty and not a run folder; choose a new folder")
        workdir.mkdir(parents=True, exist_ok=True)
        _write(workdir / "manifest.json", manifest)
        _write(workdir / "config.json", resolved)
        return
    before = _flat(_read(workdir / "config.json"))
    now = _flat(json.loads(json.dumps(resolved)))
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed := [name for name in changed if name not in _FREE_OPTIONS]:
        name = changed[0]
        raise UserError(
            f"--workdir: {workdir} was started with config.{name}={before.get(name)!r}, now it is {now.get(name)!r}"
            f"{f' ({len(changed)} options differ)' if len(changed) > 1 else ''}; "
            "choose another folder or the same options"
        )
    fingerprint = _read(workdir / "manifest.json")["data"]["fingerprint"]
    if fingerprint != faces.fingerprint:
        raise UserError(
            f"--config.data.dir: {workdir} was started on data with fingerprint {fingerprint[:12]}, {faces.directory} "
            f"has {faces.fingerprint[:12]}; choose another --workdir, or the data set it was started on"
        )


def load_run(workdir: str | pathlib.Path, *, which: str = "best") -> Run:
    """Returns the classifier of a run folder, from its best (by validation accuracy) or latest checkpoint.

    A folder that is not a run, or has no checkpoint yet, is a UserError.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"--workdir: {workdir} is not a run folder (no config.json); train one: python train.py --workdir={workdir}"
        )
    config, manifest = from_config_dict(_read(workdir / "config.json")), _read(workdir / "manifest.json")
    model = build_model(config, len(manifest["expressions"]))
    mesh = data_mesh()

    def blank() -> steps.TrainState:
        tx, _ = optimizer_of(config, steps_per_epoch=1)
        variables = model.init(jax.random.key(0), jnp.zeros((1, config.image_size, config.image_size, 3)))
        return steps.create_state({"batch_stats": {}, **variables}, tx)

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        found = checkpoints.find(which)
        if found is None:
            raise UserError(f"--workdir: {workdir} has no checkpoint yet; the first is written at the first validation")
        state = checkpoints.restore(found[0], jax.eval_shape(blank), replicated(mesh))
    checkpoint = {"step": found[0], "epoch": found[1]["epoch"], "which": which}
    return Run(config, model, state.variables, manifest, checkpoint)


class Log:
    """Appends numbers to log.jsonl, and to TensorBoard's event files where `tensorboardX` is installed."""

    def __init__(self, workdir: pathlib.Path, *, step: int):
        """Opens the log and drops what was written after `step`, from which training continues."""
        self._path = workdir / "log.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(f"{line}\n" for line in kept))
        self._board = _tensorboard(workdir)

    def write(self, kind: str, step: int, numbers: dict[str, Any]) -> None:
        """Appends one line; nested numbers are dictionaries."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **numbers}) + "\n")
        if self._board:
            for name, value in _flat(numbers).items():
                if value is not None:
                    self._board.add_scalar(f"{kind}/{name}", value, step)


def _tensorboard(workdir: pathlib.Path) -> Any:
    with contextlib.suppress(ImportError):
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

        return SummaryWriter(str(workdir / "tensorboard"))
    return None


def _manifest(config: Config, faces: Faces) -> dict[str, Any]:
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "expressions": list(faces.expressions),
        "data": {"dir": config.data.dir, "fingerprint": faces.fingerprint, "splits": faces.splits},
        "versions": versions(),
        "devices": [str(device) for device in jax.devices()],
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that make the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    def leaves() -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from _flat(value, f"{prefix}{name}.").items()
            else:
                yield f"{prefix}{name}", value

    return dict(leaves())


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: expected JSON written by train.py, got {error}; the run folder is damaged") from error


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
