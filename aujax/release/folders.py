"""Run folders from the authors' released folders, and the weights of run folders as safetensors.

A released folder holds `model.pt` (tensors) and `config_model.yaml` (some 300 options, with tags of foreign classes).
Reading it runs nothing.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict

import aujax
from aujax import methods, run_files, runs, weight_files
from aujax.config import method_options
from aujax.data.sources import folder_contents
from aujax.data.sources.folds import parse_yaml
from aujax.errors import UserError
from aujax.models import pretrained
from aujax.release.options import CLASSES, Translated, translate

WEIGHTS, OPTIONS = "model.pt", "config_model.yaml"
# The names of exported tensors: our paths, or the names of the authors' PyTorch models.
NAMES = ("aujax", "reference")
_COPY = "copy the folder again"


class Imported(NamedTuple):
    """A run folder made from a released folder, and the translation of the released options."""

    run: pathlib.Path
    translated: Translated


def find(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder itself if it is a released folder, otherwise the released folders below it.

    A folder with only one of the two files counts, so that the missing file is reported.

    Raises:
      UserError: there is no released folder.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a released folder, or one with such folders below it; correct the path")
    released = sorted({path.parent for name in (WEIGHTS, OPTIONS) for path in directory.rglob(name)})
    if directory in released:
        return [directory]
    if not released:
        raise UserError(
            f"{directory}: expected {WEIGHTS} and {OPTIONS} in it or below, found {folder_contents(directory)}; unpack "
            "the released archive and give the folder shared-trained-models or one below it"
        )
    return released


def read_options(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the options of a released folder by dotted names; a missing or damaged file is a UserError."""
    for name in (WEIGHTS, OPTIONS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: expected {WEIGHTS} and {OPTIONS}, found no {name}; {_COPY}")
    path = folder / OPTIONS
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; {_COPY}") from error


def check_new(folder: pathlib.Path) -> None:
    """Raises a UserError unless the folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={folder}: expected a new or empty folder; choose another name")


def import_folder(source: pathlib.Path, out: pathlib.Path, *, backbone: str = "", below: bool = False) -> Imported:
    """Makes the run folder `out` from a released folder, or `out/METHOD-DATASET-au` (`-no_au`) if it goes `below`.

    `backbone` is the network that the weights belong to, "" for the published one.

    Raises:
      UserError: something does not fit. The run folder is then not made.
    """
    options = read_options(source)
    try:
        translated = translate(options, backbone=backbone)
    except UserError as error:
        raise UserError(f"{source / OPTIONS}: {error}") from error
    config = translated.config
    weights = source / WEIGHTS
    tensors = weight_files.read(weights)
    try:
        variables = pretrained.from_reference(
            tensors,
            config.method,
            num_classes=CLASSES,
            backbone=config.backbone or None,
            options=method_options(config),
            image_size=config.input_size,
        )
    except ValueError as error:
        raise UserError(f"{weights}: {error}\n  ({OPTIONS} has crop_size {config.input_size})") from error
    if below:
        dataset = re.sub(r"[^\w.-]", "_", translated.dataset) or "unknown"
        out = out / f"{translated.method}-{dataset}-{'au' if config.au_weight else 'no_au'}"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"from": str(source.resolve()), "sha256": digest, **translated.unmapped._asdict()}

    # The folder is renamed when it is complete; on failure nothing is left behind.
    check_new(out)
    folder = out.resolve()
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        runs.write_imported(partial, config, variables, origin, dataset=translated.dataset or "unknown")
        partial.rename(folder)
    # ValueError: the checkpoint writer raises it when the disk is full.
    except (OSError, ValueError) as error:
        raise UserError(f"--out: {folder} cannot be written ({error}); choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # not empty after success
                parent.rmdir()
    return Imported(out, translated)


def export(run: pathlib.Path, out: pathlib.Path, *, names: str = "aujax", which: str = "best") -> None:
    """Writes the weights of a run's checkpoint as safetensors; `names` is one of `NAMES`.

    The file's metadata hold the version of aujax, the method, the backbone, the expressions and the options.
    """
    if out.exists():
        raise UserError(f"--out={out}: expected a new file, this one exists; choose another name or delete it")
    if not (run / run_files.CONFIG).is_file():
        raise UserError(
            f"RUN={run}: expected a run folder, found no {run_files.CONFIG} in it; give one that `aujax train` or "
            "`aujax release import` made"
        )
    try:
        loaded = runs.load_run(run, which=which)
    except UserError as error:
        # The message names the option of eval.py.
        raise UserError(str(error).replace("--workdir", "RUN")) from error
    config = loaded.config
    variables = jax.device_get(loaded.variables)
    tensors: Any = flatten_dict(variables, sep="/")
    if names == "reference":
        tensors = pretrained.to_reference(variables, config.method, backbone=config.backbone or None)
    metadata = {
        "aujax": aujax.__version__,
        "names": names,
        "method": config.method,
        "backbone": config.backbone or methods.method(config.method).backbone,
        "expressions": ",".join(loaded.manifest["expressions"]),
        "config": json.dumps(dataclasses.asdict(config)),
    }
    weight_files.write(out, tensors, metadata)
