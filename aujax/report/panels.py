"""Maps as pictures in PNG or SVG files: overlays on single faces, and averages by expression.

Maps are float (faces or classes, h, w) at their own low resolution; pictures uint8 (faces, height, width, 3).
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from aujax.report import overlays
from aujax.report.sheet import GREY, LARGE, LINE, NORMAL, SMALL, Sheet

_SIDE, _GAP, _MARGIN = 1.25, 0.06, 0.2  # inches: of one picture, between two, around all
_STEP = _SIDE + _GAP


class Column(NamedTuple):
    """One kind of map in `panels`: a map per face, and which faces have one (None: all)."""

    title: str
    maps: Float[np.ndarray, "faces h w"]
    drawn: Bool[np.ndarray, " faces"] | None = None


class Means(NamedTuple):
    """One kind of map in `class_means`: the average per expression, and over how many faces each was taken."""

    title: str
    maps: Float[np.ndarray, "classes h w"]
    counts: Integer[np.ndarray, " classes"]


def panels(
    images: UInt8[np.ndarray, "faces height width 3"],
    columns: Sequence[Column],
    headings: Sequence[str],
    path: str | pathlib.Path,
    *,
    title: str,
    across: int = 2,
) -> pathlib.Path:
    """Draw a row of pictures per face, the face and the overlay of each column; return the path of the picture.

    `headings` stand above the rows, `across` rows stand side by side. A map without a pattern is not drawn but marked
    "flat" or "not finite".
    """
    titles = ["Face", *(column.title for column in columns)]
    across = min(across, len(images))
    block, pitch = len(titles) * _STEP + 0.3, _SIDE + 0.36
    head, down = 0.5 + LINE * _lines(titles), -(-len(images) // across)
    sheet = Sheet(max(block * across + 0.1, 7.5), head + down * pitch + 0.85)
    sheet.text(_MARGIN, 0.12, title, fontsize=LARGE, weight="bold")
    for face, words in enumerate(headings):
        left, top = _MARGIN + block * (face % across), head + pitch * (face // across)
        if face < across:
            for place, name in enumerate(titles):
                _above(sheet, left + place * _STEP, top, name)
        sheet.text(left, top + 0.06, words, fontsize=SMALL)
        sheet.picture(left, top + 0.24, _SIDE, images[face])
        for place, column in enumerate(columns, start=1):
            drawn = column.drawn is None or bool(column.drawn[face])
            _overlay(sheet, left + place * _STEP, top + 0.24, images[face], column.maps[face] if drawn else None)
    note = (
        "Each map has its own scale: colours compare places within one picture.\n"
        "Maps are those of the true expression; one without action units (Neutral) has no action-unit map."
    )
    sheet.colour_bar(_MARGIN + 0.15, sheet.height - 0.5, "lowest", "highest", note)
    return sheet.save(path)


def class_means(
    rows: Sequence[Means], expressions: Sequence[str], path: str | pathlib.Path, *, title: str
) -> pathlib.Path:
    """Draw a row of average maps per kind, a column per expression; return the path of the picture."""
    left, top, pitch = 1.75, 0.75, _SIDE + 0.3
    sheet = Sheet(max(left + len(expressions) * _STEP + _MARGIN, 7.5), top + len(rows) * pitch + 0.65)
    sheet.text(_MARGIN, 0.12, title, fontsize=LARGE, weight="bold")
    for place, name in enumerate(expressions):
        _above(sheet, left + place * _STEP, top - 0.06, name)
    for number, row in enumerate(rows):
        upper = top + number * pitch
        sheet.text(_MARGIN, upper + _SIDE / 2, row.title, va="center")
        for place, count in enumerate(row.counts):
            corner = left + place * _STEP
            _mean(sheet, corner, upper, row.maps[place] if count else None)
            faces = "1 face" if count == 1 else f"{count} faces"
            sheet.text(corner + _SIDE / 2, upper + _SIDE + 0.04, faces, ha="center", fontsize=SMALL, color=GREY)
    note = (
        "Average over faces; every face's map was taken to 0–1 first (0 without a pattern). The same scale everywhere."
    )
    sheet.colour_bar(left, sheet.height - 0.5, "0", "1", note)
    return sheet.save(path)


def _lines(titles: Sequence[str]) -> int:
    return max(title.count("\n") + 1 for title in titles)


def _above(sheet: Sheet, left: float, bottom: float, words: str) -> None:
    sheet.text(left + _SIDE / 2, bottom, words, ha="center", va="bottom", fontsize=NORMAL)


def _overlay(sheet: Sheet, left: float, top: float, image: np.ndarray, map_: np.ndarray | None) -> None:
    """Draw the overlay, or the bare grey picture with the word for why there is none."""
    words = overlays.why_not(map_)
    pixels = overlays.grey(image) if words or map_ is None else overlays.overlay(image, map_)
    sheet.picture(left, top, _SIDE, pixels)
    _stamp(sheet, left, top, words)


def _mean(sheet: Sheet, left: float, top: float, map_: np.ndarray | None) -> None:
    """Draw the average on the scale from 0 to 1, or an empty square with the word for why there is none."""
    words = overlays.why_not(map_)
    blank = np.full((1, 1, 3), 0.93, np.float32)
    sheet.picture(left, top, _SIDE, blank if words or map_ is None else map_.astype(np.float32))
    _stamp(sheet, left, top, words)


def _stamp(sheet: Sheet, left: float, top: float, words: str) -> None:
    if words:
        box = {"facecolor": "white", "edgecolor": GREY, "boxstyle": "round,pad=0.3"}
        sheet.text(left + _SIDE / 2, top + _SIDE / 2, words, ha="center", va="center", fontsize=NORMAL, bbox=box)
