"""Writing files as a whole: one with its final name is complete, whatever interrupted the writing."""

import json
import pathlib
from typing import Any


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file by way of PATH.partial; an existing file is replaced when the new one is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file as `write` does."""
    write(path, json.dumps(content, indent=1) + "\n")
