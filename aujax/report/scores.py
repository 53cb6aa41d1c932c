"""How maps agree with AU maps beyond the cosine: the scores of metrics.json in a table, and what they mean."""

import functools
from collections.abc import Sequence

from aujax import statistics
from aujax.report import intervals, tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.intervals import Measured
from aujax.report.seeds import Column
from aujax.report.tables import Table
from aujax.statistics import Interval

SCORES = {
    "pointing": ("Pointing game", "the share of faces on which the highest place of the map lies in the AU region"),
    "energy": ("Energy inside", "the share of the map's total that falls into the AU region"),
    "iou": ("IoU", "intersection over union of the AU region and as large an area of the map's highest values"),
    "mean_iou": (
        "IoU by thresholds",
        "the same of what reaches 0.1, 0.2, ... 0.9 of the map's highest value, averaged",
    ),
    "auc": ("AUC", "how well the map's values tell places inside the AU region from others (0.5: not at all)"),
    "correlation": ("Correlation", "the cosine after the mean of both maps is taken off: a flat map has none"),
}
CLASSES = {
    "label": "Maps of the **true** expression, against its AU map",
    "predicted": "Maps of the **predicted** expression, against that one's AU map",
}


def table(shown: Sequence[Measured], of: str) -> Table:
    """Returns the scores of every map of every run, for the class of the label or for the predicted one.

    Maps that need no network follow; against the AU map of the predicted class they have a row per run, too.
    """
    names = ["Map", *(["Run"] if len(shown) > 1 else [])]
    rows = []
    for name in dict.fromkeys(name for one in shown for name in one.run.metrics["map_scores"][of]):
        for one in shown:
            if name in one.run.metrics["map_scores"][of]:
                about = [map_name(name), one.name][: len(names)]
                rows.append([*about, *(intervals.cosine(_interval(one, of, name, score)) for score in SCORES)])
    scored = [one.run.evaluation for one in shown if "baseline_scores" in one.run.metrics]
    for group in [scored] if of == "label" else [[one] for one in scored]:
        whose = "" if of == "label" else group[0].name
        for name, row in tables.trivial_maps(group, lambda metrics: metrics["baseline_scores"][of]):
            rows.append([*[name, whose][: len(names)], *(tables.cosine(row[score]) for score in SCORES)])
    return Table([*names, *(name for name, _ in SCORES.values())], rows, left=len(names))


def columns(of: str) -> list[Column]:
    """Returns the pointing game and AUC of the reported attention and of the CAM, for several seeds."""

    def read(name: str, score: str, run: EvaluatedRun) -> float | None:
        return run.metrics["map_scores"][of].get(run.evaluation.reported[name], {}).get(score)

    return [
        Column(f"{name}: {SCORES[score][0]}", functools.partial(read, name, score))
        for name in ("Attention", "CAM")
        for score in ("pointing", "auc")
    ]


def _interval(one: Measured, of: str, name: str, score: str) -> Interval | None:
    """The mean per class and then over classes, of the label or predicted, over the faces that have that AU map."""
    values, known = one.examples.numbers(f"{of}:{name}:{score}")
    if not known.any():
        return None
    classes = one.examples.expression if of == "label" else one.examples.predicted
    return statistics.macro_mean_interval(values, classes, where=known, people=one.examples.people)


def explanation() -> list[str]:
    """Returns what each score means, a line each."""
    region = "**AU region**: where the AU map is at least half as high as it can be, the outline of its ellipses."
    return [region, *(f"**{name}**: {words}." for name, words in SCORES.values())]


def map_name(name: str) -> str:
    """Returns the name of a map to show."""
    return "CAM" if name == "cam" else f"Attention, {name.removeprefix('attention/')}"
