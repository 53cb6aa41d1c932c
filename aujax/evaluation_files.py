"""What `eval.py` leaves behind: metrics.json, examples.csv and maps.npz, from one `evaluation.Evaluation`."""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from aujax import evaluation
from aujax.data.builders import FaceSource
from aujax.data.records import Batch, data_mesh, replicated
from aujax.evaluation import BASELINES, Evaluation, Outputs
from aujax.runs import load_run, open_data

_SAMPLES_PER_EXPRESSION = 2


class MapCollector:
    """A sink that keeps every face's maps at their own size, and whole pictures of two faces of each expression.

    Which two is drawn by a shuffle that depends on the number of faces alone, never on a result. The maps stay in
    memory until they are written, some 40 kB a face with a ResNet-50 at 224 px.
    """

    def __init__(self, faces: int, *, attention_layer: str):
        """Expects that many faces; keeps the attention of `attention_layer` for the samples."""
        self._rank = np.random.default_rng(0).permutation(faces)
        self._layer = attention_layer
        self._taken = 0
        self._maps: dict[str, np.ndarray] = {}
        self._samples: dict[int, list[dict[str, Any]]] = {}
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
            kept = self._samples.setdefault(int(columns["expression"][row]), [])
            worst = max((self._rank[sample["index"]] for sample in kept), default=-1)
            if len(kept) < _SAMPLES_PER_EXPRESSION or self._rank[columns["index"][row]] < worst:
                kept.append(self._sample(batch, outputs, columns, maps, int(row)))
                kept.sort(key=lambda sample: self._rank[sample["index"]])
                del kept[_SAMPLES_PER_EXPRESSION:]

    def _sample(
        self, batch: Batch, outputs: Outputs, columns: dict[str, np.ndarray], maps: dict[str, np.ndarray], row: int
    ) -> dict[str, Any]:
        sample = {name: columns[name][row] for name in ("index", "expression", "predicted", "has_map")}
        # Fetched whole, and once: a row is cut out by the devices, which have the next batch to work on.
        image, au_map = np.asarray(batch.image), np.asarray(outputs.au_map)
        sample |= {"image": image[row].copy(), "au_map": au_map[row].astype(np.float16)}
        sample["attention"] = maps[f"attention/{self._layer}"][row].copy()
        return sample | ({"cam": maps["cam"][row].copy()} if "cam" in maps else {})

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps and the samples by their names in maps.npz."""
        samples = [sample for _, kept in sorted(self._samples.items()) for sample in kept]
        stacked = {f"sample/{name}": np.stack([sample[name] for sample in samples]) for name in samples[0]}
        return {name: maps[: self._taken] for name, maps in self._maps.items()} | stacked

    def class_means(self, counts: np.ndarray, map_counts: np.ndarray) -> dict[str, np.ndarray]:
        """Returns every map averaged by expression, AU maps over those faces that have one."""
        divisors = {name: map_counts if name == "au_map" else counts for name in self._class_sums}
        return {
            f"class_mean/{name}": (sums / np.maximum(divisors[name], 1).reshape(-1, 1, 1)).astype(np.float32)
            for name, sums in self._class_sums.items()
        }


def write(
    directory: pathlib.Path, evaluation: Evaluation, collector: MapCollector, source: FaceSource, about: dict[str, Any]
) -> None:
    """Writes metrics.json, examples.csv and maps.npz into the directory; metrics.json last.

    An evaluation that was there before loses its metrics.json first, so the file always belongs to the others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.json").unlink(missing_ok=True)
    summary, columns = evaluation.summary, evaluation.columns
    counts = np.array([part["num_examples"] for part in summary["per_class"].values()])
    map_counts = np.array([part.get("num_maps", 0) for part in summary["per_class"].values()])
    kept = {name: columns[name] for name in ("index", "expression", "predicted", "has_map")}
    means = collector.class_means(counts, map_counts)
    arrays = kept | collector.arrays() | means | {"class_count": counts, "class_map_count": map_counts}
    # Not compressed: that takes fifty times as long and makes the file a third smaller.
    np.savez(directory / "maps.npz", **arrays)  # pyright: ignore[reportArgumentType]
    _write_examples(directory / "examples.csv", columns, source, summary["expressions"])
    text = json.dumps(about | summary, indent=1)
    (directory / "metrics.json").write_text(text + "\n")


def _half(maps: np.ndarray) -> np.ndarray:
    largest = np.finfo(np.float16).max
    return np.where(np.isinf(maps), maps, np.clip(maps, -largest, largest)).astype(np.float16)


def _write_examples(
    path: pathlib.Path, columns: dict[str, np.ndarray], source: FaceSource, expressions: Sequence[str]
) -> None:
    cosines = [name for name in columns if name.startswith("cosine/") and name.removeprefix("cosine/") not in BASELINES]
    renamed = [name.removeprefix("cosine/").replace("attention/", "att_cos_") for name in cosines]
    read = evaluation.read_maps(columns)
    header = ["index", "id", "group", "expression", "predicted", "probability", "correct", "has_map"]
    header += ["cam_cos" if name == "cam" else name for name in renamed] + ["without_pattern"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row, index in enumerate(columns["index"]):
            face, has_map = source[int(index)], bool(columns["has_map"][row])
            label, predicted = (expressions[columns[name][row]] for name in ("expression", "predicted"))
            known = [index, face["id"], face["group"], label, predicted, f"{columns['probability'][row]:.4f}"]
            values = [f"{columns[name][row]:.4f}" if has_map else "" for name in cosines]
            empty = " ".join(name for name in read if not columns[f"informative/{name}"][row])
            writer.writerow([*known, int(label == predicted), int(has_map), *values, empty])


def evaluate_run(
    workdir: pathlib.Path, split: str, *, data_dir: str | None = None, which: str = "best"
) -> pathlib.Path:
    """Evaluates a run folder on a split and returns the folder, RUN/eval/<split>, that now holds the files."""
    run = load_run(workdir, which=which)
    faces = open_data(run, data_dir)
    source, mesh = faces.source(split), data_mesh()
    about = evaluation.describe(run, split, faces)
    collector = MapCollector(len(source), attention_layer=about["attention_layer"])
    result = evaluation.evaluate(
        evaluation.with_summaries(evaluation.make_reader(run.model, run.config, mesh), run.config, mesh),
        jax.device_put(run.variables, replicated(mesh)),
        evaluation.whole_split(source, run.config, mesh),
        mesh=mesh,
        expressions=faces.expressions,
        sinks=[collector],
    )
    directory = workdir / "eval" / split
    write(directory, result, collector, source, about)
    return directory
