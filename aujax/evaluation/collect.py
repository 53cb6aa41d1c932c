"""The maps of an evaluation: those of every face at their own size, and whole images of a few faces."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_SAMPLES_PER_EXPRESSION = 2
_WRONG, _CONFIDENT, _UNCERTAIN = 12, 6, 6  # faces of the gallery

Face = dict[str, Any]


class _First:
    """The `count` faces that come first by a key."""

    def __init__(self, count: int):
        self._count = count
        self._faces: list[tuple[float, int, Face]] = []

    def offer(self, key: float, index: int, make: Callable[[], Face]) -> None:
        """Keeps a face, which `make` copies, if it comes before the last of those kept."""
        if len(self._faces) < self._count or (key, index) < self._faces[-1][:2]:
            self._faces.append((key, index, make()))
            self._faces.sort(key=lambda kept: kept[:2])
            del self._faces[self._count :]

    def faces(self) -> list[Face]:
        """Returns the kept faces in order."""
        return [face for *_, face in self._faces]


class MapCollector:
    """A sink of `evaluate.predict` that collects the arrays of maps.npz.

    The sample is two faces of each expression, drawn by a shuffle that depends on the number of faces alone, never on a
    result. The gallery is selected by result: wrong predictions of the highest probability, correct ones of the highest
    and of the lowest. The maps of all faces stay in memory until they are written, about 40 kB a face for a ResNet-50
    at 224 px.
    """

    def __init__(self, faces: int, *, attention_layer: str):
        """Allocates for that many faces; whole images keep the attention of `attention_layer`."""
        self._rank = np.random.default_rng(0).permutation(faces)
        self._layer = attention_layer
        self._count = 0
        self._maps: dict[str, np.ndarray] = {}
        self._samples: dict[int, _First] = {}
        self._wrong = _First(_WRONG)
        self._confident = _First(_CONFIDENT)
        self._uncertain = _First(_UNCERTAIN)
        self._class_sums: dict[str, Any] = {}

    def __call__(self, batch: Any, outputs: Any) -> None:
        """Collects from a batch and its `evaluate.Outputs`."""
        columns, maps, sums = jax.device_get((outputs.columns, outputs.maps, outputs.class_sums))
        self._class_sums = {name: self._class_sums.get(name, 0.0) + np.float64(value) for name, value in sums.items()}
        valid = columns["valid"]
        start = self._count
        self._count += int(valid.sum())
        for name, value in maps.items():
            # A CAM made of gradients may be smaller than anything in half precision.
            stored = (value if name == "cam" else _half(value))[valid]
            if name not in self._maps:
                self._maps[name] = np.empty((len(self._rank), *stored.shape[1:]), stored.dtype)
            self._maps[name][start : self._count] = stored
        for row in np.flatnonzero(valid):
            self._offer(batch, outputs, columns, maps, int(row))

    def _offer(self, batch: Any, outputs: Any, columns: Face, maps: Face, row: int) -> None:
        def make() -> Face:
            face = {name: columns[name][row] for name in ("face", "expression", "predicted", "probability", "has_map")}
            # Fetched whole, and only once (JAX caches it): slicing on the devices would wait for the next batch.
            image, au_map = np.asarray(batch.image), np.asarray(outputs.au_map)
            face |= {"image": image[row].copy(), "au_map": au_map[row].astype(np.float16)}
            face["attention"] = maps[self._layer][row].copy()
            return face | ({"cam": maps["cam"][row].copy()} if "cam" in maps else {})

        index, expression = int(columns["face"][row]), int(columns["expression"][row])
        probability = float(columns["probability"][row])
        sample = self._samples.setdefault(expression, _First(_SAMPLES_PER_EXPRESSION))
        sample.offer(float(self._rank[index]), index, make)
        if expression == columns["predicted"][row]:
            self._confident.offer(-probability, index, make)
            self._uncertain.offer(probability, index, make)
        else:
            self._wrong.offer(-probability, index, make)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps of all faces by name, and the arrays of "sample/" and "gallery/"."""
        samples = [face for _, kept in sorted(self._samples.items()) for face in kept.faces()]
        gallery = {}
        for kept in (self._wrong, self._confident, self._uncertain):
            gallery |= {int(face["face"]): face for face in kept.faces()}
        arrays = {name: maps[: self._count] for name, maps in self._maps.items()}
        for kind, faces in (("sample", samples), ("gallery", list(gallery.values()))):
            arrays |= {f"{kind}/{name}": np.stack([face[name] for face in faces]) for name in faces[0]}
        return arrays

    def class_means(self, counts: np.ndarray, map_counts: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the mean of every map per expression; of AU maps over the faces that have one."""
        means = {}
        for name, sums in self._class_sums.items():
            divisor = np.maximum(map_counts if name == "au_map" else counts, 1).reshape(-1, 1, 1)
            means[f"class_mean/{name}"] = (sums / divisor).astype(np.float32)
        return means


def _half(maps: np.ndarray) -> np.ndarray:
    largest = np.finfo(np.float16).max
    return np.where(np.isinf(maps), maps, np.clip(maps, -largest, largest)).astype(np.float16)
