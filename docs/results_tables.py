"""Markdown tables that the guides include: the metrics and the files of an evaluation, written from `aujax.results`."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

TOPICS = {
    "classification": "Classification",
    "agreement": "Agreement with the AU map: the main numbers",
    "maps": "Agreement of each map, and of the baseline maps, with the AU map",
    "calibration": "Calibration and selective prediction",
    "reliance": "Reliance on action units (`--faithfulness`)",
    "perturbation": "Perturbation curves (`--faithfulness`)",
    "sanity": "Sanity checks (`--faithfulness`)",
}
UNITS = {"percent": "%", "score": "", "points": "percentage points", "likelihood": ""}
AGGREGATIONS = {"faces": "faces", "classes": "faces, then expressions", "function": "see definition"}
DIRECTIONS = {1: "higher", -1: "lower", 0: ""}


def write(folder: pathlib.Path) -> None:
    """Writes metrics.md and files.md; without the module `aujax.results`, a note in place of each table."""
    folder.mkdir(exist_ok=True)
    try:
        registry = importlib.import_module("aujax.results.registry")
        schema = importlib.import_module("aujax.results.schema")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("aujax.results"):
            raise
        note = "*This version has no `aujax.results`, from which this table is generated.*\n"
        metrics, files = note, note
    else:
        metrics, files = metrics_tables(registry.METRICS), column_tables(schema)
    (folder / "metrics.md").write_text(metrics, encoding="utf-8")
    (folder / "files.md").write_text(files, encoding="utf-8")


def metrics_tables(metrics: Mapping[str, Any]) -> str:
    """Returns a table of the metrics for each topic."""
    text = ""
    for topic in dict.fromkeys(metric.topic for metric in metrics.values()):
        text += f"**{TOPICS.get(topic, topic)}**\n\n"
        text += "| metric | key | definition | unit | mean over | uninformative value | better |\n"
        text += "| --- | --- | --- | --- | --- | --- | --- |\n"
        for metric in metrics.values():
            if metric.topic == topic:
                unit, mean = UNITS.get(metric.unit, metric.unit), AGGREGATIONS.get(metric.aggregation, "")
                cells = (metric.title, f"`{metric.key}`", metric.definition, unit, mean, _chance(metric))
                text += f"| {' | '.join(map(_cell, (*cells, DIRECTIONS[metric.direction])))} |\n"
        text += "\n"
    return text


def _chance(metric: Any) -> str:
    if callable(metric.chance):
        return "depends on the class counts"
    return "" if metric.chance is None else f"{metric.chance:g}"


def column_tables(schema: Any) -> str:
    """Returns a table of the columns of each of an evaluation's files."""
    text = ""
    for name, columns in (
        (schema.FACES, schema.FACE_COLUMNS),
        (schema.SCORES, schema.SCORE_COLUMNS),
        (schema.SUMMARY, schema.SUMMARY_COLUMNS),
    ):
        text += f"**{name}**\n\n| column | content |\n| --- | --- |\n"
        text += "".join(f"| `{column}` | {_cell(content)} |\n" for column, content in columns.items()) + "\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
