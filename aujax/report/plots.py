"""Every figure, as PNG or SVG files: faces with maps, confusion, cosines, training, calibration, occlusions.

Figures are made without pyplot, so that nothing of matplotlib's global state is read or changed. The colours of lines
are those of Okabe and Ito (2008), which colour-blind people can distinguish; lines also differ in their dashes.
"""

import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from aujax import codebook, run_files
from aujax.report import faces, html
from aujax.report.faces import HEAT, matplotlib
from aujax.report.tables import Where, map_title, number
from aujax.results import calibration
from aujax.results.registry import BASELINE_MAPS, BASELINE_ORDERINGS, METRICS, by_topic
from aujax.results.schema import EvaluatedRun

DPI = 120
SMALL, NORMAL, LARGE = 8, 9, 11  # points
GRAY = "0.35"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
SIGNED = "PuOr_r"  # orange for positive, violet for negative values
_SIDE = 1.25  # inches of an image


def new_figure(width: float, height: float, *, title: str, note: str = "", rows: int = 1, columns: int = 1) -> Any:
    """Returns a matplotlib figure of that size in inches, and its axes, (rows, columns)."""
    figure = matplotlib().figure.Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.suptitle(_wrap(title, int(10 * width)), x=0.01, ha="left", fontsize=LARGE, fontweight="bold")
    figure.supxlabel(_wrap(note, int(16 * width)), x=0.01, ha="left", fontsize=SMALL, color=GRAY)
    axes = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.tick_params(labelsize=SMALL)
    return figure, axes


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def style(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Labels axes that hold curves, and gives them a light grid."""
    axes.set_title(title, fontsize=NORMAL, loc="left")
    axes.set_xlabel(x, fontsize=SMALL)
    axes.set_ylabel(y, fontsize=SMALL)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a figure as PNG or SVG, by the suffix of the path; the same figure always gives the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Laid out once, here: otherwise every file would be drawn twice, first without output.
    for _ in range(2):  # images of equal aspect move the labels beside them: the second layout has room for these
        figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    with matplotlib().rc_context({"svg.hashsalt": "aujax"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def draw_evaluation(run: EvaluatedRun) -> list[pathlib.Path]:
    """Draws the figures of an evaluation into RUN/eval/<split>/figures and returns their paths."""
    folder = run.directory / "figures"
    paths = [
        panels([run], folder / "panels.png"),
        class_means([run], folder / "class_means.png"),
        confusion(run, folder / "confusion.png"),
        cosines(run, folder / "cosines.png"),
    ]
    return [path for path in paths if path]


def confusion(run: EvaluatedRun, path: pathlib.Path) -> pathlib.Path:
    """Draws the confusion matrix, in counts and percent of each row."""
    counts = np.array(run.metadata["confusion_matrix"])
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows, texts = [], []
    for name, row, total in zip(run.expressions, counts, totals, strict=True):
        rows.append(f"{name} ({total})")
        texts.append([f"{count}\n{100 * (count / total):.0f} %" if total else "0" for count in row])
    accuracy, count = 100 * run.metadata["accuracy"], run.metadata["num_faces"]
    title = f"{run.name}: {accuracy:.1f} % of {count} predictions correct\n{run.label}"
    figure, axes = _heat_map(
        shares, texts, rows, run.expressions, title=title, colours="Blues",
        meaning="share of the faces with that label",
    )  # fmt: skip
    axes.set_ylabel("label (faces)", fontsize=NORMAL)
    axes.set_xlabel("predicted expression", fontsize=NORMAL)
    return save(figure, path)


def cosines(run: EvaluatedRun, path: pathlib.Path) -> pathlib.Path:
    """Draws the cosine of every map with the AU map by expression; expressions without AU maps have no row."""
    maps = [*BASELINE_MAPS, *(name for name in run.metadata["maps"] if name not in BASELINE_MAPS)]
    counts = {name: numbers["num_maps"] for name, numbers in run.metadata["per_expression"].items()}
    groups = [{"attribute": "expression", "group": name} for name, count in counts.items() if count]
    values = []
    for where in (*groups, {}):
        values.append([run.interval("cosine", map=name, target="label", **where).value for name in maps])
    texts = [["–" if value is None else f"{value:.2f}" for value in row] for row in values]
    figure, axes = _heat_map(
        np.array(values, float), texts, [f"{where['group']} ({counts[where['group']]})" for where in groups] + ["Mean"],
        [textwrap.fill(map_title(name), 12) for name in maps], colours="Greens",
        title=f"{run.name}: agreement with the AU map\n{run.label}", meaning="cosine with the AU map",
    )  # fmt: skip
    axes.set_ylabel("label (faces with an AU map)", fontsize=NORMAL)
    axes.axhline(len(groups) - 0.5, color="black", linewidth=1.5)
    axes.axvline(len(BASELINE_MAPS) - 0.5, color="black", linewidth=1.5)
    return save(figure, path)


def probability_drops(run: EvaluatedRun, targets: Mapping[str, Sequence[int]], path: pathlib.Path) -> pathlib.Path:
    """Draws the mean probability drop by occluded action unit (rows) and predicted expression (columns).

    Args:
      run: with faithfulness.
      targets: the target AUs of each expression; their cells are framed.
      path: of the figure.
    """
    aus = run.faithfulness.metadata["aus"]
    values = np.array(
        [[run.interval(**drop_of(name), condition=f"AU{au}").value for name in run.expressions] for au in aus], float
    )
    extent = float(np.nanmax(abs(values), initial=0.01))
    texts = [[number(value, "points") for value in row] for row in values]
    figure, axes = _heat_map(
        100 * values, texts, [f"AU{au} {codebook.ACTION_UNITS[au].lower()}" for au in aus], run.expressions,
        colours=SIGNED, limits=(-100 * extent, 100 * extent), cell_height=0.3,
        title="Drop of the predicted probability when an action unit is occluded",
        meaning="percentage points; framed: the action unit is a target AU of the predicted expression",
        note=f"{run.name}: {run.label}; {html.sentence('probabilities', run.faithfulness)}",
    )  # fmt: skip
    axes.set_xlabel("predicted expression", fontsize=NORMAL)
    for row, column in np.ndindex(values.shape):
        if aus[row] in targets.get(run.expressions[column], ()):
            x, y = column + 0.46 * np.array([-1, 1, 1, -1, -1]), row + 0.42 * np.array([-1, -1, 1, 1, -1])
            axes.plot(x, y, color="black", linewidth=1.4)
    return save(figure, path)


def drop_of(expression: str) -> Where:
    """Returns which number is the mean probability drop on the faces that are predicted as an expression."""
    return {"metric": "probability_drop", "target": "predicted", "attribute": "predicted", "group": expression}


def _heat_map(
    values: np.ndarray, texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], *, title: str,
    colours: str, meaning: str, note: str = "", limits: tuple[float, float] = (0, 1), cell_height: float = 0.5,
) -> Any:  # fmt: skip
    """Returns a figure and its axes: a coloured matrix, NaN in gray, with a text in each cell and a colour bar."""
    width, height = 0.95 * len(columns) + 2.2, cell_height * len(rows) + 2.0
    figure, ((axes,),) = new_figure(max(width, 6.8), height, title=title, note=note)
    low, high = limits
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set_facecolor("0.9")
    for row, column in np.ndindex(values.shape):
        colour = "white" if abs(values[row, column]) > 0.6 * high else "black"
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=SMALL, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, anchor=(0, 0.5))
    bar.set_label(meaning, fontsize=SMALL, color=GRAY)
    bar.ax.tick_params(labelsize=SMALL)
    return figure, axes


def panels(runs: Sequence[EvaluatedRun], path: pathlib.Path) -> pathlib.Path | None:
    """Draws faces of the fixed sample with AU map, attention and CAM of every run; None if the runs share no face.

    One face of each expression is drawn, two for a single run; they are not selected by result.
    """
    blocks = 2 if len(runs) == 1 else 1
    cards = faces.side_by_side(runs, each=blocks)
    if not cards:
        return None
    note = (
        "Left: label and prediction. Each map is min-max normalised: colours compare places within one image. "
        "Maps are those of the label; expressions without action units, such as Neutral, have no AU map."
    )
    title = f"{runs[0].name}: maps of the network" if blocks == 2 else "Maps of the networks"
    return save(_image_grid(cards, title=title, note=note, ends=("lowest", "highest"), blocks=blocks), path)


def class_means(runs: Sequence[EvaluatedRun], path: pathlib.Path) -> pathlib.Path:
    """Draws the mean AU map, attention and CAM of every expression and run."""
    title = f"{runs[0].name}: mean maps by label" if len(runs) == 1 else "Mean maps by label"
    note = "Mean over faces of min-max normalised maps (0 for degenerate ones). The same scale everywhere."
    return save(_image_grid(faces.class_means(runs), title=title, note=note, ends=("0", "1")), path)


def _image_grid(cards: Sequence[faces.Card], *, title: str, note: str, ends: tuple[str, str], blocks: int = 1) -> Any:
    """Returns a figure with a row of images per card and a colour bar.

    Args:
      cards: all with images of the same kinds.
      title: of the figure.
      note: below it.
      ends: of the colour bar.
      blocks: of rows side by side, over which the cards are dealt in turn.
    """
    columns = []
    for group in cards[0].groups:
        for image in group.images:
            caption = re.sub(r"^face \d+$", "face", image.caption)
            columns.append(_wrap(f"{caption[0].upper()}{caption[1:]}\n{group.name}".replace("/", "\n"), 17))
    rows = []
    for card in cards:
        verdicts = [f"{group.name}: {group.verdict}" for group in card.groups if group.verdict]
        rows.append(_wrap("\n".join([card.heading, *verdicts]), 24))
    width = blocks * (_SIDE * len(columns) + 2.2)
    height = _SIDE * -(-len(cards) // blocks) + 2.2
    figure, axes = new_figure(max(width, 6.8), height, title=title, note=note, columns=blocks)
    # All images of a block are in the same axes, because matplotlib is slow with many.
    for start, block in enumerate(axes.flat):
        block_cards = cards[start::blocks]
        for row, card in enumerate(block_cards):
            for column, image in enumerate(image for group in card.groups for image in group.images):
                extent = (column - 0.48, column + 0.48, row + 0.48, row - 0.48)
                blank = np.full((1, 1, 3), 237, np.uint8)
                pixels = blank if image.pixels is None else image.pixels
                block.imshow(pixels, interpolation="bilinear", extent=extent)
                block.text(column, row, image.reason, ha="center", va="center", fontsize=NORMAL)
        block.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(block_cards) - 0.5, -0.5))
        block.set_xticks(range(len(columns)), columns)
        block.set_yticks(range(len(block_cards)), rows[start::blocks])
        block.tick_params(length=0, labeltop=True, labelbottom=False)
        block.spines[:].set_visible(False)
    scale = matplotlib().cm.ScalarMappable(cmap=HEAT)
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.2, aspect=12, anchor=(0, 0.5), ticks=[0, 1])
    bar.ax.set_xticklabels(ends, fontsize=SMALL)
    return figure


def training(runs: Sequence[EvaluatedRun], path: pathlib.Path) -> pathlib.Path | None:
    """Draws losses and the metrics of the selection split by epoch, a line per run; None if no run has a log."""
    logs = {run.name: pd.DataFrame(run_files.read_log(run.folder / run_files.LOG)) for run in runs}
    known = pd.concat(logs.values())
    if known.empty:
        return None
    selection = " and ".join(sorted(known["split"].dropna().unique())) if "split" in known else "validation"
    # Kind of line in the log, column, title.
    charts = [
        ("train", "cross_entropy", "Cross-entropy (training)"),
        ("train", "alignment", "Alignment loss, 1 − cosine (training)"),
        ("validation", "accuracy", f"{METRICS['accuracy'].title} ({selection})"),
        ("validation", "att_cos_by_layer", f"{METRICS['att_cos'].title} ({selection})"),
    ]
    figure, grid = new_figure(10.4, 6.6 + 0.22 * len(logs), title="Training", rows=2, columns=2)
    lines = {}
    for axes, (kind, column, title) in zip(grid.flat, charts, strict=True):
        style(axes, title=title, x="epoch")
        for position, (name, log) in enumerate(logs.items()):
            log = log.reindex(columns=["kind", "epoch", column])
            points = log[log["kind"] == kind].set_index("epoch")[column].dropna()
            if column == "att_cos_by_layer" and len(points):
                points = points.str.get(runs[position].layer).dropna()
            if len(points):
                marker = "o" if len(points) < 40 else ""
                look = _line(position) | {"marker": marker, "markersize": 3}
                (lines[name],) = axes.plot(points.index, points.astype(float), **look)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1 if kind == "validation" else None)
        if not axes.lines:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GRAY, fontsize=NORMAL)
    figure.legend(lines.values(), lines.keys(), loc="outside lower left", fontsize=SMALL, frameon=False)
    return save(figure, path)


def _line(position: int) -> dict[str, Any]:
    """Returns colour and dashes of a line by its position among the lines."""
    return {"color": LINES[position % len(LINES)], "linestyle": DASHES[position % len(DASHES)]}


def reliability(run: EvaluatedRun, path: pathlib.Path) -> pathlib.Path:
    """Draws reliability diagrams, uncalibrated and, if there is a temperature, calibrated."""
    names = run.tables.rows("confidence")["condition"]
    figure, axes = new_figure(
        4.3 * len(names), 4.5, columns=len(names),
        title="Reliability: accuracy by confidence",
        note=f"Dashed: calibrated probabilities. Bars below: overconfident. Lines: 95 % intervals. {run.name}: "
        f"{run.label}",
    )  # fmt: skip
    for each, name in zip(axes.flat, names, strict=True):
        style(each, title=f"{name.capitalize()} probabilities", x="probability of the prediction", y="accuracy")
        bins = {"attribute": f"{name} confidence"}
        accuracy = run.tables.rows("accuracy", **bins)
        confidence = run.tables.rows("confidence", **bins, condition=name)
        low = accuracy["group"].astype(float)
        each.bar(low, accuracy["value"], 1 / calibration.BINS, align="edge", color=LINES[5], edgecolor="white")
        each.vlines(confidence["value"], accuracy["low"], accuracy["high"], color=LINES[1], linewidth=1)
        each.plot([0, 1], [0, 1], "--", color=GRAY, linewidth=1)
        each.plot(confidence["value"], accuracy["value"], "o", color=LINES[1], markersize=4)
        each.set(xlim=(0, 1), ylim=(0, 1.02))
    return save(figure, path)


def coverage(run: EvaluatedRun, path: pathlib.Path) -> pathlib.Path:
    """Draws the accuracy on the most confident faces, with its interval, by the share of faces that is accepted."""
    figure, ((axes,),) = new_figure(
        6.8, 4.2, title="Selective prediction: accuracy on the most confident faces",
        note=f"Shaded: 95 % intervals. {run.name}: {run.label}",
    )  # fmt: skip
    style(axes, x="coverage: share of the faces that is accepted", y="accuracy on them")
    accuracy = run.tables.rows("selective_accuracy")
    shares = run.tables.rows("selective_coverage")["value"]
    axes.plot(shares, accuracy["value"], "o-", color=LINES[0], markersize=4)
    axes.fill_between(shares, accuracy["low"], accuracy["high"], color=LINES[0], alpha=0.15, linewidth=0)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(max(0.0, accuracy[["value", "low"]].min(axis=None) - 0.1), 1.01)
    return save(figure, path)


def perturbation(run: EvaluatedRun, path: pathlib.Path) -> pathlib.Path:
    """Draws the deletion, insertion and ROAD curves of the reported maps and of baseline orderings."""
    kinds = [metric for metric in by_topic("perturbation") if metric.condition]
    figure, axes = new_figure(
        3.5 * len(kinds), 4.4, columns=len(kinds),
        title="Probability of the predicted expression while regions are occluded or revealed",
        note=f"{run.name}: {run.label}; {html.sentence('probabilities', run.faithfulness)}",
    )  # fmt: skip
    for each, metric in zip(axes.flat, kinds, strict=True):
        style(each, title=f"{metric.title}, most attributed regions first", x="share of the image")
        rows = run.faithfulness.rows(metric.key)
        for position, (name, curve) in enumerate(rows.groupby("map", sort=False)):
            look = _line(position)
            if name in BASELINE_ORDERINGS:
                look = {"color": GRAY, "linestyle": DASHES[1 + list(BASELINE_ORDERINGS).index(name)]}
            each.plot(curve["condition"].astype(float), curve["value"], label=map_title(str(name)), **look)
        each.set_ylim(0, 1.02)
    axes[0, 0].set_ylabel("probability", fontsize=SMALL)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=SMALL, frameon=False)
    return save(figure, path)
