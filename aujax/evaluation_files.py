"""What `eval.py` leaves behind: metrics.json, examples.csv and maps.npz, from one `evaluation.Evaluation`.

The evaluation of the split "validation" also fits the temperature that calibrates the run, RUN/calibration.json.
"""

import csv
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from aujax import calibration, codebook, evaluation, evaluation_summary, run_files
from aujax.data.batch import Batch, data_mesh, replicated
from aujax.data.store import Faces, FaceSource
from aujax.evaluation import Evaluation, Outputs
from aujax.evaluation_maps import MapCollector
from aujax.evaluation_summary import BASELINES, Columns
from aujax.runs import Run, load_run, open_data


def evaluate_run(
    workdir: pathlib.Path, split: str, *, data_dir: str | None = None, which: str = "best"
) -> pathlib.Path:
    """Evaluates a run folder on a split and returns the folder, RUN/eval/<split>, that now holds the files."""
    run = load_run(workdir, which=which)
    return evaluate(run, open_data(run, data_dir), workdir, split)


def evaluate(run: Run, faces: Faces, workdir: pathlib.Path, split: str) -> pathlib.Path:
    """Evaluates a run on a split of the faces, as `evaluate_run` does."""
    source, mesh = faces.source(split), data_mesh()
    about = evaluation.describe(run, split, faces)
    collector = MapCollector(len(source), attention_layer=about["attention_layer"])
    seen: list[Batch] = []

    def keep_landmarks(batch: Batch, _: Outputs) -> None:
        seen.append(batch._replace(image=batch.image[..., :0]))  # of the pictures their size alone

    result = evaluation.evaluate(
        evaluation.make_thorough_reader(run.model, run.config, mesh),
        jax.device_put(run.variables, replicated(mesh)),
        evaluation.whole_split(source, run.config, mesh),
        mesh=mesh,
        expressions=faces.expressions,
        sinks=[collector, keep_landmarks],
    )
    means = _class_means(result, collector)
    book = codebook.load(run.config.codebook)
    cosines = evaluation.class_mean_cosines(seen, means["class_mean/au_map"], book)
    columns = result.columns | {"cosine/class_mean_au_map": cosines}
    result = Evaluation(evaluation_summary.summarize(columns, faces.expressions), columns)
    directory = workdir / "eval" / split
    write(directory, result, collector.arrays() | means, source, about)
    if split == "validation":
        _write_temperature(workdir / run_files.CALIBRATION, columns, about)
    return directory


def write(
    directory: pathlib.Path,
    result: Evaluation,
    maps: dict[str, np.ndarray],
    source: FaceSource,
    about: dict[str, Any],
) -> None:
    """Writes metrics.json, examples.csv and maps.npz into the directory; metrics.json last.

    An evaluation that was there before loses its metrics.json first, so the file always belongs to the others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.json").unlink(missing_ok=True)
    kept = {name: result.columns[name] for name in ("index", "expression", "predicted", "has_map")}
    # Not compressed: that takes fifty times as long and makes the file a third smaller.
    np.savez(directory / "maps.npz", **kept | maps)  # pyright: ignore[reportArgumentType]
    rows = list(_examples(result.columns, source, result.summary["expressions"]))
    # Attributes may differ from face to face.
    header = dict.fromkeys(name for row in rows for name in row)
    with (directory / "examples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(header), restval="")
        writer.writeheader()
        writer.writerows(rows)
    (directory / "metrics.json").write_text(json.dumps(about | result.summary, indent=1) + "\n")


def _class_means(result: Evaluation, collector: MapCollector) -> dict[str, np.ndarray]:
    per_class = result.summary["per_class"].values()
    counts = np.array([part["num_examples"] for part in per_class])
    map_counts = np.array([part.get("num_maps", 0) for part in per_class])
    return collector.class_means(counts, map_counts) | {"class_count": counts, "class_map_count": map_counts}


def _write_temperature(path: pathlib.Path, columns: Columns, about: dict[str, Any]) -> None:
    temperature = calibration.fit_temperature(columns["logits"].astype(float), columns["expression"])
    content = {"temperature": temperature} | {name: about[name] for name in ("split", "protocol", "checkpoint", "data")}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _examples(columns: Columns, source: FaceSource, expressions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of examples.csv; "" stands where a face has no such number."""
    cosines = [name.removeprefix("cosine/") for name in columns if name.startswith("cosine/")]
    scores = {of: [name for name in columns if name.startswith(f"{of}:")] for of in ("label", "predicted")}
    read = evaluation_summary.read_maps(columns)
    for row, index in enumerate(columns["index"]):
        face = source[int(index)]

        def number(name: str, known: bool = True, row: int = row) -> str:
            return f"{columns[name][row]:.6g}" if known else ""

        has_map, has_predicted_map = (bool(columns[name][row]) for name in ("has_map", "has_predicted_map"))
        label, predicted = (expressions[columns[name][row]] for name in ("expression", "predicted"))
        values = {
            "index": index,
            "id": face["id"],
            "group": face["subject_id"],
            "expression": label,
            "predicted": predicted,
        }
        values |= {"probability": number("probability"), "correct": int(label == predicted), "has_map": int(has_map)}
        values |= {
            _column(name): number(f"cosine/{name}", has_map)
            for name in sorted(cosines, key=lambda name: name in BASELINES)
        }
        empty = " ".join(name for name in read if not columns[f"informative/{name}"][row])
        values |= {"without_pattern": empty}
        values |= {f"logit:{name}": f"{columns['logits'][row, k]:.6g}" for k, name in enumerate(expressions)}
        values |= {name: number(name, has_map) for name in scores["label"]}
        values |= {name: number(name, has_predicted_map) for name in scores["predicted"]}
        yield values | {f"attribute:{name}": value for name, value in face["attributes"].items()}


def _column(cosine: str) -> str:
    """Returns the name in examples.csv of a cosine, such as "attention/layer5"."""
    kind, _, layer = cosine.partition("/")
    return f"baseline:{cosine}" if cosine in BASELINES else f"att_cos_{layer}" if kind == "attention" else "cam_cos"
