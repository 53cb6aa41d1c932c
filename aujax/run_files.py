"""The files of a run folder as plain data, for whoever writes them and whoever reports on them.

config.json     the resolved options
manifest.json   versions, devices, data fingerprint, expressions, codebook
log.jsonl       one JSON object per line: kind ("train" or "validation"), step, epoch, numbers
calibration.json  the temperature that calibrates probabilities, once the validation split was evaluated
checkpoints/    the latest and the best state
eval/<split>/   what `eval.py` measured
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from aujax.errors import UserError

CONFIG, MANIFEST, LOG, CHECKPOINTS = "config.json", "manifest.json", "log.jsonl", "checkpoints"
CALIBRATION = "calibration.json"
# Version of the names of options and keys in these files; manifest.json stores it. Raised when one is renamed.
SCHEMA_VERSION = 1

# Options that change no number: they may differ between a run and its continuation, or between compared runs.
FREE_OPTIONS = frozenset(
    {
        "data.dir",
        "data.read_threads",
        "data.eval_batch_size",
        "data.cache",
        "keep_checkpoints",
        "rematerialize",
    }
)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested options by dotted names, such as {"data.dir": ...}.

    >>> flat({"seed": 0, "data": {"dir": "faces"}})
    {'seed': 0, 'data.dir': 'faces'}
    """
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of log.jsonl, [] without one; a line cut off when the run was killed is left out."""
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


class Temperature(NamedTuple):
    """What the logits are divided by; None where there is nothing to use, and then why not, in a sentence."""

    value: float | None
    problem: str = ""


def read_temperature(workdir: pathlib.Path, *, step: int, fingerprint: str | None, remedy: str) -> Temperature:
    """Returns the temperature that was fitted to the weights of this step, on data of this fingerprint.

    A fingerprint that is not known is that of any data. A damaged file is a UserError with the remedy.
    """
    path = workdir / CALIBRATION
    if not path.is_file():
        return Temperature(None, "No temperature was fitted: the run was not evaluated on its validation split.")
    content = read_json(path, remedy=remedy)
    value, checkpoint, data = (content.get(name, {}) for name in ("temperature", "checkpoint", "data"))
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    if not usable or not isinstance(checkpoint, dict) or not isinstance(data, dict):
        raise UserError(f"{path}: expected a temperature above 0 and its checkpoint, got {content!r:.60}; {remedy}")
    if checkpoint.get("step") != step:
        return Temperature(
            None,
            f"No temperature is used: the one in {CALIBRATION} belongs to other weights, those of step "
            f"{checkpoint.get('step')} instead of step {step}.",
        )
    if fingerprint and data.get("fingerprint") not in (None, fingerprint):
        return Temperature(
            None,
            f"No temperature is used: the one in {CALIBRATION} was fitted to other data, {data.get('dir', 'unknown')}.",
        )
    return Temperature(float(value))
