"""Explanations as data: explanations.json and explanations.csv.

explanations.json is an object with
  model          workdir, method, au_weight, codebook, aus (FACS numbers by expression), attention_layer, checkpoint,
                 temperature, align ("five-point", "five-point unless cut out" or "none"), notes (on files that were
                 left aside), aujax (its version), and evaluation of this checkpoint, or null: split, protocol,
                 num_examples, accuracy with its 95 % interval low, high (Wilson's, faces of different people)
  explanations   one object per face: photo, second (null: no video), face and faces (this one, from 1, of how many),
                 box [left, top, right, bottom] and landmarks (68 pairs or null) in pixels of the photograph, predicted,
                 probability, probabilities by expression, record (how often the model was right when it gave this
                 answer on the split, or null: right, count, share with low and high), text, warnings, flat (maps
                 without pattern), control (loss of probability by hiding as much elsewhere, or null), outside (share
                 of the attention outside the face, or null) and regions: aus, place, listed, area, attention, cam (or
                 null) and effect, as in `explanation.Region`; [] without landmarks
  problems       one object per photograph that could not be explained: photo, second, reason

explanations.csv has a row per face. Its columns attention:AU1, cam:AU1, effect:AU1, ... give each action unit that of
its region; its column record has the record in words, with split and interval, and protocol that of the evaluation;
empty is missing.
"""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from aujax.data.photos import Problem
from aujax.explain.background import Background, Record
from aujax.explain.explanation import Explanation


def write_json(
    path: pathlib.Path, explanations: Sequence[Explanation], problems: Sequence[Problem], about: Background
) -> None:
    """Writes explanations.json."""
    content = {
        "model": about.facts,
        "explanations": [_entry(one, about.records.get(one.expression)) for one in explanations],
        "problems": [{"photo": one.photo, "second": one.second, "reason": one.reason} for one in problems],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _entry(one: Explanation, record: Record | None) -> dict[str, Any]:
    return {
        "photo": one.photo,
        "second": one.second,
        "face": one.face,
        "faces": one.faces,
        "box": list(one.box),
        "landmarks": None if one.landmarks is None else one.landmarks.astype(float).round(2).tolist(),
        "predicted": one.expression,
        "probability": _digits(one.probability),
        "probabilities": {name: _digits(value) for name, value in one.probabilities.items()},
        "record": _record(record) if record and record.count else None,
        "text": one.text,
        "warnings": list(one.warnings),
        "flat": list(one.flat),
        "control": _digits(one.control),
        "outside": _digits(one.outside),
        "regions": [
            {
                "aus": list(region.aus),
                "place": region.place,
                "listed": list(region.listed),
                "area": _digits(region.area),
                "attention": _digits(region.attention),
                "cam": _digits(region.cam),
                "effect": _digits(region.effect),
            }
            for region in one.regions
        ],
    }


def _record(record: Record) -> dict[str, Any]:
    share, low, high = map(_digits, record.share)
    return {"right": record.right, "count": record.count, "share": share, "low": low, "high": high}


def write_csv(
    path: pathlib.Path, explanations: Sequence[Explanation], about: Background, *, aus: Sequence[int]
) -> None:
    """Writes explanations.csv, with columns for the action units `aus`."""
    rows = [_row(one, about, aus) for one in explanations]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _row(one: Explanation, about: Background, aus: Sequence[int]) -> dict[str, Any]:
    record, evaluation = about.records.get(one.expression), about.facts["evaluation"] or {}
    regions = {number: region for region in one.regions for number in region.aus}
    columns = {
        f"{name}:AU{number}": _digits(getattr(regions.get(number), name, None))
        for name in ("attention", "cam", "effect")
        for number in aus
    }
    return {
        "photo": one.photo,
        "second": one.second,
        "face": one.face,
        "faces": one.faces,
        **{name: round(edge, 1) for name, edge in zip(("left", "top", "right", "bottom"), one.box, strict=True)},
        "predicted": one.expression,
        "probability": _digits(one.probability),
        **{f"probability:{name}": _digits(value) for name, value in one.probabilities.items()},
        **columns,
        "control": _digits(one.control),
        "outside": _digits(one.outside),
        "record": record.sentence(one.expression) if record else "",
        "protocol": evaluation.get("protocol", ""),
        "warnings": "; ".join(one.warnings),
        "text": one.text,
    }


def _digits(value: float | None) -> float | None:
    """Returns six significant digits: what float32 holds."""
    return None if value is None else float(f"{value:.6g}")
