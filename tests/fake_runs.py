"""Run folders as train.py and eval.py leave them, made from random numbers in milliseconds."""

import json
import pathlib
from typing import Any

import numpy as np

from aujax.codebook import EXPRESSIONS

LAYERS = ("layer4", "layer5")
SIZE = 32  # pixels per side of the sample's pictures
PER_CLASS = 4  # faces of each expression; Neutral has no AU map
VERSIONS = {"python": "3.11.0", "jax": "0.10.2"}


def make_run(folder: pathlib.Path, *, au_weight: float = 0.0, seed: int = 0, **options: Any) -> pathlib.Path:
    """Writes a run folder with an evaluation on the split "test" and returns it.

    `options` are set in config.json, but for `trained_on` and `evaluated_on` (fingerprints of the data sets).
    """
    rng = np.random.default_rng((seed, int(au_weight)))
    evaluation = folder / "eval" / "test"
    evaluation.mkdir(parents=True)
    trained_on, evaluated_on = options.pop("trained_on", "aaaa"), options.pop("evaluated_on", "eeee")
    data = {"dir": options.pop("data_dir", "data/faces"), "read_threads": 4}
    _write(folder / "config.json", {"method": "CAM", "au_weight": au_weight, "seed": seed, "data": data} | options)
    _write(folder / "manifest.json", {"data": {"dir": data["dir"], "fingerprint": trained_on}})
    predicted = rng.integers(0, 7, 7 * PER_CLASS)
    _write(evaluation / "metrics.json", make_metrics(rng, predicted, au_weight, evaluated_on))
    np.savez(evaluation / "maps.npz", **make_maps(rng, predicted))
    lines = [line for epoch in (1, 2, 3) for line in _log(epoch, au_weight)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def change_metrics(folder: pathlib.Path, **values: Any) -> None:
    """Replaces entries of the evaluation's metrics.json."""
    path = folder / "eval" / "test" / "metrics.json"
    _write(path, json.loads(path.read_text()) | values)


def change_maps(folder: pathlib.Path, **arrays: np.ndarray | None) -> None:
    """Replaces arrays of the evaluation's maps.npz, `sample_cam` for sample/cam and so on; None takes one out."""
    path = folder / "eval" / "test" / "maps.npz"
    with np.load(path) as archive:
        maps = dict(archive) | {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(path, **{name: array for name, array in maps.items() if array is not None})


def labels() -> np.ndarray:
    """The true expressions: PER_CLASS faces of each, in order."""
    return np.repeat(np.arange(7), PER_CLASS)


def make_metrics(rng: np.random.Generator, predicted: np.ndarray, au_weight: float, fingerprint: str) -> dict[str, Any]:
    """The content of metrics.json."""
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (labels(), predicted), 1)
    per_class = {}
    for name in EXPRESSIONS:
        mapped = name != "Neutral"
        cosine = (lambda: float(rng.uniform(0.3, 0.9))) if mapped else (lambda: None)
        per_class[name] = {
            "num_examples": PER_CLASS,
            "num_maps": PER_CLASS if mapped else 0,
            "accuracy": confusion[EXPRESSIONS.index(name)].max() / PER_CLASS,
            "cam_cos": cosine(),
            "att_cos": {layer: cosine() for layer in LAYERS},
            "baselines": {"uniform": cosine()},
        }
    return {
        "split": "test",
        "num_examples": 7 * PER_CLASS,
        "num_maps": 6 * PER_CLASS,
        "cl": float((predicted == labels()).mean()),
        "balanced_accuracy": float(rng.uniform(0.3, 0.9)),
        "cam_cos": float(rng.uniform(0.3, 0.9)),
        "att_cos": {layer: float(rng.uniform(0.3, 0.9)) for layer in LAYERS},
        "cam_without_pattern": 0,
        "att_without_pattern": dict.fromkeys(LAYERS, 0),
        "attention_layer": "layer5",
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "expressions": list(EXPRESSIONS),
        "baselines": {"uniform": 0.4711, "centred_gaussian": 0.5522, "all_au_map": 0.7233},
        "codebook": "FACS",
        "method": "CAM",
        "au_weight": au_weight,
        "seed": 0,
        "checkpoint": {"step": 40, "epoch": 2, "which": "best"},
        "data": {"dir": "data/faces", "fingerprint": fingerprint},
        "versions": VERSIONS,
    }


def make_maps(rng: np.random.Generator, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The content of maps.npz, the maps of all faces left out: two sample faces of each expression."""
    index = np.flatnonzero(np.arange(7 * PER_CLASS) % PER_CLASS < 2)
    expression = labels()[index]
    pictures = np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8)[:, None, None], (len(index), 1, SIZE, 3))
    count = np.full(7, PER_CLASS)
    return {
        "sample/index": index,
        "sample/image": pictures,
        "sample/au_map": rng.random((len(index), SIZE, SIZE)).astype(np.float16),
        "sample/has_map": expression > 0,
        "sample/attention": rng.random((len(index), 4, 4)).astype(np.float16),
        "sample/cam": rng.normal(size=(len(index), 4, 4)).astype(np.float16),
        "sample/expression": expression,
        "sample/predicted": predicted[index],
        **{f"class_mean/attention/{layer}": rng.random((7, 4, 4), np.float32) for layer in LAYERS},
        "class_mean/cam": rng.random((7, 4, 4), np.float32),
        "class_mean/au_map": rng.random((7, SIZE, SIZE), np.float32),
        "class_count": count,
        "class_map_count": count * (np.arange(7) > 0),
    }


def _log(epoch: int, au_weight: float) -> list[dict[str, Any]]:
    train = {"kind": "train", "epoch": epoch, "step": 20 * epoch, "cross_entropy": 2.0 / epoch}
    train |= {"alignment": 0.5 / epoch} if au_weight else {}
    cosines = dict.fromkeys(LAYERS, 0.1 * epoch)
    return [train, {"kind": "validation", "epoch": epoch, "step": 20 * epoch, "cl": 0.2 * epoch, "att_cos": cosines}]


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
