"""YAML files of other programs as plain values: loading them runs nothing and takes bounded memory and time."""

import reprlib
from typing import Any

import yaml

from aujax.errors import UserError

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_LARGEST = 2**63
_LONGEST = 2**20  # characters; the authors' files have some ten thousand


class _Loader(yaml.SafeLoader):
    """Makes mappings, lists, texts, numbers, booleans and None; any other tag is ignored."""

    # Where a tag has no constructor, PyYAML makes a plain value of the kind of the node.
    yaml_constructors = {  # noqa: RUF012 - as in PyYAML
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Keeps merge keys (<<) as ordinary keys: nested aliases in a few lines of them would exhaust the memory."""


def parse(text: str) -> dict[str, Any]:
    """Returns the values of a YAML mapping by dotted names: numbers, texts, booleans and None.

    Values nested deeper than two mappings become short texts.

    Raises:
      UserError: the text is not a YAML mapping.

    >>> parse("method: CAM\\ndata: !munch.Munch {train: a}")
    {'method': 'CAM', 'data.train': 'a'}
    """
    if len(text) > _LONGEST:
        raise UserError(f"expected YAML of at most {_LONGEST} characters, got {len(text)}")
    try:
        content = yaml.load(text, _Loader)
    # ValueError, LookupError: a scalar that does not fit its tag, or a number of thousands of digits.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise UserError(f"expected YAML, got something else ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"expected values by name, got something else ({_SHORT.repr(text)})")
    values = {}
    for name, value in content.items():
        leaves = {f"{name}.{key}": leaf for key, leaf in value.items()} if isinstance(value, dict) else {name: value}
        for leaf_name, leaf in leaves.items():
            # Aliases can make the text of a nested value longer than any memory.
            plain = isinstance(leaf, str | float | None) or (isinstance(leaf, int) and abs(leaf) < _LARGEST)
            values[str(leaf_name)] = leaf if plain else _SHORT.repr(leaf)
    return values
