"""The authors' released folders: where they are, what is in them, and their options, read without running anything.

A released folder holds `model.pt` (tensors) and `config_model.yaml` (some 300 options, with tags of foreign classes).
"""

import pathlib
import reprlib
from typing import Any

import yaml

from aujax.errors import UserError

WEIGHTS, OPTIONS = "model.pt", "config_model.yaml"
_COPY = "copy the folder again"
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2


class _Loader(yaml.SafeLoader):
    """Makes nothing but mappings, lists, texts and numbers: whatever has a tag of its own becomes the plain thing."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves merge keys alone: a few lines of them can ask for more memory than there is."""


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Loader.add_constructor(None, _plain)  # pyright: ignore[reportArgumentType]
for _kind in ("map", "seq", "set", "omap", "pairs", "timestamp", "binary", "merge"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain)


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
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def parse(text: str) -> dict[str, Any]:
    """Returns the options of a YAML text by dotted names: numbers, texts, flags and None; a longer list is cut.

    >>> parse("method: CAM\\ndata: !munch.Munch {train: a}")
    {'method': 'CAM', 'data.train': 'a'}
    """
    try:
        options = yaml.load(text, _Loader)
    # ValueError, LookupError: a scalar that is not what its tag says.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"expected YAML, found something else ({reason}); {_COPY}") from error
    if not isinstance(options, dict):
        raise UserError(f"expected options by name, found something else ({text[:40]!r}...); {_COPY}")
    values = {}
    for name, value in options.items():
        group = value if isinstance(value, dict) else {"": value}
        for inner, leaf in group.items():
            values[f"{name}.{inner}" if inner else str(name)] = _scalar(leaf)
    return values


def _scalar(value: Any) -> Any:
    # Options nest once. What nests further may, with the references of YAML, be endlessly long when written out.
    return value if isinstance(value, str | int | float | None) else _SHORT.repr(value)
