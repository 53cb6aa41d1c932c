"""The maps of an evaluation: those of every face at their own size, and whole images of a few faces."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
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
    and of the lowest. The maps of all faces, about 40 kB a face for a ResNet-50 at 224 px, are written to files of this
    process as they come, which `arrays` joins and the end of the context removes.
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
        self._files: dict[str, BinaryIO] = {}  # of this process: for each map the rows of all batches
        self._rows: dict[str, np.ndarray] = {}  # empty arrays of their type and shape
        self._counts: list[list[int]] = []  # faces of each batch in the files of each process
        self._faces: list[Face] = []  # of the sample and the gallery of all batches so far
        self._class_sums: dict[str, Any] = {}

    def __enter__(self) -> "MapCollector":
        return self

    def __exit__(self, *exception: object) -> None:
        for name, file in self._files.items():
            file.close()
            self._path(name, jax.process_index()).unlink()

    def _path(self, name: str, process: int) -> pathlib.Path:
        assert self._directory is not None
        return self._directory / f"{name}.{process}.partial"

    def __call__(self, batch: Any, outputs: Any) -> None:
        """Collects from this process's part of a batch and its `evaluate.Outputs`."""
        columns, sums = jax.device_get((outputs.columns, outputs.class_sums))
        self._class_sums = {name: self._class_sums.get(name, 0.0) + np.float64(value) for name, value in sums.items()}
        # Fetched whole, and only once (JAX caches it): slicing on the devices would wait for the next batch.
        maps = {name: processes.own_part(value) for name, value in outputs.maps.items()}
        valid = columns["valid"]
        if self._directory is not None:
            parts = np.array_split(valid, jax.process_count())
            self._counts.append([int(part.sum()) for part in parts])
            self._write({name: value[parts[jax.process_index()]] for name, value in maps.items()})

        # Faces that come first among all are first among those kept so far and those of the batch.
        new = [{name: columns[name][row] for name in _COLUMNS} | {"row": row} for row in np.flatnonzero(valid)]
        sample, gallery = self._select([*self._faces, *new])
        self._faces = _distinct([*sample, *gallery])
        chosen = [face for face in self._faces if "row" in face]
        if not chosen:
            return
        arrays = {"image": processes.own_part(batch.image), "au_map": processes.own_part(outputs.au_map)}
        arrays |= {name: maps[key] for name, key in (("attention", self._layer), ("cam", "cam")) if key in maps}
        for face in chosen:
            process, row = divmod(face.pop("row"), len(arrays["image"]))
            for name, array in arrays.items():
                # Zeros where another process has the face: `arrays` adds up those of all processes.
                face[name] = array[row].copy() if process == jax.process_index() else np.zeros_like(array[row])
            face["au_map"] = face["au_map"].astype(np.float16)

    def _write(self, maps: dict[str, np.ndarray]) -> None:
        largest = np.finfo(np.float16).max
        for name, value in maps.items():
            # A CAM made of gradients may be smaller than anything in half precision.
            if name != "cam":
                value = np.where(np.isinf(value), value, np.clip(value, -largest, largest)).astype(np.float16)
            if name not in self._files:
                self._files[name] = self._path(name, jax.process_index()).open("wb")
                self._rows[name] = np.empty((0, *value.shape[1:]), value.dtype)
            self._files[name].write(value.tobytes())

    def _select(self, faces: Sequence[Face]) -> tuple[list[Face], list[Face]]:
        """Returns the faces of the sample and of the gallery, each once."""
        sample = []
        by_rank = sorted(faces, key=lambda face: self._rank[face["face"]])
        for expression in sorted({int(face["expression"]) for face in faces}):
            sample += [face for face in by_rank if face["expression"] == expression][:_SAMPLES_PER_EXPRESSION]
        by_probability = sorted(faces, key=lambda face: (-face["probability"], face["face"]))
        wrong = [face for face in by_probability if face["expression"] != face["predicted"]]
        correct = [face for face in by_probability if face["expression"] == face["predicted"]]
        uncertain = sorted(correct, key=lambda face: (face["probability"], face["face"]))
        gallery = [*wrong[:_WRONG], *correct[:_CONFIDENT], *uncertain[:_UNCERTAIN]]
        return sample, _distinct(gallery)

    def arrays(self) -> dict[str, np.ndarray | StreamedArray]:
        """Returns the maps of all faces by name, and the arrays of "sample/" and "gallery/"; all processes call it.

        The maps of all faces are read from the files while they are written elsewhere, in the order of the faces.
        """
        arrays: dict[str, np.ndarray | StreamedArray] = {}
        for kind, faces in zip(("sample", "gallery"), self._select(self._faces), strict=True):
            columns = {name: np.stack([face[name] for face in faces]) for name in faces[0]}
            pixels = {name: array for name, array in columns.items() if name not in _COLUMNS}
            arrays |= {f"{kind}/{name}": array for name, array in (columns | processes.total(pixels)).items()}
        for file in self._files.values():
            file.flush()
        processes.wait_for_all("maps written")
        faces = sum(map(sum, self._counts))
        for name, rows in self._rows.items():
            arrays[name] = StreamedArray((faces, *rows.shape[1:]), rows.dtype, self._read(name))
        return arrays

    def _read(self, name: str) -> Iterator[bytes]:
        """Yields the rows of a map of all faces: of each batch those of process 0, then 1, ..."""
        rows = self._rows[name]
        size = rows.itemsize * int(np.prod(rows.shape[1:]))
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(self._path(name, n).open("rb")) for n in range(jax.process_count())]
            for counts in self._counts:
                for file, count in zip(files, counts, strict=True):
                    yield file.read(count * size)

    def class_means(self, expression: np.ndarray, has_map: np.ndarray, classes: int) -> dict[str, np.ndarray]:
        """Returns the mean of every map per expression, of AU maps over the faces that have one, and the counts."""
        counts = np.bincount(expression, minlength=classes)
        map_counts = np.bincount(expression[has_map], minlength=classes)
        means = {"class_count": counts, "class_map_count": map_counts}
        for name, sums in self._class_sums.items():
            divisor = np.maximum(map_counts if name == "au_map" else counts, 1).reshape(-1, 1, 1)
            means[f"class_mean/{name}"] = (sums / divisor).astype(np.float32)
        return means
