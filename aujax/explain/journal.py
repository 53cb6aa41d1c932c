"""Results as they come: explanations.jsonl, from which the tables are written and an interrupted command continues."""

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

PARTIAL = ".partial"  # the ending of the file's name until all results are in it

ImageKey = tuple[str, float | None]  # name of a photograph or video, and the second of a frame


class Journal:
    """A file of JSON lines: a header, then {"explanation": ...} or {"problem": ...} for each result in turn.

    An existing unfinished file is continued if it has the same header. The results of its last image are dropped,
    because others of that image may be missing.
    """

    def __init__(self, path: pathlib.Path, header: Mapping[str, Any]):
        """Opens PATH.partial; `finish` renames it to `path`."""
        self._path = path
        self.partial = path.with_name(path.name + PARTIAL)
        line = json.dumps(header).encode() + b"\n"
        size = _complete_size(self.partial, line)
        self._file = self.partial.open("r+b" if size else "wb")
        self._file.truncate(size)
        self._file.seek(size)
        if not size:
            self._file.write(line)
            self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, kind: str, result: Mapping[str, Any]) -> None:
        """Appends a result, "explanation" or "problem"; it is in the file at once."""
        self._file.write(json.dumps({kind: result}).encode() + b"\n")
        self._file.flush()

    def results(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yields the results of a kind, in the order of writing."""
        with self.partial.open("rb") as file:
            for line in itertools.islice(file, 1, None):
                if line.startswith(f'{{"{kind}": '.encode()):
                    yield json.loads(line)[kind]

    def images(self) -> set[ImageKey]:
        """Returns the images that have results."""
        results = itertools.chain(self.results("explanation"), self.results("problem"))
        return {(result["image"], result["second"]) for result in results}

    def finish(self) -> None:
        """Closes the file and gives it its name."""
        self._file.close()
        self.partial.replace(self._path)


def _complete_size(path: pathlib.Path, header: bytes) -> int:
    """Returns the bytes of the file up to the results of its last image; 0 without this header."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        if file.readline() != header:
            return 0
        size = complete = len(header)
        last = None
        for line in file:
            try:
                (result,) = json.loads(line).values()
                image = result["image"], result["second"]
            except (ValueError, AttributeError, LookupError, TypeError):
                break  # cut off
            if image != last:
                last, complete = image, size
            size += len(line)
    return complete
