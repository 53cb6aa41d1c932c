"""Explanations as data: explanations.json and explanations.csv.

explanations.json is an object with
  model          `ModelFacts.facts`: workdir, method, au_weight, input_size (pixels a side), codebook, aus (FACS numbers
                 by expression), attention_layer, checkpoint, temperature, alignment ("five-point", "five-point unless
                 cropped" or "none"), training_data, notes (on files that were ignored), aujax (its version), and
                 evaluation of this checkpoint, or null: split, model_selection ("validation", "test" or as found),
                 num_examples, accuracy with its 95 % interval low, high (Wilson's, images as independent)
  explanations   one object per face: image, second (null for a photograph), face and faces (its rank from 1, and how
                 many were detected), box [left, top, right, bottom] and landmarks (68 pairs or null) in pixels of the
                 photograph, predicted, probability, probabilities by expression, precision of the predicted expression
                 on the evaluated split (or null: correct, count, value, low, high), text, warnings, degenerate (maps
                 that are constant or not finite), control_drop (drop of the probability when equal areas elsewhere are
                 occluded, or null), attention_outside (fraction of the attention outside the face, or null) and
                 regions: aus, place, target_aus, area, attention, cam (or null) and probability_drop, as in
                 `explanation.Region`; [] without landmarks
  problems       one object per photograph that could not be explained: image, second, reason

explanations.csv has a row per face. Its columns attention:AU1, cam:AU1, probability_drop:AU1, ... hold the values of
the region of each action unit; precision is a sentence with count, split and interval; empty cells are missing values.
"""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import aujax
from aujax import codebook
from aujax.data.face_crops import Problem
from aujax.explain.explain import Model, attention_layer
from aujax.explain.explanation import Explanation
from aujax.results.statistics import accuracy_interval

_SPLIT = "test"
# The values of `model_selection` in metrics.json, by the option's values in runs made before.
_MODEL_SELECTION = {"heldout": "validation", "paper": "test"}


class Precision(NamedTuple):
    """How often a predicted expression was correct: `correct` of `count` predictions on the test split."""

    correct: int
    count: int

    def data(self) -> dict[str, Any]:
        """Returns the counts and the fraction with Wilson's 95 % interval, which takes images as independent."""
        value, low, high = _rounded(accuracy_interval(np.arange(self.count) < self.correct))
        return {"correct": self.correct, "count": self.count, "value": value, "low": low, "high": high}

    def sentence(self, expression: str) -> str:
        """Returns the precision of the prediction `expression` as a sentence; "" if it was never predicted."""
        if not self.count:
            return ""
        images = "1 image" if self.count == 1 else f"{self.count} images"
        return (
            f"Of {images} of the {_SPLIT} split that this model classified as {expression}, {percent(self.data())} "
            f"{'was' if self.count == 1 else 'were'} labelled {expression}."
        )


class ModelFacts(NamedTuple):
    """The model behind explanations as data, and its precision by predicted expression ({} if not evaluated)."""

    facts: dict[str, Any]
    precision: dict[str, Precision]


def percent(data: dict[str, Any]) -> str:
    """Returns a fraction with its interval, as `Precision.data` has them.

    >>> percent({"value": 0.8, "low": 0.49, "high": 0.943})
    '80 % [49, 94]'
    """
    return f"{100 * data['value']:.0f} % [{100 * data['low']:.0f}, {100 * data['high']:.0f}]"


def model_facts(model: Model, align: str) -> ModelFacts:
    """Returns the facts about a model whose faces were aligned as `align` says (see `explain.alignment_of`)."""
    run = model.run
    config = run.config
    evaluation, precision = _evaluation(model)
    facts = {
        "workdir": str(model.workdir or ""),
        "method": config.method,
        "au_weight": config.au_weight,
        "input_size": config.input_size,
        "codebook": config.codebook,
        "aus": {name: list(numbers) for name, numbers in codebook.load(config.codebook).aus.items()},
        "attention_layer": attention_layer(run),
        "checkpoint": run.checkpoint,
        "temperature": model.temperature,
        "alignment": align,
        "training_data": run.manifest["data"].get("dir") or run.manifest["data"].get("name") or "unknown",
        "notes": list(model.notes),
        "aujax": aujax.__version__,
        "evaluation": evaluation,
    }
    return ModelFacts(facts, precision)


def _evaluation(model: Model) -> tuple[dict[str, Any] | None, dict[str, Precision]]:
    """Returns the accuracy and the precisions on the test split; (None, {}) if this checkpoint was not evaluated."""
    if model.workdir is None:
        return None, {}
    try:
        metrics = json.loads((model.workdir / "eval" / _SPLIT / "metrics.json").read_text())
        names = list(metrics["expressions"])
        matrix = np.array(metrics["confusion_matrix"], np.int64)
        step = metrics["checkpoint"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}
    if step != model.run.checkpoint["step"] or matrix.shape != (len(names), len(names)) or not matrix.sum():
        return None, {}
    precision = {name: Precision(int(matrix[i, i]), int(matrix[:, i].sum())) for i, name in enumerate(names)}
    overall = Precision(int(matrix.trace()), int(matrix.sum())).data()
    selection = metrics.get("model_selection") or metrics.get("protocol") or "unknown"
    evaluation = {
        "split": _SPLIT,
        "model_selection": _MODEL_SELECTION.get(selection, selection),
        "num_examples": overall["count"],
        "accuracy": overall["value"],
        "low": overall["low"],
        "high": overall["high"],
    }
    return evaluation, precision


def write_json(
    path: pathlib.Path, explanations: Sequence[Explanation], problems: Sequence[Problem], model: ModelFacts
) -> None:
    """Writes explanations.json."""
    content = {
        "model": model.facts,
        "explanations": [_as_data(explanation, model) for explanation in explanations],
        "problems": [problem._asdict() for problem in problems],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(path: pathlib.Path, explanations: Sequence[Explanation], model: ModelFacts) -> None:
    """Writes explanations.csv, with columns for the action units of the model's codebook."""
    aus = codebook.load(model.facts["codebook"]).all_aus
    rows = []
    for explanation in explanations:
        data = _as_data(explanation, model)
        precision = model.precision.get(explanation.expression)
        row = {name: data[name] for name in ("image", "second", "face", "faces")}
        row |= {
            side: round(edge, 1) for side, edge in zip(("left", "top", "right", "bottom"), data["box"], strict=True)
        }
        row |= {"predicted": data["predicted"], "probability": data["probability"]}
        row |= {f"probability:{name}": value for name, value in data["probabilities"].items()}
        regions = {number: region for region in data["regions"] for number in region["aus"]}
        for column in ("attention", "cam", "probability_drop"):
            for number in aus:
                row[f"{column}:AU{number}"] = regions[number][column] if number in regions else None
        row |= {"control_drop": data["control_drop"], "attention_outside": data["attention_outside"]}
        row["precision"] = precision.sentence(explanation.expression) if precision else ""
        row["model_selection"] = (model.facts["evaluation"] or {}).get("model_selection", "")
        row["warnings"] = "; ".join(explanation.warnings)
        row["text"] = explanation.text
        rows.append(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _as_data(explanation: Explanation, model: ModelFacts) -> dict[str, Any]:
    """Returns the explanation as an object of explanations.json."""
    fields = explanation._asdict()
    for name in ("thumbnail", "aligned", "attention", "cam", "au_map"):
        del fields[name]
    precision = model.precision.get(explanation.expression)
    fields["predicted"] = fields.pop("expression")
    fields["precision"] = precision.data() if precision and precision.count else None
    fields["regions"] = [region._asdict() for region in explanation.regions]
    if explanation.landmarks is not None:
        fields["landmarks"] = explanation.landmarks.astype(float).round(2).tolist()
    return _rounded(fields)


def _rounded(value: Any) -> Any:
    """Returns the value, and those inside it, with floats rounded to six significant digits, as float32 holds."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
