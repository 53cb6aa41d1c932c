"""How maps agree with AU maps beyond the cosine: the scores of metrics.json in a table, and what they mean."""

from collections.abc import Sequence

from aujax.report import tables
from aujax.report.evaluations import Evaluation
from aujax.report.tables import Table

SCORES = {
    "pointing": ("Pointing game", "the share of faces on which the highest place of the map lies in the AU region"),
    "energy": ("Energy inside", "the share of the map's total that falls into the AU region"),
    "iou": ("IoU", "intersection over union of the AU region and as large an area of the map's highest values"),
    "auc": ("AUC", "how well the map's values tell places inside the AU region from others (0.5: not at all)"),
    "correlation": ("Correlation", "the cosine after the mean of both maps is taken off: a flat map has none"),
}
CLASSES = {
    "label": "Maps of the **true** expression, against its AU map",
    "predicted": "Maps of the **predicted** expression, against that one's AU map",
}


def table(shown: Sequence[Evaluation], of: str) -> Table:
    """Returns the scores of every map of every evaluation, for the class of the label or for the predicted one."""
    names = ["Map", *(["Run"] if len(shown) > 1 else [])]
    rows = []
    for name in dict.fromkeys(name for one in shown for name in one.metrics["map_scores"][of]):
        for one in shown:
            if (row := one.metrics["map_scores"][of].get(name)) is not None:
                about = [map_name(name), one.name][: len(names)]
                rows.append([*about, *(tables.cosine(row[score]) for score in SCORES)])
    return Table([*names, *(name for name, _ in SCORES.values())], rows, left=len(names))


def explanation() -> list[str]:
    """Returns what each score means, a line each."""
    region = "**AU region**: where the AU map is at least half as high as it can be, the outline of its ellipses."
    return [region, *(f"**{name}**: {words}." for name, words in SCORES.values())]


def map_name(name: str) -> str:
    """Returns the name of a map to show."""
    return "CAM" if name == "cam" else f"Attention, {name.removeprefix('attention/')}"
