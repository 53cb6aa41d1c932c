"""Explanations as data: explanations.json and explanations.csv.

explanations.jsonl has, after a line about the command, a line {"explanation": ...} or {"problem": ...} for each result,
written as they come. explanations.json has the same, an object with
  model          `ModelFacts.facts`: workdir, method, au_weight, input_size (pixels a side), codebook, aus (FACS numbers
                 by expression), attention_layer, checkpoint, temperature, alignment ("five-point",
                 "five-point/reference", "five-point unless cropped" or "none"), training_data, notes (why probabilities
                 are not calibrated), aujax (its version),
                 and evaluation of this checkpoint, or null: split, model_selection ("validation" or "test"),
                 num_examples, accuracy with its 95 % interval low, high (or null), chance (the accuracy of always
                 predicting the most frequent label)
  explanations   one object per face: image, second (null for a photograph), face and faces (its rank from 1, and how
                 many were detected), box [left, top, right, bottom] and landmarks (68 pairs or null) in pixels of the
                 photograph, predicted, probability, probabilities by expression, precision of the predicted expression
                 on the evaluated split (or null: correct, count, value and its 95 % interval low, high), text,
                 warnings, degenerate (maps that are constant or not finite), control_drop (drop of the probability when
                 equal areas elsewhere are occluded, or null), attention_outside (fraction of the attention outside the
                 face, or null) and regions: aus, place, target_aus, area, attention, cam (or null) and
                 probability_drop, as in `explanation.Region`; [] without landmarks
  problems       one object per photograph that could not be explained: image, second, reason

Intervals allow for several images of one person; their ends are null where there are too few people.

explanations.csv has a row per face. Its columns attention:AU1, cam:AU1, probability_drop:AU1, ... hold the values of
the region of each action unit; precision is a sentence with count, split and interval; empty cells are missing values.
"""

import contextlib
import csv
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import aujax
from aujax import codebook
from aujax.data.face_crops import Problem
from aujax.explain.explain import Model
from aujax.explain.explanation import Explanation
from aujax.results import schema

_SPLIT = "test"


class ModelFacts(NamedTuple):
    """The model behind explanations as data, and how often its predictions of an expression are correct.

    `precision` has "correct", "count", "value", "low" and "high" by predicted expression; {} if not evaluated.
    """

    facts: dict[str, Any]
    precision: dict[str, dict[str, Any]]

    def precision_sentence(self, expression: str) -> str:
        """Returns the precision of the prediction `expression` as a sentence; "" if it is not known."""
        if expression not in self.precision:
            return ""
        precision = self.precision[expression]
        return (
            f"Of this model's predictions of {expression} on the {_SPLIT} split, {precision['correct']} of "
            f"{precision['count']} were correct: {percent(precision)}."
        )


def percent(share: Mapping[str, Any]) -> str:
    """Returns a share with its 95 % interval, if it has one.

    >>> percent({"value": 0.8, "low": 0.49, "high": 0.943}), percent({"value": 0.5, "low": None, "high": None})
    ('80 % (95 % interval 49 to 94 %)', '50 %')
    """
    text = f"{100 * share['value']:.0f} %"
    if share["low"] is None:
        return text
    return f"{text} (95 % interval {100 * share['low']:.0f} to {100 * share['high']:.0f} %)"


def model_facts(model: Model, align: str) -> ModelFacts:
    """Returns the facts about a model whose faces were aligned according to `align` (see `explain.alignment_of`)."""
    run = model.run
    config = run.config
    evaluation = None
    precision = {}
    if model.workdir is not None:
        # Without an evaluation, or with a damaged one, nothing is reported.
        with contextlib.suppress(ValueError, LookupError, TypeError):
            evaluated = schema.open_run(model.workdir, _SPLIT)
            if evaluated.metadata["checkpoint"]["step"] == run.checkpoint["step"]:
                evaluation, precision = _accuracy(evaluated)
    facts = {
        "workdir": str(model.workdir or ""),
        "method": config.method,
        "au_weight": config.au_weight,
        "input_size": config.input_size,
        "codebook": config.codebook,
        "aus": dict(codebook.load(config.codebook).aus),
        "attention_layer": run.attention_layer,
        "checkpoint": run.checkpoint,
        "temperature": model.temperature,
        "alignment": align,
        "training_data": run.manifest["data"].get("dir") or run.manifest["data"].get("name") or "unknown",
        "notes": model.notes,
        "aujax": aujax.__version__,
        "evaluation": evaluation,
    }
    return ModelFacts(facts, precision)


def _accuracy(run: schema.EvaluatedRun) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the facts about an evaluation, with its accuracy, and the precision of each expression."""
    accuracy = run.interval("accuracy")
    evaluation = {
        "split": run.split,
        "model_selection": run.metadata["model_selection"],
        "num_examples": len(run.faces),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "chance": run.chance("accuracy"),
    }
    precision = {}
    for name in run.expressions:
        group = {"attribute": "predicted", "group": name}
        share = run.interval("accuracy", **group)
        if share.value is not None:
            count, _ = run.tables.count("accuracy", **group)
            precision[name] = _rounded({"correct": round(share.value * count), "count": count, **share._asdict()})
    return _rounded(evaluation), precision


def write_json(
    path: pathlib.Path, explanations: Iterable[dict[str, Any]], problems: Iterable[Problem], model: ModelFacts
) -> None:
    """Writes explanations.json, one face after the other; `explanations` are those of `as_data`."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"model": {json.dumps(model.facts)}')
        for name, items in (("explanations", explanations), ("problems", (problem._asdict() for problem in problems))):
            file.write(f',\n"{name}": [')
            for number, item in enumerate(items):
                file.write(("," if number else "") + "\n" + json.dumps(item))
            file.write("]")
        file.write("}\n")


def write_csv(path: pathlib.Path, explanations: Iterable[dict[str, Any]], model: ModelFacts) -> None:
    """Writes explanations.csv, with columns for the action units of the model's codebook, one face after the other."""
    aus = codebook.load(model.facts["codebook"]).all_aus
    with path.open("w", newline="", encoding="utf-8") as file:
        for index, data in enumerate(explanations):
            row = {name: data[name] for name in ("image", "second", "face", "faces")}
            for side, edge in zip(("left", "top", "right", "bottom"), data["box"], strict=True):
                row[side] = round(edge, 1)
            row |= {name: data[name] for name in ("predicted", "probability")}
            row |= {f"probability:{name}": value for name, value in data["probabilities"].items()}
            regions = {number: region for region in data["regions"] for number in region["aus"]}
            for column in ("attention", "cam", "probability_drop"):
                for number in aus:
                    row[f"{column}:AU{number}"] = regions[number][column] if number in regions else None
            row |= {
                "control_drop": data["control_drop"],
                "attention_outside": data["attention_outside"],
                "precision": model.precision_sentence(data["predicted"]),
                "model_selection": (model.facts["evaluation"] or {}).get("model_selection", ""),
                "warnings": "; ".join(data["warnings"]),
                "text": data["text"],
            }
            writer = csv.DictWriter(file, list(row))
            if index == 0:
                writer.writeheader()
            writer.writerow(row)


def as_data(explanation: Explanation, model: ModelFacts) -> dict[str, Any]:
    """Returns the explanation as an object of explanations.json."""
    fields = explanation._asdict()
    for name in ("thumbnail", "aligned", "attention", "cam", "au_map"):
        del fields[name]
    fields["predicted"] = fields.pop("expression")
    fields["precision"] = model.precision.get(explanation.expression)
    fields["regions"] = [region._asdict() for region in explanation.regions]
    if explanation.landmarks is not None:
        fields["landmarks"] = explanation.landmarks.astype(float).round(2).tolist()
    # Six digits would not distinguish the frames of a long video.
    return _rounded(fields) | {"second": explanation.second}


def _rounded(data: dict[str, Any]) -> dict[str, Any]:
    """Returns data as JSON holds them, with six significant digits of floats, as many as float32 has."""
    return json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.6g}"))
