"""Charts of numbers: training curves, the confusion matrix, the class x layer cosine matrix."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aujax.report.sheet import GREY, LARGE, LINES, NORMAL, SMALL, STYLES, Sheet

Path = str | pathlib.Path
Log = Sequence[Mapping[str, Any]]
# Maps that need no network, to compare: what they are, and above a narrow column.
TRIVIAL = {
    "uniform": ("flat map", "Flat\nmap"),
    "centred_gaussian": ("Gaussian in the middle", "Gaussian in\nthe middle"),
    "all_au_map": ("all action units at once", "All action\nunits"),
    "class_mean_au_map": ("average AU map of the true expression", "Average\nAU map"),
}
_CELL_WIDTH, _CELL_HEIGHT = 0.95, 0.5  # inches


def confusion(counts: Sequence[Sequence[int]], expressions: Sequence[str], path: Path, *, title: str) -> pathlib.Path:
    """Draw the confusion matrix (rows: true) with counts and percent of each row; return the path of the picture."""
    table = np.asarray(counts)
    totals = table.sum(axis=1, keepdims=True)
    share = table / np.maximum(totals, 1)
    words = [
        [f"{count}\n{100 * part:.0f} %" if total else "0" for count, part in zip(row, parts, strict=True)]
        for row, parts, total in zip(table, share, totals[:, 0], strict=True)
    ]
    rows = [f"{name} ({total})" for name, total in zip(expressions, totals[:, 0], strict=True)]
    matrix = _Matrix(share, words, rows, list(expressions), "true expression (faces)", "predicted expression")
    return _draw(matrix, "Blues", title, "share of the faces with that true expression", ("0 %", "100 %"), path)


def cosines(metrics: Mapping[str, Any], path: Path, *, title: str) -> pathlib.Path:
    """Draw the cosines of `TRIVIAL` maps, ATT-COS and CAM-COS by expression, with their average; return the path.

    `metrics` is the content of metrics.json. Expressions without a map (Neutral) have no row.
    """
    layers = list(metrics["att_cos"])
    classes = metrics["per_class"]
    rows = [name for name in metrics["expressions"] if classes[name]["num_maps"]]
    values = [_cosine_row(line, layers) for line in (*(classes[name] for name in rows), metrics)]
    words = [["–" if value is None else f"{value:.2f}" for value in row] for row in values]
    share = np.array([[np.nan if value is None else value for value in row] for row in values], float)
    labels = [f"{name} ({classes[name]['num_maps']})" for name in rows] + ["Average"]
    columns = [
        *(narrow for _, narrow in TRIVIAL.values()),
        *(f"Attention\n({layer})" for layer in layers),
        "Class activation\nmap",
    ]
    matrix = _Matrix(share, words, labels, columns, "expression (faces with a map)", "")
    return _draw(matrix, "Greens", title, "cosine with the action-unit map", ("0", "1"), path, average=True)


def loss_curves(logs: Mapping[str, Log], path: Path, *, layers: Mapping[str, str]) -> pathlib.Path:
    """Draw losses, and the numbers of the split that chose the epoch, by epoch and run; return the path of the picture.

    Args:
      logs: the lines of log.jsonl by name of the run.
      path: of the picture.
      layers: the layer whose attention cosine is drawn, by name of the run.
    """
    sheet = Sheet(10.4, 6.6 + 0.22 * len(logs))
    sheet.text(0.7, 0.12, "Training", fontsize=LARGE, weight="bold")
    chosen_on = " and ".join(sorted({_split(line) for log in logs.values() for line in log} - {""}))
    charts = (
        ("Cross-entropy (training)", "train", lambda line, _: line.get("cross_entropy")),
        ("Alignment loss, 1 − cosine (training)", "train", lambda line, _: line.get("alignment")),
        (f"Accuracy ({chosen_on})", "validation", lambda line, _: line.get("accuracy")),
        (f"Attention's cosine with the AU map ({chosen_on})", "validation", _attention_cosine),
    )
    handles = {}
    for place, (heading, kind, read) in enumerate(charts):
        axes = sheet.axes(0.7 + 5.1 * (place % 2), 0.75 + 3.1 * (place // 2), 4.4, 2.4)
        axes.set_title(heading, fontsize=NORMAL, loc="left")
        for number, (name, log) in enumerate(logs.items()):
            points = [(line["epoch"], read(line, layers[name])) for line in log if line["kind"] == kind]
            points = [point for point in points if point[1] is not None]
            if points:
                colour, dashes = LINES[number % len(LINES)], STYLES[number % len(STYLES)]
                marker = "o" if len(points) < 40 else ""
                (handles[name],) = axes.plot(*zip(*points, strict=True), dashes, color=colour, marker=marker, ms=3)
        _finish(axes, bounded=kind == "validation", empty="no run was trained with alignment" if place == 1 else "")
    corner = (0.55 / sheet.width, 0)
    sheet.figure.legend(
        handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=corner, fontsize=SMALL, frameon=False
    )
    return sheet.save(path)


class _Matrix(NamedTuple):
    """Numbers in [0, 1] (NaN: none), what stands in each cell, and the names around them."""

    share: np.ndarray
    words: list[list[str]]
    rows: list[str]
    columns: list[str]
    rows_are: str
    columns_are: str


def _draw(
    matrix: _Matrix, colours: str, title: str, note: str, ends: tuple[str, str], path: Path, *, average: bool = False
) -> pathlib.Path:
    height, width = (size * side for size, side in zip(matrix.share.shape, (_CELL_HEIGHT, _CELL_WIDTH), strict=True))
    left, top = 1.9, 0.6
    sheet = Sheet(left + max(width, 4.6) + 0.2, top + height + 1.25)
    sheet.text(0.15, 0.12, title, fontsize=LARGE, weight="bold")
    axes = sheet.axes(left, top, width, height)
    axes.imshow(matrix.share, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor("0.9")  # seen through cells that are NaN
    for row, column in np.ndindex(matrix.share.shape):
        colour = "white" if matrix.share[row, column] > 0.6 else "black"
        axes.text(column, row, matrix.words[row][column], ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_xticks(range(len(matrix.columns)), matrix.columns, fontsize=SMALL)
    axes.set_yticks(range(len(matrix.rows)), matrix.rows, fontsize=SMALL)
    axes.tick_params(length=0)
    axes.set_xlabel(matrix.columns_are, fontsize=NORMAL)
    sheet.text(0.15, top + height / 2, matrix.rows_are, fontsize=NORMAL, rotation=90, va="center")
    if average:
        axes.axhline(len(matrix.rows) - 1.5, color="black", linewidth=1.5)
        axes.axvline(len(TRIVIAL) - 0.5, color="black", linewidth=1.5)
    sheet.colour_bar(left, top + height + 0.75, *ends, note, colours=colours)
    return sheet.save(path)


def _cosine_row(values: Mapping[str, Any], layers: Sequence[str]) -> list[float | None]:
    """The cosines of maps without a network, of the layers, and of CAM; None for what does not exist."""
    trivial = (values.get("baselines", {}).get(name) for name in TRIVIAL)
    return [*trivial, *(values["att_cos"][layer] for layer in layers), values.get("cam_cos")]


def _split(line: Mapping[str, Any]) -> str:
    """The split that chooses the epoch: validation or, with the paper's protocol, test."""
    return line.get("split", "validation") if line["kind"] == "validation" else ""


def _attention_cosine(line: Mapping[str, Any], layer: str) -> float | None:
    return line.get("att_cos_by_layer", {}).get(layer)


def _finish(axes: Any, *, bounded: bool, empty: str) -> None:
    axes.set_xlabel("epoch", fontsize=SMALL)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    top = 1 if bounded else max((line.get_ydata().max() for line in axes.lines), default=0) * 1.08
    axes.set_ylim(0, top or 1)
    if not axes.lines and empty:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color=GREY, fontsize=NORMAL)
