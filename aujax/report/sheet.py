"""A blank sheet to draw figures on, measured in inches from its top left corner.

Figures are made without pyplot, so nothing of matplotlib's global state is read by or left to other code.
"""

import pathlib
import types
from typing import Any

import numpy as np

from aujax.errors import UserError

DPI = 120
SMALL, NORMAL, LARGE = 8, 9, 11  # points
LINE = 0.15  # inches from one line of NORMAL words to the next
GREY = "0.35"
# Okabe & Ito (2008): eight colours that colour-blind people tell apart; yellow and black are left out.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")  # of lines, beside their colours
HEAT = "viridis"


def matplotlib() -> types.ModuleType:
    """Returns matplotlib, which only figures need."""
    try:
        import matplotlib
        import matplotlib.figure
        import matplotlib.image
    except ImportError as error:
        raise UserError('figures need matplotlib, which is not installed: pip install "aujax[report]"') from error
    return matplotlib


class Sheet:
    """A white page of `width` x `height` inches."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = matplotlib().figure.Figure(figsize=(width, height), dpi=DPI, facecolor="white")

        # All pictures share one set of axes, for matplotlib takes long to make and draw each.
        self._page = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._page.set_axis_off()

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Returns matplotlib axes in that rectangle."""
        bottom = self.height - top - height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.tick_params(labelsize=SMALL)
        return axes

    def picture(self, left: float, top: float, side: float, pixels: np.ndarray) -> None:
        """Draw an image, or a map from 0 to 1 in the heat colours, as a square with a thin frame."""
        extent = (left, left + side, top + side, top)
        style = {"cmap": HEAT, "vmin": 0, "vmax": 1, "interpolation": "bilinear", "aspect": "auto"}
        self._page.imshow(pixels, extent=extent, **style)
        x, y = (left, left + side, left + side, left, left), (top, top, top + side, top + side, top)
        self._page.plot(x, y, color=GREY, linewidth=0.5)

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        """Write words whose upper left corner is at (left, top), unless `style` aligns them otherwise."""
        style = {"fontsize": NORMAL, "va": "top", "ha": "left"} | style
        self.figure.text(left / self.width, 1 - top / self.height, words, **style)

    def colour_bar(self, left: float, top: float, low: str, high: str, meaning: str, *, colours: str = HEAT) -> None:
        """Draw a horizontal bar of a colour map from `low` to `high`, with its meaning to the right of it."""
        length = 1.2
        axes = self.axes(left, top, length, 0.12)
        axes.imshow([[step / 255 for step in range(256)]], aspect="auto", cmap=colours, vmin=0, vmax=1)
        axes.set_yticks([])
        axes.set_xticks([0, 255], [low, high])
        axes.tick_params(length=0, labelsize=SMALL)
        self.text(left + length + 0.3, top + 0.06, meaning, fontsize=SMALL, va="center", color=GREY)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write the sheet in its full size as PNG or SVG, whichever the path ends in, and return the path."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The same sheet gives the same file: without a date, and with names that depend on the content alone.
        with matplotlib().rc_context({"svg.hashsalt": "aujax"}):
            self.figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        return path
