"""Configuration files: programs whose `get_config`, given what follows a colon in their name, returns the options."""

import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from aujax.config import Config, check_name, from_config_dict
from aujax.errors import UserError


def read(source: str) -> dict[str, Any]:
    """Returns what a configuration file defines, by name; one that is missing or fails is a UserError."""
    path = pathlib.Path(source.partition(":")[0])
    if not path.is_file():
        raise UserError(f"--config: expected a configuration file such as configs/faces.py, got {str(path)!r}")
    try:
        return runpy.run_path(str(path))
    except Exception as error:  # a configuration file is a program, and may do anything wrong
        raise UserError(f"--config={path}: {error}; compare it with configs/faces.py") from error


def options(source: str) -> ml_collections.ConfigDict:
    """Returns the options of "configs/rafdb.py", or of "configs/faces.py:small" with its setting."""
    path, _, setting = source.partition(":")
    defined = read(path)
    try:
        return defined["get_config"](*[setting] if setting else [])
    except (KeyError, TypeError) as error:
        raise UserError(f"--config={source}: no such setting of that file ({error}); see {path}") from error
    except ValueError as error:  # names the file and the setting, as those in configs/ do
        raise UserError(str(error)) from error


def beside(file: str, name: str) -> ml_collections.ConfigDict:
    """Returns the options of another configuration file in the folder of `file`, "rafdb" or "faces:small"."""
    stem, colon, setting = name.partition(":")
    return options(f"{pathlib.Path(file).with_name(stem)}.py{colon}{setting}")


def changed(base: ml_collections.ConfigDict, values: Mapping[str, Any], changes: Sequence[str] = ()) -> Config:
    """Returns the checked configuration with values by dotted name, and then changes such as --config.au_weight=4."""
    base.update_from_flattened_dict(values)
    for change in changes:
        check_name(changed_name(change))
    found, argv = flags.FlagValues(), ["", *changes]
    holder = config_flags.DEFINE_config_dict("config", base, flag_values=found, sys_argv=argv)
    try:
        found(argv)
    except flags.Error as error:
        raise UserError(str(error)) from error
    return from_config_dict(holder.value)


def changed_name(change: str) -> str:
    """Returns the dotted name in "--config.NAME=VALUE"; another form is a UserError.

    >>> changed_name("--config.data.dir=faces")
    'data.dir'
    """
    name, equals, _ = change.partition("=")
    if not (equals and name.startswith("--config.")):
        raise UserError(f"expected options of this command and --config.NAME=VALUE, got {change!r}")
    return name.removeprefix("--config.")
