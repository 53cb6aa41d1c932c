"""The authors' released folders: where they are, what is in them, and their options, read without running anything.

A released folder holds `model.pt` (tensors) and `config_model.yaml` (some 300 options, with tags of foreign classes).
"""

import pathlib
from typing import Any

from aujax import plain_yaml
from aujax.errors import UserError

WEIGHTS, OPTIONS = "model.pt", "config_model.yaml"
_COPY = "copy the folder again"


def find(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folder itself if it is a released one, else those below it.

    A folder counts that holds one of the two files. None at all is a UserError.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: expected a released folder, or one of several, found none; correct the path")
    if any((directory / name).is_file() for name in (WEIGHTS, OPTIONS)):
        return [directory]
    found = sorted({path.parent for name in (WEIGHTS, OPTIONS) for path in directory.rglob(name)})
    if not found:
        inside = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{directory}: expected {WEIGHTS} and {OPTIONS} in it or below, found {inside}; unpack the released "
            "archive and give the folder shared-trained-models or one below it"
        )
    return found


def read_options(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the options of a released folder by dotted names; a part of the folder that is missing is a UserError."""
    for name in (WEIGHTS, OPTIONS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: expected {WEIGHTS} and {OPTIONS}, found no {name}; {_COPY}")
    path = folder / OPTIONS
    try:
        return plain_yaml.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; {_COPY}") from error
