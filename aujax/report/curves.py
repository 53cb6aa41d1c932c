"""Charts of curves: reliability, accuracy by coverage, and what happens as more and more of a face is taken away."""

import pathlib
from collections.abc import Mapping
from typing import Any

from aujax.calibration import Coverage, Reliability
from aujax.report.sheet import GREY, LARGE, LINES, NORMAL, SMALL, STYLES, Sheet

_PITCH, _NARROW = 4.3, 3.4  # inches from one chart to the next
Path = str | pathlib.Path
REMOVALS = {
    "deletion": "Deletion: important places first",
    "insertion": "Insertion: important places first",
    "road": "ROAD: imputed, important places first",
}


def reliability(found: Mapping[str, Reliability], path: Path, *, about: str) -> pathlib.Path:
    """Draw a reliability diagram for each kind of probabilities; return the path of the picture.

    `about` stands below the title of every picture here: of which run, split and protocol it is.
    """
    sheet = Sheet(0.9 + 4.3 * max(len(found), 2), 4.5)
    sheet.text(
        0.3, 0.12, "Reliability: how often the answers of each probability are right", fontsize=LARGE, weight="bold"
    )
    _about(sheet, about)
    for place, (title, bins) in enumerate(found.items()):
        axes = _axes(sheet, place, "Probabilities " + title, "probability of the answer", "share that is right")
        known = bins.count > 0
        width = float((bins.high - bins.low)[0])
        axes.bar(bins.low[known], bins.accuracy[known], width, align="edge", color=LINES[0], edgecolor="white")
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
        axes.plot(bins.confidence[known], bins.accuracy[known], "o", color=LINES[1], ms=4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    sheet.text(
        0.3, 4.2, "Dashed: as often right as the probability says. Bars below it: overconfident.", fontsize=SMALL
    )
    return sheet.save(path)


def coverage(found: Mapping[str, Coverage], path: Path, *, about: str) -> pathlib.Path:
    """Draw the share of right answers against the share of faces answered; return the path of the picture."""
    sheet = Sheet(9.5, 4.5)
    sheet.text(
        0.3,
        0.12,
        "Abstention: accuracy on the faces that are answered, the surest first",
        fontsize=LARGE,
        weight="bold",
    )
    _about(sheet, about)
    axes = _axes(sheet, 0, "", "share of the faces answered", "share that is right", width=5.2)
    for number, (title, points) in enumerate(found.items()):
        style = {"color": LINES[number], "linestyle": STYLES[number]}
        axes.plot(points.coverage, points.accuracy, label=title, **style)
    lowest = min(float(points.accuracy.min()) for points in found.values())
    axes.set_xlim(0, 1)
    axes.set_ylim(max(0.0, lowest - 0.1), 1.01)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=SMALL, frameon=False, title="Probabilities")
    return sheet.save(path)


def removals(content: Mapping[str, Any], names: Mapping[str, str], path: Path, *, about: str) -> pathlib.Path:
    """Draw deletion, insertion and ROAD curves, a line per map; return the path of the picture.

    Args:
      content: "curves" of faithfulness.json.
      names: of the maps, to show.
      path: of the picture.
      about: of which run, split and protocol it is.
    """
    sheet = Sheet(0.6 + _NARROW * len(REMOVALS), 4.6)
    sheet.text(0.3, 0.12, "Probability of the predicted expression as pixels go or come", fontsize=LARGE, weight="bold")
    _about(sheet, about)
    handles: dict[str, Any] = {}
    for place, (kind, title) in enumerate(REMOVALS.items()):
        what = "inserted" if kind == "insertion" else "removed"
        axes = _axes(
            sheet, place, title, f"share of the pixels {what}", "probability" if place == 0 else "", pitch=_NARROW
        )
        for number, (name, curve) in enumerate(content[kind].items()):
            drawn_at_random = name == "random"
            style = {"color": "black" if drawn_at_random else LINES[number % len(LINES)]}
            style["linestyle"] = ":" if drawn_at_random else STYLES[number % len(STYLES)]
            (handles[names.get(name, name)],) = axes.plot(content["fractions"], curve["curve"], **style)
        axes.set_ylim(0, 1.02)
    sheet.figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower left",
        ncols=4,
        fontsize=SMALL,
        frameon=False,
        bbox_to_anchor=(0.03, 0),
    )
    return sheet.save(path)


def _about(sheet: Sheet, words: str) -> None:
    sheet.text(0.3, 0.35, words, fontsize=SMALL, color=GREY)


def _axes(
    sheet: Sheet, place: int, title: str, x: str, y: str, *, pitch: float = _PITCH, width: float | None = None
) -> Any:
    axes = sheet.axes(0.7 + pitch * place, 0.8, width or pitch - 0.7, 2.8)
    axes.set_title(title, fontsize=NORMAL, loc="left")
    axes.set_xlabel(x, fontsize=SMALL)
    axes.set_ylabel(y, fontsize=SMALL)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
