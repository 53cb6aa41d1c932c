"""The rows of examples.csv, or of faithfulness.csv, one per face, as columns."""

import csv
import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from aujax.bootstrap import People
from aujax.errors import UserError

_NEEDED = ("index", "expression", "predicted")


class Examples:
    """The faces of one evaluation; expressions are numbers, those of `expressions` in order."""

    def __init__(self, path: pathlib.Path, expressions: Sequence[str]):
        """Reads the file; one that is missing, damaged or of an older evaluation is a UserError."""
        self.path, self.expressions = path, tuple(expressions)
        self._cells = _read(path)

    def __len__(self) -> int:
        return len(self._cells["index"])

    @functools.cached_property
    def expression(self) -> Int[np.ndarray, " faces"]:
        """The true expressions."""
        return self.classes("expression")

    @functools.cached_property
    def predicted(self) -> Int[np.ndarray, " faces"]:
        """The predicted expressions."""
        return self.classes("predicted")

    @functools.cached_property
    def people(self) -> People:
        """Who is on each face; "" where that is not known."""
        return np.array(self._column("group"))

    @functools.cached_property
    def correct(self) -> Bool[np.ndarray, " faces"]:
        """Whether the prediction is right."""
        return self.expression == self.predicted

    def classes(self, name: str) -> Int[np.ndarray, " faces"]:
        """Returns a column of names of expressions as numbers."""
        number = {each: k for k, each in enumerate(self.expressions)}
        try:
            return np.array([number[cell] for cell in self._cells[name]], int)
        except KeyError as error:
            raise UserError(f"{self.path}: expected an expression, got {error}; evaluate the run again") from error

    def numbers(self, name: str) -> tuple[Float[np.ndarray, " faces"], Bool[np.ndarray, " faces"]]:
        """Returns a column of numbers and which faces have one; 0 stands for those that have none."""
        cells = self._column(name)
        try:
            return np.array([float(cell or 0) for cell in cells]), np.array([cell != "" for cell in cells], bool)
        except ValueError as error:
            raise UserError(f"{self.path}: column {name!r}: expected numbers ({error}); evaluate again") from error

    @functools.cached_property
    def logits(self) -> Float[np.ndarray, "faces classes"]:
        """The logits of the classes."""
        return np.stack([self.numbers(f"logit:{name}")[0] for name in self.expressions], axis=1)

    @property
    def attributes(self) -> dict[str, list[str]]:
        """What is known of the faces besides, by name: gender, age, ...; "" where nothing is known."""
        known = (name for name in self._cells if name.startswith("attribute:"))
        return {name.removeprefix("attribute:"): self._cells[name] for name in known}

    def faces(self) -> list[str]:
        """Returns what tells the faces apart, to check that two evaluations saw the same."""
        return self._cells["index"]

    def _column(self, name: str) -> list[str]:
        if name not in self._cells:
            raise UserError(f"{self.path}: expected a column {name!r}, which it lacks; evaluate the run again")
        return self._cells[name]


def _read(path: pathlib.Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate the run again with eval.py") from error
    uneven = any(len(row) != len(header) for row in rows)
    lacking = [name for name in _NEEDED if name not in header]
    if uneven or lacking or not rows:
        what = "rows of different lengths" if uneven else f"no column {', '.join(lacking)}" if lacking else "no rows"
        raise UserError(f"{path}: expected one row per face, got {what}; evaluate the run again with eval.py")
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}
