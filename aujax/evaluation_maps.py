"""The maps and pictures of an evaluation: all maps small, and a few faces whole."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aujax.data.batch import Batch
from aujax.evaluation import Outputs

_SAMPLES_PER_EXPRESSION = 2
_WRONG, _SURE, _UNSURE = 12, 6, 6  # faces of the gallery

Face = dict[str, Any]


class _Kept:
    """The `count` faces that come first by a key, of all that were offered."""

    def __init__(self, count: int):
        self._count = count
        self._faces: list[tuple[float, int, Face]] = []

    def offer(self, key: float, index: int, take: Callable[[], Face]) -> None:
        """Keeps a face, which `take` cuts out, if it comes before the last of those kept."""
        if len(self._faces) < self._count or (key, index) < self._faces[-1][:2]:
            self._faces.append((key, index, take()))
            self._faces.sort(key=lambda kept: kept[:2])
            del self._faces[self._count :]

    def faces(self) -> list[Face]:
        """Returns the kept faces, the first one first."""
        return [face for *_, face in self._faces]


class MapCollector:
    """A sink that keeps every face's maps at their own size, and whole pictures of a sample and of a gallery.

    The sample is two faces of each expression, drawn by a shuffle that depends on the number of faces alone, never on
    a result. The gallery is chosen by result: wrong faces of the highest probability, right ones of the highest and of
    the lowest. The maps stay in memory until they are written, some 40 kB a face with a ResNet-50 at 224 px.
    """

    def __init__(self, faces: int, *, attention_layer: str):
        """Expects that many faces; keeps the attention of `attention_layer` for the whole pictures."""
        self._rank = np.random.default_rng(0).permutation(faces)
        self._layer = attention_layer
        self._taken = 0
        self._maps: dict[str, np.ndarray] = {}
        self._samples: dict[int, _Kept] = {}
        self._wrong, self._sure, self._unsure = _Kept(_WRONG), _Kept(_SURE), _Kept(_UNSURE)
        self._class_sums: dict[str, Any] = {}

    def __call__(self, batch: Batch, outputs: Outputs) -> None:
        """Takes what was read from one batch."""
        columns, maps, sums = jax.device_get((outputs.columns, outputs.maps, outputs.class_sums))
        self._class_sums = {name: self._class_sums.get(name, 0.0) + np.float64(value) for name, value in sums.items()}
        valid = columns["valid"]
        start, self._taken = self._taken, self._taken + int(valid.sum())
        for name, value in maps.items():
            # A CAM made of gradients may be smaller than anything in half precision.
            stored = (value if name == "cam" else _half(value))[valid]
            if name not in self._maps:
                self._maps[name] = np.empty((len(self._rank), *stored.shape[1:]), stored.dtype)
            self._maps[name][start : self._taken] = stored
        for row in np.flatnonzero(valid):
            self._offer(batch, outputs, columns, maps, int(row))

    def _offer(self, batch: Batch, outputs: Outputs, columns: Face, maps: Face, row: int) -> None:
        def take() -> Face:
            names = ("index", "expression", "predicted", "probability", "has_map")
            face = {name: columns[name][row] for name in names}
            # Fetched whole, and once: a row is cut out by the devices, which have the next batch to work on.
            image, au_map = np.asarray(batch.image), np.asarray(outputs.au_map)
            face |= {"image": image[row].copy(), "au_map": au_map[row].astype(np.float16)}
            face["attention"] = maps[f"attention/{self._layer}"][row].copy()
            return face | ({"cam": maps["cam"][row].copy()} if "cam" in maps else {})

        index, expression = int(columns["index"][row]), int(columns["expression"][row])
        probability = float(columns["probability"][row])
        sample = self._samples.setdefault(expression, _Kept(_SAMPLES_PER_EXPRESSION))
        sample.offer(float(self._rank[index]), index, take)
        if expression == columns["predicted"][row]:
            self._sure.offer(-probability, index, take)
            self._unsure.offer(probability, index, take)
        else:
            self._wrong.offer(-probability, index, take)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps, the sample and the gallery by their names in maps.npz."""
        samples = [face for _, kept in sorted(self._samples.items()) for face in kept.faces()]
        chosen = {int(face["index"]): face for kept in (self._wrong, self._sure, self._unsure) for face in kept.faces()}
        whole = {"sample": samples, "gallery": list(chosen.values())}
        return {name: maps[: self._taken] for name, maps in self._maps.items()} | {
            f"{of}/{name}": np.stack([face[name] for face in faces]) for of, faces in whole.items() for name in faces[0]
        }

    def class_means(self, counts: np.ndarray, map_counts: np.ndarray) -> dict[str, np.ndarray]:
        """Returns every map averaged by expression, AU maps over those faces that have one."""
        divisors = {name: map_counts if name == "au_map" else counts for name in self._class_sums}
        return {
            f"class_mean/{name}": (sums / np.maximum(divisors[name], 1).reshape(-1, 1, 1)).astype(np.float32)
            for name, sums in self._class_sums.items()
        }


def _half(maps: np.ndarray) -> np.ndarray:
    largest = np.finfo(np.float16).max
    return np.where(np.isinf(maps), maps, np.clip(maps, -largest, largest)).astype(np.float16)
