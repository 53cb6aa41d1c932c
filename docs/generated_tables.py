"""Markdown tables that the guides include, written from the package: options, metrics, files of an evaluation."""

import pathlib

from aujax.config import OPTIONS
from aujax.results import schema
from aujax.results.registry import METRICS, Metric

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
    """Writes metrics.md, files.md and options.md."""
    folder.mkdir(exist_ok=True)
    tables = {"metrics": metrics_tables(), "files": column_tables(), "options": option_tables()}
    for name, text in tables.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def metrics_tables() -> str:
    """Returns a table of the metrics for each topic."""
    text = ""
    for topic in dict.fromkeys(metric.topic for metric in METRICS.values()):
        text += f"**{TOPICS[topic]}**\n\n"
        text += "| metric, key | definition | unit | mean over | value of a constant map or prediction | better |\n"
        text += "| --- | --- | --- | --- | --- | --- |\n"
        for metric in METRICS.values():
            if metric.topic == topic:
                name = f"{metric.title} `{metric.key}`"
                unit, mean = UNITS[metric.unit], AGGREGATIONS[metric.aggregation]
                text += _row(name, metric.definition, unit, mean, _chance(metric), DIRECTIONS[metric.direction])
        text += "\n"
    return text


def _chance(metric: Metric) -> str:
    if callable(metric.chance):
        return "depends on the class counts"
    return "" if metric.chance is None else f"{metric.chance:g}"


def column_tables() -> str:
    """Returns a table of the columns of each of an evaluation's files."""
    text = ""
    for name, columns in (
        (schema.FACES, schema.FACE_COLUMNS),
        (schema.SCORES, schema.SCORE_COLUMNS),
        (schema.SUMMARY, schema.SUMMARY_COLUMNS),
    ):
        text += f"**{name}**\n\n| column | content |\n| --- | --- |\n"
        text += "".join(_row(f"`{column}`", content) for column, content in columns.items()) + "\n"
    return text


def option_tables() -> str:
    """Returns a table of the options for each of their groups, such as `optimizer`."""
    groups: dict[str, str] = {}
    for name, option in OPTIONS.items():
        group = name.rpartition(".")[0]
        expected = option.check.expected if option.check else ""
        row = _row(f"`{name}`", f"`{option.default!r}`", option.about, expected)
        groups[group] = groups.get(group, "") + row
    text = ""
    for group, rows in groups.items():
        text += f"**{group or 'run'}**\n\n| option | default | meaning | values |\n| --- | --- | --- | --- |\n"
        text += f"{rows}\n"
    return text


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"
