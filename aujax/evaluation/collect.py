"""The maps of an evaluation: those of every face at their own size, and whole images of a few faces."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_SAMPLES_PER_EXPRESSION = 2
_WRONG, _CONFIDENT, _UNCERTAIN = 12, 6, 6  # faces of the gallery
_COLUMNS = ("face", "expression", "predicted", "probability", "has_map")

Face = dict[str, Any]


def _distinct(faces: Sequence[Face]) -> list[Face]:
    return list({int(face["face"]): face for face in faces}.values())


class MapCollector:
    """A sink of `evaluate.predict` that collects the arrays of maps.npz.

    The sample is two faces of each expression, drawn by a shuffle that depends on the number of faces alone, never on a
    result. The gallery is selected by result: wrong predictions of the highest probability, correct ones of the highest
    and of the lowest. The maps of all faces stay in memory until `arrays` joins them, about 40 kB a face for a
    ResNet-50 at 224 px.
    """

    def __init__(self, faces: int, *, attention_layer: str):
        """Prepares for that many faces; whole images keep the attention of `attention_layer`."""
        self._rank = np.random.default_rng(0).permutation(faces)
        self._layer = attention_layer
        self._maps: dict[str, list[np.ndarray]] = {}
        self._faces: list[Face] = []  # of the sample and the gallery of all batches so far
        self._class_sums: dict[str, Any] = {}

    def __call__(self, batch: Any, outputs: Any) -> None:
        """Collects from a batch and its `evaluate.Outputs`."""
        columns, maps, sums = jax.device_get((outputs.columns, outputs.maps, outputs.class_sums))
        self._class_sums = {name: self._class_sums.get(name, 0.0) + np.float64(value) for name, value in sums.items()}
        valid = columns["valid"]
        largest = np.finfo(np.float16).max
        for name, value in maps.items():
            stored = value[valid]
            # A CAM made of gradients may be smaller than anything in half precision.
            if name != "cam":
                stored = np.where(np.isinf(stored), stored, np.clip(stored, -largest, largest)).astype(np.float16)
            self._maps.setdefault(name, []).append(stored)

        # Faces that come first among all are first among those kept so far and those of the batch.
        new = [{name: columns[name][row] for name in _COLUMNS} | {"row": row} for row in np.flatnonzero(valid)]
        sample, gallery = self._select([*self._faces, *new])
        self._faces = _distinct([*sample, *gallery])
        for face in self._faces:
            if "row" in face:
                row = face.pop("row")
                # Fetched whole, and only once (JAX caches it): slicing on the devices would wait for the next batch.
                face["image"] = np.asarray(batch.image)[row].copy()
                face["au_map"] = np.asarray(outputs.au_map)[row].astype(np.float16)
                face["attention"] = maps[self._layer][row].copy()
                if "cam" in maps:
                    face["cam"] = maps["cam"][row].copy()

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

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps of all faces by name, and the arrays of "sample/" and "gallery/"."""
        # Each is removed when it is joined, so that only one of them is in memory twice.
        arrays = {name: np.concatenate(self._maps.pop(name)) for name in list(self._maps)}
        for kind, faces in zip(("sample", "gallery"), self._select(self._faces), strict=True):
            arrays |= {f"{kind}/{name}": np.stack([face[name] for face in faces]) for name in faces[0]}
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
