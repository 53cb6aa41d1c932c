"""The chart of interventions: by how much each action unit's removal lowers the probability of each expression."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from aujax.report.sheet import GREY, LARGE, NORMAL, SMALL, Sheet

_WIDTH, _HEIGHT = 0.95, 0.3  # inches of a cell
COLOURS = "PuOr_r"  # orange lowers, violet raises; colour-blind people tell them apart


def draw(
    drop: Mapping[str, Mapping[str, float | None]],
    names: Mapping[int, str],
    book: Mapping[str, Sequence[int]],
    path: str | pathlib.Path,
    *,
    about: str,
) -> pathlib.Path:
    """Draw the mean drop per action unit (rows) and predicted expression (columns); return the path of the picture.

    Args:
      drop: {expression: {"AU12": drop of the probability, None where no face was predicted so}}.
      names: of the action units to show, by FACS number.
      book: the FACS numbers of each expression; their cells are framed.
      path: of the picture.
      about: of which run, split and protocol it is.
    """
    expressions, units = list(drop), list(names)
    cells = [[drop[name].get(f"AU{unit}") for name in expressions] for unit in units]
    values = np.ma.masked_invalid(np.array([[np.nan if cell is None else cell for cell in row] for row in cells]))
    extent = max(float(np.ma.abs(values).max()) if values.count() else 0.0, 0.01)
    left, top = 2.1, 0.95
    width, height = _WIDTH * len(expressions), _HEIGHT * len(units)
    sheet = Sheet(left + width + 0.3, top + height + 0.85)
    sheet.text(
        0.15, 0.12, "Drop of the predicted probability without an action unit (points)", fontsize=LARGE, weight="bold"
    )
    sheet.text(left, 0.42, "faces predicted as", fontsize=NORMAL)
    axes = sheet.axes(left, top, width, height)
    axes.imshow(values, cmap=COLOURS, vmin=-extent, vmax=extent, aspect="auto")
    axes.set_facecolor("0.9")  # seen through cells without a number
    for row, column in np.ndindex(values.shape):
        value = cells[row][column]
        words = "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")
        colour = "white" if value is not None and abs(value) > 0.6 * extent else "black"
        axes.text(column, row, words, ha="center", va="center", fontsize=SMALL, color=colour)
        if units[row] in book.get(expressions[column], ()):
            x, y = (
                column + np.array([-0.46, 0.46, 0.46, -0.46, -0.46]),
                row + np.array([-0.42, -0.42, 0.42, 0.42, -0.42]),
            )
            axes.plot(x, y, color="black", linewidth=1.4)
    axes.set_xticks(range(len(expressions)), expressions, fontsize=SMALL)
    axes.set_yticks(range(len(units)), [f"AU{unit} {name.lower()}" for unit, name in names.items()], fontsize=SMALL)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ends = (f"{-100 * extent:.0f}".replace("-", "−"), f"{100 * extent:.0f}")
    note = "points; framed: the action unit belongs to the expression in the codebook"
    sheet.colour_bar(left, top + height + 0.25, *ends, note, colours=COLOURS)
    sheet.text(0.15, top + height + 0.55, about, fontsize=SMALL, color=GREY)
    return sheet.save(path)
