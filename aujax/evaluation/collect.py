"""The maps of an evaluation: those of every face at their own size, and whole images of a few faces."""

import functools
import itertools
import math
import operator
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from aujax import processes
from aujax.results.schema import StreamedArray

_SAMPLES_PER_EXPRESSION = 2
_WRONG, _CONFIDENT, _UNCERTAIN = 12, 6, 6  # faces of the gallery
_COLUMNS = ("face", "expression", "predicted", "probability", "has_map")

Face = dict[str, Any]


def _distinct(faces: Sequence[Face]) -> list[Face]:
    return list({int(face["face"]): face for face in faces}.values())


class MapCollector:
    """A sink of `evaluate.predict` that collects the arrays of maps.npz; a context manager.

    The sample is two faces of each expression, drawn by a shuffle that depends on the number of faces alone, never on a
    result. The gallery is selected by result: wrong predictions of the highest probability, correct ones of the highest
    and of the lowest. The maps of all faces, about 40 kB a face for a ResNet-50 at 224 px, are written to temporary
    files as they come, which the end of the context removes.
    """

    def __init__(self, faces: int, *, attention_layer: str, directory: pathlib.Path | None):
        """Prepares for that many faces.

        Args:
          faces: the number of faces.
          attention_layer: whole images keep the attention of this layer.
          directory: for the files; None if the maps of all faces are not wanted.
        """
        self._rank = np.random.default_rng(0).permutation(faces)
        self._layer = attention_layer
        self._directory = directory
        # For each map a file with the rows of all faces so far, and an empty array of their shape and type.
        self._files: dict[str, tuple[BinaryIO, np.ndarray]] = {}
        self._faces: list[Face] = []  # of the sample and the gallery of all batches so far
        self._class_sums: dict[str, Any] = {}

    def __enter__(self) -> "MapCollector":
        return self

    def __exit__(self, *exception: object) -> None:
        for file, _ in self._files.values():
            file.close()

    def __call__(self, batch: Any, outputs: Any) -> None:
        """Collects from a batch and its `evaluate.Outputs`; all processes call it."""
        columns, sums, maps = jax.device_get((outputs.columns, outputs.class_sums, outputs.maps))
        self._class_sums = {name: self._class_sums.get(name, 0.0) + np.float64(value) for name, value in sums.items()}
        valid = columns["valid"]
        if self._directory is not None:
            for name in outputs.maps:  # in the order of the layers; JAX sorts the keys
                rows = maps[name][valid]
                # A CAM made of gradients may be smaller than anything in half precision.
                if name != "cam":
                    largest = np.finfo(np.float16).max
                    rows = np.where(np.isinf(rows), rows, np.clip(rows, -largest, largest)).astype(np.float16)
                if name not in self._files:
                    self._files[name] = tempfile.TemporaryFile(dir=self._directory), rows[:0]  # noqa: SIM115
                self._files[name][0].write(rows.tobytes())

        # Faces that come first among all are first among those kept so far and those of the batch.
        new = [{name: columns[name][row] for name in _COLUMNS} | {"row": row} for row in np.flatnonzero(valid)]
        sample, gallery = self._select([*self._faces, *new])
        self._faces = _distinct([*sample, *gallery])
        chosen = [face for face in self._faces if "row" in face]
        if not chosen:
            return
        au_map = processes.gathered(outputs.au_map).astype(np.float16)
        arrays = {"image": processes.gathered(batch.image), "au_map": au_map}
        arrays |= {name: maps[key] for name, key in (("attention", self._layer), ("cam", "cam")) if key in maps}
        for face in chosen:
            row = face.pop("row")
            face |= {name: array[row].copy() for name, array in arrays.items()}

    def _select(self, faces: Sequence[Face]) -> tuple[list[Face], list[Face]]:
        """Returns the faces of the sample and of the gallery, each once."""
        by_rank = sorted(faces, key=lambda face: (face["expression"], self._rank[face["face"]]))
        of_expressions = itertools.groupby(by_rank, key=operator.itemgetter("expression"))
        sample = [face for _, group in of_expressions for face in itertools.islice(group, _SAMPLES_PER_EXPRESSION)]
        by_probability = sorted(faces, key=lambda face: (-face["probability"], face["face"]))
        wrong = [face for face in by_probability if face["expression"] != face["predicted"]]
        correct = [face for face in by_probability if face["expression"] == face["predicted"]]
        uncertain = sorted(correct, key=lambda face: (face["probability"], face["face"]))
        return sample, _distinct([*wrong[:_WRONG], *correct[:_CONFIDENT], *uncertain[:_UNCERTAIN]])

    def arrays(self) -> dict[str, np.ndarray | StreamedArray]:
        """Returns the maps of all faces by name, read from the files as they are used, and "sample/", "gallery/"."""
        arrays: dict[str, np.ndarray | StreamedArray] = {}
        for kind, faces in zip(("sample", "gallery"), self._select(self._faces), strict=True):
            arrays |= {f"{kind}/{name}": np.stack([face[name] for face in faces]) for name in faces[0]}
        for name, (file, rows) in self._files.items():
            count = file.tell() // (rows.itemsize * math.prod(rows.shape[1:]))
            file.seek(0)
            parts = iter(functools.partial(file.read, 2**24), b"")
            arrays[name] = StreamedArray((count, *rows.shape[1:]), rows.dtype, parts)
        return arrays

    def class_means(self, expression: np.ndarray, has_map: np.ndarray, classes: int) -> dict[str, np.ndarray]:
        """Returns the mean of every map per expression, of AU maps over the faces that have one, and the counts."""
        counts = np.bincount(expression, minlength=classes)
        map_counts = np.bincount(expression[has_map], minlength=classes)
        means = {"class_count": counts, "class_map_count": map_counts}
        for name, sums in self._class_sums.items():
            divisor = np.maximum(map_counts if name == "au_map" else counts, 1).reshape(-1, 1, 1)
            means[f"class_mean/{name}"] = (sums / divisor).astype(np.float32)
        return means
