"""From values per face to the summary: every metric with its interval, overall, by expression and by attribute."""

import collections
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from aujax import files
from aujax.results import calibration, schema, statistics
from aujax.results.registry import ATTENTION, BASELINE, BASELINE_MAPS, HEADLINE, METRICS, Faces, by_topic
from aujax.results.schema import ScoreKey, Scores
from aujax.results.statistics import Interval

MIN_GROUP = 20  # faces; of a smaller group no number is given


# Faces of which numbers are given: what they are grouped by (see `schema.SUMMARY_COLUMNS`) and its value, "" for all;
# their rows; keys of metrics, of which those are given that are computed from predictions; and scores to average.
_Group = tuple[str, str, Int[np.ndarray, " members"], Collection[str], Scores]


def summarize(
    faces: Faces,
    scores: Scores,
    expressions: Sequence[str],
    *,
    attributes: Mapping[str, Sequence[str]] | None = None,
    classifier: bool = True,
    resampled: bool = True,
) -> pd.DataFrame:
    """Returns the summary table, `schema.SUMMARY_COLUMNS`.

    Args:
      faces: the predictions.
      scores: values per face, of metrics that are aggregated over faces or classes.
      expressions: names of the classes.
      attributes: further groups of faces, a value per face; "" where a face has none.
      classifier: whether to include metrics that are computed from `faces`.
      resampled: whether to compute intervals.
    """
    attributes = attributes or {}
    rows = []
    for attribute, name, members, metrics, own in _groups(faces, scores, expressions, attributes):
        subset = faces.subset(members)
        numbers = []
        if attribute in attributes and len(members) < MIN_GROUP:
            numbers.append((ScoreKey("accuracy"), Interval(), subset.subjects))
        else:
            for key in metrics:
                compute = METRICS[key].compute
                if classifier and compute and len(members):
                    for condition, interval in compute(subset, resampled).items():
                        numbers.append((ScoreKey(key, condition=condition), interval, subset.subjects))
            numbers += _averages(subset, {key: values[members] for key, values in own.items()}, resampled)
        for key, interval, subjects in numbers:
            counts = len(subjects), statistics.count_subjects(subjects)
            rows.append((*key, attribute, name, *interval, *counts))
    return pd.DataFrame(rows, columns=list(schema.SUMMARY_COLUMNS))


def _groups(
    faces: Faces, scores: Scores, expressions: Sequence[str], attributes: Mapping[str, Sequence[str]]
) -> Iterator[_Group]:
    """Yields all faces, and those of every expression, prediction, bin of confidence and value of an attribute."""
    yield "", "", np.arange(len(faces.expression)), METRICS, scores
    by_expression = [key for key, metric in METRICS.items() if metric.by_expression]
    for attribute, target, classes in (
        ("expression", "label", faces.expression),
        ("predicted", "predicted", faces.predicted),
    ):
        own = {
            key: values
            for key, values in scores.items()
            if key.metric in by_expression and target == (key.target or "label")
        }
        for number, name in enumerate(expressions):
            yield attribute, name, np.flatnonzero(classes == number), by_expression, own
    for name, temperature in faces.temperatures().items():
        bins = calibration.bin_index(faces.confidence(temperature))
        for number in np.unique(bins):
            edge, members = f"{number / calibration.BINS:.4g}", np.flatnonzero(bins == number)
            yield f"{name} confidence", edge, members, ("accuracy", "confidence"), {}
    headline = {
        key: values
        for key, values in scores.items()
        if key.metric in HEADLINE or (key.metric == "cosine" and key.map in BASELINE_MAPS)
    }
    for attribute, values in attributes.items():
        # Attributes such as a file name, of which hardly two faces share a value, form no groups.
        if max(collections.Counter(name for name in values if name).values(), default=0) >= MIN_GROUP:
            for name in sorted(set(values), key=_natural_order):
                yield attribute, name, np.flatnonzero(np.array(values) == name), HEADLINE, headline


def _averages(faces: Faces, scores: Scores, resampled: bool) -> list[tuple[ScoreKey, Interval, np.ndarray]]:
    """Returns the mean of every score, with the subjects of the faces that have a value.

    Scores known for the same faces share their resamples: one matrix product for all.
    """
    batches = collections.defaultdict(list)
    for key, values in scores.items():
        batches[METRICS[key.metric].aggregation, key.target, (~np.isnan(values)).tobytes()].append(key)
    found = {}
    for (aggregation, target, known_bytes), keys in batches.items():
        rows = np.flatnonzero(np.frombuffer(known_bytes, bool))
        columns = np.stack([scores[key][rows] for key in keys], axis=1).astype(float)
        classes = faces.predicted if target == "predicted" else faces.expression
        statistic = statistics.mean(columns)
        if aggregation == "classes" and len(rows):
            statistic = statistics.macro_mean(columns, classes[rows])
        subjects = faces.subjects[rows]
        options = {"subjects": subjects, "resampled": resampled}
        intervals = statistics.bootstrap_columns(statistic, len(rows), len(keys), **options)
        found |= {key: (key, interval, subjects) for key, interval in zip(keys, intervals, strict=True)}
    return [found[key] for key in scores]


def _natural_order(group: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts 4-19 before 20-39, and the group of faces without a value last."""
    parts = re.findall(r"\d+|\D+", group)
    return not group, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def headline(summary: pd.DataFrame, maps: Mapping[str, str]) -> dict[str, Any]:
    """Returns the main numbers by key, `att_cos_by_layer`, and the cosines of the baseline maps; None if missing."""
    index = schema.index_summary(summary)

    def value(metric: str, map: str = "", target: str = "") -> float | None:
        return index.get((*ScoreKey(metric, map, target), "", ""), Interval()).value

    numbers: dict[str, Any] = {key: value(key) for key in HEADLINE}
    for name, kind in (("att_cos_by_layer", ATTENTION), ("baselines", BASELINE)):
        numbers[name] = {map: value("cosine", map, "label") for map in maps if maps[map] == kind}
    return numbers


def per_expression(summary: pd.DataFrame, expressions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns the main numbers of each expression, for metrics.json."""
    rows = schema.select(summary, attribute="expression").set_index(["group", "metric"])
    values = rows["value"].astype(object).where(rows["value"].notna(), None).to_dict()
    faces = rows["faces"].to_dict()
    by_expression = [key for key, metric in METRICS.items() if metric.headline and metric.by_expression]
    return {
        name: {
            "num_faces": faces.get((name, "accuracy"), 0),
            "num_maps": faces.get((name, "att_cos"), 0),
            **{key: values.get((name, key)) for key in by_expression},
        }
        for name in expressions
    }


def confusion_matrix(faces: Faces, classes: int) -> Int[np.ndarray, "true predicted"]:
    """Returns how many faces of each expression (row) were predicted as each expression (column)."""
    return np.bincount(classes * faces.expression + faces.predicted, minlength=classes**2).reshape(classes, classes)


def write_evaluation(
    directory: pathlib.Path,
    metadata: Mapping[str, Any],
    faces: pd.DataFrame,
    maps: Mapping[str, np.ndarray | schema.StreamedArray],
    *,
    validation: tuple[Faces, float] | None = None,
) -> None:
    """Completes an evaluation whose scores were written: faces.csv, maps.npz, summary.csv and, last, metrics.json.

    Args:
      directory: RUN/eval/<split>.
      metadata: split, method, expressions, maps (name to kind), temperature and what else describes the evaluation.
      faces: the table of faces.csv.
      maps: the arrays of maps.npz.
      validation: predictions on the validation split and their temperature, for the operating point.
    """
    expressions = metadata["expressions"]
    remedy = "evaluate the run again"
    faces.to_csv(directory / schema.FACES, index=False)
    schema.write_maps(directory / schema.MAPS, maps)
    scores = schema.read_scores(directory / schema.SCORES, faces["face"].tolist(), remedy=remedy)
    for metric in by_topic("agreement"):
        values = faces[metric.key].to_numpy(np.float32)
        if (~np.isnan(values)).any():
            scores[ScoreKey(metric.key)] = values
    predictions = schema.predictions(faces, expressions, temperature=metadata["temperature"]["value"])
    attributes = {name: values.tolist() for name, values in schema.attributes(faces).items()}
    table = summarize(predictions, scores, expressions, attributes=attributes)
    table.to_csv(directory / schema.SUMMARY, index=False)
    numbers = {
        "num_faces": len(faces),
        "num_maps": int(faces["has_map"].sum()),
        **headline(table, metadata["maps"]),
        "per_expression": per_expression(table, expressions),
        "confusion_matrix": confusion_matrix(predictions, len(expressions)).tolist(),
        "operating_point": _operating_point(predictions, validation),
    }
    files.write_json(directory / schema.METADATA, {"schema_version": schema.VERSION, **metadata, **numbers})


def write_faithfulness(directory: pathlib.Path, metadata: Mapping[str, Any], faces: Faces, scores: Scores) -> None:
    """Completes a measurement of faithfulness whose scores were written: its summary and, last, faithfulness.json."""
    table = summarize(faces, scores, metadata["expressions"], classifier=False)
    table.to_csv(directory / schema.FAITHFULNESS_SUMMARY, index=False)
    files.write_json(directory / schema.FAITHFULNESS, {"schema_version": schema.VERSION, **metadata})


def _operating_point(faces: Faces, validation: tuple[Faces, float] | None) -> dict[str, Any] | None:
    """Returns the threshold for the target accuracy on the validation split, and what it gives on these faces."""
    if validation is None:
        return None
    fitted_on, temperature = validation
    wanted = calibration.TARGET_ACCURACY
    threshold = calibration.threshold_for_accuracy(fitted_on.confidence(temperature), fitted_on.correct, wanted)
    point = {"target_accuracy": wanted, "threshold": threshold, "coverage": None, "accuracy": None}
    if threshold is not None:
        accepted = faces.confidence(temperature) >= threshold
        accuracy = statistics.accuracy_interval(faces.correct[accepted], subjects=faces.subjects[accepted])
        point |= {"coverage": float(accepted.mean()), "accuracy": accuracy._asdict()}
    return point
