"""Run folders as train.py and eval.py leave them, made from random numbers in milliseconds."""

import csv
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import fake_interventions
import numpy as np

from aujax.codebook import EXPRESSIONS
from aujax.run_files import CALIBRATION

LAYERS = ("layer4", "layer5")
MAPS = (*(f"attention/{layer}" for layer in LAYERS), "cam")
SCORES = ("pointing", "energy", "iou", "mean_iou", "auc", "correlation")
BASELINES = {"uniform": 0.4711, "centred_gaussian": 0.5522, "class_mean_au_map": 0.8144, "all_au_map": 0.7233}
BASELINE_SCORES = {name: dict.fromkeys(SCORES, BASELINES[name]) for name in BASELINES if "mean" not in name}
SIZE = 32  # pixels per side of the sample's pictures
PER_CLASS = 4  # faces of each expression; Neutral has no AU map
CHECKPOINT = {"step": 40, "epoch": 2, "which": "best"}
VERSIONS = {"python": "3.11.0", "jax": "0.10.2"}
Columns, Row = dict[str, np.ndarray], dict[str, Any]


def make_run(
    folder: pathlib.Path,
    *,
    au_weight: float = 0.0,
    seed: int = 0,
    protocol: str = "heldout",
    splits: Sequence[str] = ("test",),
    faithfulness: bool = False,
    attributes: bool = True,
    **options: Any,
) -> pathlib.Path:
    """Writes a run folder with an evaluation on each of `splits` and returns it.

    `options` are set in config.json, but for `trained_on` and `evaluated_on` (fingerprints of data) and `data_name`.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, int(100 * au_weight)))
    trained_on, evaluated_on = options.pop("trained_on", "aaaa"), options.pop("evaluated_on", "eeee")
    made = {"name": options.pop("data_name", "synthetic"), "terms": "The faces show no real person."}
    made["detector_terms"] = "They come with the data, under the same terms."
    data = {"dir": options.pop("data_dir", "data/faces"), "read_threads": 4}
    config = {"method": "CAM", "au_weight": au_weight, "seed": seed, "protocol": protocol, "data": data} | options
    _write(folder / "config.json", config)
    _write(folder / "manifest.json", {"data": {"dir": data["dir"], "fingerprint": trained_on}, "protocol": protocol})
    about = {name: config[name] for name in ("method", "au_weight", "seed", "protocol")}
    about["data"] = {"dir": data["dir"], "fingerprint": evaluated_on, "about": made}
    for split in splits:
        evaluation = folder / "eval" / split
        evaluation.mkdir(parents=True)
        columns = make_columns(rng, au_weight)
        _write(evaluation / "metrics.json", make_metrics(columns) | about | {"split": split})
        _write_table(evaluation / "examples.csv", _example_rows(columns, attributes))
        np.savez(evaluation / "maps.npz", **make_maps(rng, columns))
        if split == "validation":
            fitted = {"temperature": 1.25, "split": split, "checkpoint": CHECKPOINT, "data": about["data"]}
            _write(folder / CALIBRATION, fitted)
        if faithfulness:
            labels = columns["expression"], columns["predicted"]
            measured, rows = fake_interventions.make(rng, *labels, MAPS, au_weight)
            _write(evaluation / "faithfulness.json", measured | {"checkpoint": CHECKPOINT, "data": about["data"]})
            _write_table(evaluation / "faithfulness.csv", iter(rows))
    lines = [line for epoch in (1, 2, 3) for line in _log(epoch, au_weight)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def change_metrics(folder: pathlib.Path, **values: Any) -> None:
    """Replaces entries of the evaluation's metrics.json."""
    path = folder / "eval" / "test" / "metrics.json"
    _write(path, json.loads(path.read_text()) | values)


def change_maps(folder: pathlib.Path, **arrays: np.ndarray | None) -> None:
    """Replaces arrays of the evaluation's maps.npz, `sample__cam` for sample/cam and so on; None takes one out."""
    path = folder / "eval" / "test" / "maps.npz"
    with np.load(path) as archive:
        maps = dict(archive) | {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(path, **{name: array for name, array in maps.items() if array is not None})


def change_rows(folder: pathlib.Path, change: Callable[[Row], Iterable[Row]], *, of: str = "examples") -> None:
    """Replaces every row of the evaluation's examples.csv, or faithfulness.csv, by those that `change` makes of it."""
    path = folder / "eval" / "test" / f"{of}.csv"
    with path.open(newline="") as file:
        rows = [new for old in csv.DictReader(file) for new in change(old)]
    _write_table(path, iter(rows))


def repeat_faces(folder: pathlib.Path, *, named: bool) -> pathlib.Path:
    """Puts every face into the evaluation twice: as one person's, or as if nobody knew whose; returns the folder."""

    def twice(row: Row) -> list[Row]:
        who = {"group": f"person {int(row['index']):03}" if named else ""} if "group" in row else {}
        return [row | who, row | who | {"index": str(int(row["index"]) + 1000)}]

    for table in ("examples", "faithfulness"):
        if (folder / "eval" / "test" / f"{table}.csv").is_file():
            change_rows(folder, twice, of=table)
    return folder


def labels() -> np.ndarray:
    """The true expressions: PER_CLASS faces of each, in order."""
    return np.repeat(np.arange(7), PER_CLASS)


def make_columns(rng: np.random.Generator, au_weight: float) -> Columns:
    """The columns of examples.csv as arrays: alignment makes the scores of maps better by 0.2."""
    true, shift = labels(), 0.2 * (au_weight > 0)
    logits = rng.normal(size=(len(true), 7)) + 1.5 * np.eye(7)[true]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    columns = {"expression": true, "predicted": logits.argmax(1), "probability": probability.max(1), "logits": logits}
    columns |= {f"cosine/{name}": rng.uniform(0.3, 0.7, len(true)) + shift for name in MAPS}
    for of in ("label", "predicted"):
        columns |= {
            f"{of}:{name}:{score}": rng.uniform(0.1, 0.7, len(true)) + shift for name in MAPS for score in SCORES
        }
    return columns


def make_metrics(columns: Columns) -> dict[str, Any]:
    """The content of metrics.json but for what the run says of itself."""
    true, predicted = columns["expression"], columns["predicted"]
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (true, predicted), 1)
    per_class = {}
    for k, name in enumerate(EXPRESSIONS):
        mean = {which: float(columns[f"cosine/{which}"][true == k].mean()) if k else None for which in MAPS}
        per_class[name] = {
            "num_examples": PER_CLASS,
            "num_maps": PER_CLASS if k else 0,
            "accuracy": float(confusion[k, k] / PER_CLASS),
            "cam_cos": mean["cam"],
            "att_cos": {layer: mean[f"attention/{layer}"] for layer in LAYERS},
            "baselines": {which: value if k else None for which, value in BASELINES.items()},
        }
    accuracy = float((predicted == true).mean())
    counts = np.maximum(confusion.sum(0) + confusion.sum(1), 1)
    return {
        "num_examples": 7 * PER_CLASS,
        "num_maps": 6 * PER_CLASS,
        "cl": accuracy,
        "balanced_accuracy": accuracy,  # all expressions have as many faces
        "macro_f1": float((2 * confusion.diagonal() / counts).mean()),
        "cam_cos": float(columns["cosine/cam"][true > 0].mean()),
        "att_cos": {layer: float(columns[f"cosine/attention/{layer}"][true > 0].mean()) for layer in LAYERS},
        "cam_without_pattern": 0,
        "att_without_pattern": dict.fromkeys(LAYERS, 0),
        "map_scores": {of: _map_scores(columns, of) for of in ("label", "predicted")},
        "baseline_scores": dict.fromkeys(("label", "predicted"), BASELINE_SCORES),
        "attention_layer": "layer5",
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "expressions": list(EXPRESSIONS),
        "baselines": BASELINES,
        "codebook": "FACS",
        "checkpoint": CHECKPOINT,
        "versions": VERSIONS,
    }


def _map_scores(columns: Columns, of: str) -> dict[str, dict[str, float]]:
    mapped = columns["expression"] > 0
    return {name: {score: float(columns[f"{of}:{name}:{score}"][mapped].mean()) for score in SCORES} for name in MAPS}


def make_maps(rng: np.random.Generator, columns: Columns) -> dict[str, np.ndarray]:
    """The content of maps.npz, the maps of all faces left out: two sample faces of each expression, and a gallery."""
    true = columns["expression"]
    sample = np.flatnonzero(np.arange(len(true)) % PER_CLASS < 2)
    by_confidence = np.argsort(-columns["probability"])
    right = (true == columns["predicted"])[by_confidence]
    sure = by_confidence[right]
    gallery = np.concatenate(
        [by_confidence[~right][:12], sure if len(sure) <= 12 else sure[[*range(6), *range(-6, 0)]]]
    )
    count = np.full(7, PER_CLASS)
    return {
        **{f"sample/{name}": value for name, value in _faces(rng, columns, sample).items() if name != "probability"},
        **{f"gallery/{name}": value for name, value in _faces(rng, columns, gallery).items()},
        **{f"class_mean/attention/{layer}": rng.random((7, 4, 4), np.float32) for layer in LAYERS},
        "class_mean/cam": rng.random((7, 4, 4), np.float32),
        "class_mean/au_map": rng.random((7, SIZE, SIZE), np.float32),
        "class_count": count,
        "class_map_count": count * (np.arange(7) > 0),
    }


def _faces(rng: np.random.Generator, columns: Columns, index: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "index": index,
        "image": np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8)[:, None, None], (len(index), 1, SIZE, 3)),
        "au_map": rng.random((len(index), SIZE, SIZE)).astype(np.float16),
        "has_map": columns["expression"][index] > 0,
        "attention": rng.random((len(index), 4, 4)).astype(np.float16),
        "cam": rng.normal(size=(len(index), 4, 4)).astype(np.float16),
        **{name: columns[name][index] for name in ("expression", "predicted", "probability")},
    }


def _example_rows(columns: Columns, attributes: bool) -> Iterator[dict[str, Any]]:
    """The rows of examples.csv. Three faces of four are of women; half are of either age."""
    scores = [name for name in columns if name.startswith(("label:", "predicted:"))]
    for face, (true, predicted) in enumerate(zip(columns["expression"], columns["predicted"], strict=True)):
        row = {"index": face, "id": f"test/{face}", "group": ""}
        row |= {"expression": EXPRESSIONS[true], "predicted": EXPRESSIONS[predicted]}
        row |= {"probability": f"{columns['probability'][face]:.6g}", "correct": int(true == predicted)}
        row |= {"has_map": int(true > 0)}
        mapped = {"cam_cos": columns["cosine/cam"][face]}
        mapped |= {f"att_cos_{layer}": columns[f"cosine/attention/{layer}"][face] for layer in LAYERS}
        row |= {name: f"{value:.6g}" if true else "" for name, value in mapped.items()} | {"without_pattern": ""}
        row |= {f"baseline:{name}": f"{value:.6g}" if true else "" for name, value in BASELINES.items()}
        row |= {f"logit:{name}": f"{columns['logits'][face, k]:.6g}" for k, name in enumerate(EXPRESSIONS)}
        row |= {name: f"{columns[name][face]:.6g}" if true else "" for name in scores}
        if attributes:
            row |= {"attribute:gender": "female" if face % 4 else "male", "attribute:age": ("4-19", "20-39")[face % 2]}
        yield row


def _log(epoch: int, au_weight: float) -> list[dict[str, Any]]:
    train = {"kind": "train", "epoch": epoch, "step": 20 * epoch, "cross_entropy": 2.0 / epoch}
    train |= {"alignment": 0.5 / epoch} if au_weight else {}
    score = {"accuracy": 0.2 * epoch, "att_cos_by_layer": dict.fromkeys(LAYERS, 0.1 * epoch)}
    return [train, {"kind": "validation", "epoch": epoch, "step": 20 * epoch, "split": "validation", **score}]


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _write_table(path: pathlib.Path, rows: Iterator[dict[str, Any]]) -> None:
    lines = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
