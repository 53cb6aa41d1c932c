"""The files of a run folder as plain data, for training, evaluation and reports.

config.json       the resolved options
manifest.json     schema version, versions, devices, data fingerprint, expressions, codebook
log.jsonl         one JSON object per line: kind ("train" or "validation"), step, epoch, numbers
calibration.json  the temperature that calibrates probabilities, once the validation split was evaluated
checkpoints/      the latest and the best state
eval/<split>/     results of `aujax eval`
"""

import contextlib
import json
import pathlib
from typing import Any

from aujax.errors import UserError

CONFIG = "config.json"
MANIFEST = "manifest.json"
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"
CALIBRATION = "calibration.json"
# Version of the names of options and keys in these files; manifest.json stores it. Raised when one is renamed.
SCHEMA_VERSION = 1

# Options that affect no number: they may differ between a run and its continuation, or between compared runs.
FREE_OPTIONS = (
    "data.dir",
    "data.read_threads",
    "data.eval_batch_size",
    "data.cache",
    "keep_checkpoints",
    "rematerialize",
)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested options, a mapping or a ConfigDict, by dotted names, such as {"data.dir": ...}.

    >>> flat({"seed": 0, "data": {"dir": "faces"}})
    {'seed': 0, 'data.dir': 'faces'}
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if hasattr(value, "items"):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def training_options(options: Any) -> dict[str, Any]:
    """Returns the options that affect numbers by dotted names, with values as config.json stores them."""
    # A tuple is a list in config.json.
    stored = json.loads(json.dumps(options))
    return {name: value for name, value in flat(stored).items() if name not in FREE_OPTIONS}


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the numbers of training steps after which the checkpoints of a run were written, in order."""
    return sorted(int(path.name) for path in workdir.glob(f"{CHECKPOINTS}/*") if path.name.isdigit())


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of log.jsonl, [] without one; a line that was cut off when the run was killed is skipped."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def read_json(path: pathlib.Path, *, remedy: str) -> dict[str, Any]:
    """Returns the content of a file of the run; one that is missing or damaged is a UserError with the remedy."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got {content!r:.60}; {remedy}")
    return content
