"""The numbers of metrics.json, from one row per evaluated face."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from aujax import metrics, statistics

BASELINES = ("uniform", "centred_gaussian", "class_mean_au_map", "all_au_map")  # maps that any network must beat
SCORED_BASELINES = ("uniform", "centred_gaussian", "all_au_map")  # those that know nothing of a class

Columns = dict[str, np.ndarray]


def summarize(columns: Columns, expressions: Sequence[str]) -> dict[str, Any]:
    """Returns accuracy, confusion, cosines and how many maps show nothing, from one row per face.

    A cosine without any face is None.
    """
    expression, predicted, has_map = columns["expression"], columns["predicted"], columns["has_map"]
    confusion = metrics.confusion_matrix(expression, predicted, len(expressions))
    recall, counts = metrics.per_class_mean((expression == predicted).astype(float), expression, len(expressions))
    per_class = {
        name: {"num_examples": int(counts[k]), "accuracy": float(recall[k]) if counts[k] else None}
        for k, name in enumerate(expressions)
    }
    cosines = {}
    for column in (name for name in columns if name.startswith("cosine/")):
        name = column.removeprefix("cosine/")
        means, mapped = metrics.per_class_mean(
            columns[column][has_map].astype(float), expression[has_map], len(expressions)
        )
        values = {label: float(means[k]) if mapped[k] else None for k, label in enumerate(expressions)}
        cosines[name] = _mean(values.values())
        for k, label in enumerate(expressions):
            per_class[label] |= {"num_maps": int(mapped[k])}
            _nest(per_class[label], name, values[label])
    summary: dict[str, Any] = {
        "num_examples": len(expression),
        "num_maps": int(has_map.sum()),
        "cl": float((expression == predicted).mean()),
        "balanced_accuracy": float(recall[counts > 0].mean()),
        "macro_f1": statistics.macro_f1(expression, predicted),
        "cam_cos": None,
    }
    for name, value in cosines.items():
        _nest(summary, name, value)
    summary |= _without_pattern(columns)
    if "has_predicted_map" in columns:
        ways = {"label": (expression, has_map), "predicted": (predicted, columns["has_predicted_map"])}
        for name, maps in (("map_scores", read_maps(columns)), ("baseline_scores", SCORED_BASELINES)):
            summary[name] = {of: _map_scores(of, maps, columns, *way) for of, way in ways.items()}
    return summary | {"per_class": per_class, "confusion_matrix": confusion.tolist(), "expressions": list(expressions)}


def _without_pattern(columns: Columns) -> dict[str, Any]:
    """Returns the number of faces whose CAM (None: there are no CAMs), and whose attention, is flat or not finite."""
    counts = {name: int((~columns[f"informative/{name}"]).sum()) for name in read_maps(columns)}
    attention = {name.removeprefix("attention/"): count for name, count in counts.items() if name != "cam"}
    return {"cam_without_pattern": counts.get("cam"), "att_without_pattern": attention}


def _map_scores(
    of: str, maps: Sequence[str], columns: Columns, classes: np.ndarray, where: np.ndarray
) -> dict[str, dict[str, float | None]]:
    """Returns the mean of every score per class and then over classes, by map, over the faces `where` there is one."""

    def mean(values: np.ndarray) -> float | None:
        means, counts = metrics.per_class_mean(values[where].astype(float), classes[where], int(classes.max()) + 1)
        return _mean(means[counts > 0].tolist())

    return {name: {score: mean(columns[f"{of}:{name}:{score}"]) for score in metrics.SCORES} for name in maps}


def read_maps(columns: Iterable[str]) -> list[str]:
    """Returns which maps were read from the network, by their names in maps.npz, given the names of the columns."""
    return [name.removeprefix("informative/") for name in columns if name.startswith("informative/")]


def _nest(target: dict[str, Any], name: str, value: float | None) -> None:
    """Files a cosine as metrics.json names it: `cam_cos`, `att_cos[layer]` or `baselines[name]`."""
    kind, _, layer = name.partition("/")
    if kind == "attention":
        target.setdefault("att_cos", {})[layer] = value
    elif name in BASELINES:
        target.setdefault("baselines", {})[name] = value
    else:
        target[f"{name}_cos"] = value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
