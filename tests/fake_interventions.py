"""What `eval.py --faithfulness` leaves in a run folder, made from random numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from aujax.codebook import EXPRESSIONS, FACS

USE = ("in_codebook", "outside", "control", "top_in_codebook", "chance_in_codebook")
STAGES = ("head", "stage4", "stage3", "stage2", "stage1", "stem")
KINDS = ("deletion", "insertion", "road")
Columns = dict[str, np.ndarray]


def make(
    rng: np.random.Generator, expression: np.ndarray, predicted: np.ndarray, maps: Sequence[str], au_weight: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the content of faithfulness.json and the rows of faithfulness.csv: alignment makes own AUs matter."""
    drop, use = _drops(rng, predicted, au_weight)
    areas = {f"{kind}:{name}": rng.uniform(0.2, 0.6, len(predicted)) for kind in KINDS for name in (*maps, "random")}
    alike = _similarities(maps)
    rows = []
    for face, (true, answer) in enumerate(zip(expression, predicted, strict=True)):
        row = {"index": face, "expression": EXPRESSIONS[true], "predicted": EXPRESSIONS[answer]}
        row |= {name: f"{use[name][face]:.6g}" if answer else "" for name in USE}
        row |= {f"AU{unit}": f"{each:.6g}" for unit, each in zip(FACS.all_aus, drop[face], strict=True)}
        row |= {name: f"{area[face]:.6g}" for name, area in areas.items()}
        rows.append(row | {f"{a}:{b}:{c}": value for a, by in alike.items() for b in by for c, value in by[b].items()})
    return _content(rng, predicted, maps, drop, use) | alike, rows


def _drops(rng: np.random.Generator, predicted: np.ndarray, au_weight: float) -> tuple[np.ndarray, Columns]:
    """By how much the predicted class's probability drops, a row per face, and what is made of that."""
    inside = np.array([[unit in FACS.aus[EXPRESSIONS[k]] for unit in FACS.all_aus] for k in predicted])
    drop = rng.normal(0.02, 0.02, inside.shape) + inside * (0.15 if au_weight else 0.03)
    mean = [np.where(where, drop, 0).sum(1) / np.maximum(where.sum(1), 1) for where in (inside, ~inside)]
    control = rng.normal(0.02, 0.01, len(predicted))
    top = np.take_along_axis(inside, drop.argmax(1)[:, None], 1)[:, 0].astype(float)
    return drop, dict(zip(USE, (*mean, control, top, inside.mean(1)), strict=True))


def _similarities(maps: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        "randomisation": {stage: dict.fromkeys(maps, 0.9 - 0.1 * n) for n, stage in enumerate(STAGES)},
        "stability": {change: dict.fromkeys(maps, 0.9) | {"agreement": 0.95} for change in ("flip", "shift")},
    }


def _content(
    rng: np.random.Generator, predicted: np.ndarray, maps: Sequence[str], drop: np.ndarray, use: Columns
) -> dict[str, Any]:
    drops = {}
    for k, name in enumerate(EXPRESSIONS):
        shown = (predicted == k).any()
        mean = drop[predicted == k].mean(0) if shown else drop[0]
        drops[name] = {f"AU{n}": float(each) if shown else None for n, each in zip(FACS.all_aus, mean, strict=True)}
    fractions = np.linspace(0, 1, 5)
    curves = {kind: {name: _curve(rng, fractions, kind) for name in (*maps, "random")} for kind in KINDS}
    about = {"num_examples": len(predicted), "filling": "blur", "temperature": 1.25, "codebook": "FACS"}
    about["aus"] = list(FACS.all_aus)
    means = {name: float(use[name][predicted > 0].mean()) for name in USE}  # Neutral has no own AUs
    return about | {"interventions": {"drop": drops, **means}, "curves": {"fractions": fractions.tolist(), **curves}}


def _curve(rng: np.random.Generator, fractions: np.ndarray, kind: str) -> dict[str, Any]:
    curve = 0.8 * (fractions if kind == "insertion" else 1 - fractions) ** rng.uniform(0.5, 2)
    return {"curve": curve.tolist(), "area": float(np.trapezoid(curve, fractions))}
