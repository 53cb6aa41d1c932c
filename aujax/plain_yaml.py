"""YAML as plain mappings, lists, texts and numbers: reading it runs nothing, and a short text stays short.

What has a tag of its own becomes the plain thing that it marks; a merge key (<<) is a key like any other.
"""

import reprlib
from typing import Any

import yaml

from aujax.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_LARGEST = 2**63


class _Loader(yaml.SafeLoader):
    """Makes nothing but mappings, lists, texts and numbers."""

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


def parse(text: str) -> dict[str, Any]:
    """Returns the values of a YAML mapping by dotted names: numbers, texts, flags and None; what nests deeper is cut.

    A text that is no mapping is a UserError.

    >>> parse("method: CAM\\ndata: !munch.Munch {train: a}")
    {'method': 'CAM', 'data.train': 'a'}
    """
    try:
        content = yaml.load(text, _Loader)
        values = _by_name(content) if isinstance(content, dict) else None
    # ValueError, LookupError: a scalar that is not what its tag says, or a number of thousands of digits.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"expected YAML, found something else ({' '.join(str(error).split())})") from error
    if values is None:
        raise UserError(f"expected values by name, found something else ({_SHORT.repr(text)})")
    return values


def _by_name(content: dict[Any, Any]) -> dict[str, Any]:
    values = {}
    for name, value in content.items():
        group = value if isinstance(value, dict) else {"": value}
        for inner, leaf in group.items():
            values[str(name) if inner == "" else f"{name}.{inner}"] = _scalar(leaf)
    return values


def _scalar(value: Any) -> Any:
    # What nests deeper may, with the references of YAML, be endlessly long when written out.
    whole = isinstance(value, int) and abs(value) < _LARGEST
    return value if whole or isinstance(value, str | float | None) else _SHORT.repr(value)
