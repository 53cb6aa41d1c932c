"""Configuration files: programs whose function `get_config` returns the options of a run.

A file is given by its path, "configs/faces.py", or, if it is one of those shipped with aujax, by its name, "faces".
What follows a colon is the argument of `get_config`: "faces:small".
"""

import argparse
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

import ml_collections

from aujax import run_files
from aujax.config import OPTIONS, RENAMED, Config, from_config_dict, from_text
from aujax.errors import UserError, nearest

_PACKAGE = pathlib.Path(__file__).parent
# An installed package has configs/ inside, as aujax.configs; a checkout has it beside the package.
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
_PREFIX = "config."


def locate(source: str, *, folder: pathlib.Path = SHIPPED) -> tuple[pathlib.Path, str]:
    """Returns the path and the setting of a source; names are those of files in `folder`."""
    name, _, setting = source.partition(":")
    path = pathlib.Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.py"))
        raise UserError(
            "--config: expected a configuration file such as configs/faces.py, or the name of one that is shipped, "
            f"got {name!r}. {nearest(path.stem, known)}"
        )
    return path, setting


def definitions(path: pathlib.Path) -> dict[str, Any]:
    """Returns the variables and functions that a configuration file defines; a file that fails is a UserError."""
    try:
        return runpy.run_path(str(path))
    except Exception as error:  # a configuration file is a program and can fail in any way
        raise UserError(f"--config={path}: {error}; compare it with configs/faces.py") from error


def options(source: str, *, folder: pathlib.Path = SHIPPED) -> dict[str, Any]:
    """Returns the options of a configuration file by dotted names, such as {"data.batch_size": 32}.

    Args:
      source: path or name, with its setting.
      folder: where a name is looked up.
    """
    path, setting = locate(source, folder=folder)
    get_config = definitions(path).get("get_config")
    if get_config is None:
        raise UserError(f"--config={path}: has no function 'get_config'; compare it with configs/faces.py")
    try:
        values = get_config(setting) if setting else get_config()
    except (KeyError, TypeError) as error:
        raise UserError(f"--config={source}: no such setting of that file ({error}); see {path}") from error
    except ValueError as error:  # names the file and the setting, as those in configs/ do
        raise UserError(str(error)) from error
    except Exception as error:
        raise UserError(f"--config={path}: {error}; compare it with configs/faces.py") from error
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise UserError(f"--config={path}: expected get_config to return options, got {values!r:.60}")
    return run_files.flat(values)


def load(base: Mapping[str, Any], changes: Mapping[str, str]) -> Config:
    """Returns the checked configuration: `base` with the changes of a command line, both by dotted names."""
    return from_config_dict({**base, **{name: from_text(name, text) for name, text in changes.items()}})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an argument --config.NAME=VALUE for every option, with its description and default."""
    parser.usage = "%(prog)s --option=VALUE ..."  # not the names of all options
    groups = {"": parser.add_argument_group("options of the configuration, and their defaults")}
    for name, option in OPTIONS.items():
        prefix = name.rpartition(".")[0]
        if prefix not in groups:
            groups[prefix] = parser.add_argument_group(f"options of the configuration: {prefix}")
        expected = f"; {option.check.expected}" if option.check else ""
        about = f"{option.about}{expected} (default: {option.default!r})"
        # A flag without a value is true.
        flag: Any = {"nargs": "?", "const": "true"} if option.kind is bool else {}
        groups[prefix].add_argument(f"--config.{name}", default=argparse.SUPPRESS, metavar="VALUE", help=about, **flag)
    for name in RENAMED:  # accepted here, so that `from_text` can answer with the new name
        parser.add_argument(f"--config.{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def changes(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the options that a command line changed, by dotted names, as text."""
    return {name.removeprefix(_PREFIX): text for name, text in vars(arguments).items() if name.startswith(_PREFIX)}
