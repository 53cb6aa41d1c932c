"""The weights of a run as one safetensors file."""

import json
import pathlib

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import aujax
from aujax import methods, run_files, runs, weight_files
from aujax.errors import UserError
from aujax.models import pretrained

# Our paths, or the names of the authors' PyTorch models.
NAMES = ("aujax", "reference")


def export(run: pathlib.Path, out: pathlib.Path, *, names: str = "aujax", which: str = "best") -> None:
    """Writes a run's weights as safetensors, under our paths or under the names of the authors' PyTorch models."""
    if out.exists():
        raise UserError(f"--out={out}: expected a new file, this one exists; choose another name or delete it")
    loaded = _load(run, which)
    variables = jax.device_get(loaded.variables)
    if names == "reference":
        tensors = pretrained.to_reference(variables, loaded.config.method, backbone=loaded.config.backbone or None)
    else:
        tensors = {path: np.asarray(leaf) for path, leaf in flatten_dict(variables, sep="/").items()}
    config = loaded.config
    metadata = {
        "aujax": aujax.__version__,
        "names": names,
        "method": config.method,
        "backbone": config.backbone or methods.method(config.method).backbone,
        "expressions": ",".join(loaded.manifest["expressions"]),
        "config": json.dumps(config.to_config_dict().to_dict()),
    }
    weight_files.write(out, tensors, metadata)


def _load(run: pathlib.Path, which: str) -> runs.Run:
    if not (run / run_files.CONFIG).is_file():
        raise UserError(
            f"RUN={run}: expected a run folder, found no {run_files.CONFIG} in it; give one that train.py or "
            "`python -m aujax.release import` made"
        )
    try:
        return runs.load_run(run, which=which)
    except UserError as error:
        # It speaks to eval.py, where the folder is an option.
        raise UserError(str(error).replace("--workdir", "RUN")) from error
