"""What an action unit does to the skin besides moving landmarks: creases and bulges, as tables.

Offsets are (dx, dy) from the anchor landmark in inter-ocular units, for the image's left half; rows whose
anchor has a partner on the right are mirrored. A crease runs through four points.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aujax.codebook import MIRRORED


class Crease(NamedTuple):
    """A line that AU `au` carves: width, and depth (share of the light it takes away at intensity 1)."""

    au: int
    anchor: int
    offsets: tuple[tuple[float, float], ...]
    width: float = 0.03
    depth: float = 0.4


class Bulge(NamedTuple):
    """A round swelling (height > 0) or hollow that AU `au` makes, in tenths of the inter-ocular distance."""

    au: int
    anchor: int
    offset: tuple[float, float]
    radius: float
    height: float


CREASES = (
    Crease(1, 21, ((-0.3, -0.25), (-0.12, -0.29), (0.06, -0.3), (0.24, -0.28)), 0.035, 0.3),
    Crease(1, 21, ((-0.28, -0.41), (-0.1, -0.45), (0.08, -0.46), (0.24, -0.44)), 0.03, 0.26),
    Crease(2, 18, ((-0.12, -0.16), (0.0, -0.24), (0.16, -0.28), (0.36, -0.29)), 0.032, 0.28),
    Crease(2, 18, ((-0.02, -0.36), (0.1, -0.42), (0.24, -0.45), (0.4, -0.45)), 0.028, 0.22),
    Crease(4, 21, ((0.13, -0.14), (0.15, -0.04), (0.15, 0.07), (0.11, 0.17)), 0.035, 0.45),
    Crease(4, 21, ((0.04, 0.1), (0.09, 0.14), (0.13, 0.19), (0.15, 0.25)), 0.04, 0.2),
    Crease(5, 37, ((-0.1, -0.03), (0.03, -0.09), (0.17, -0.09), (0.3, -0.01)), 0.02, 0.3),
    Crease(6, 36, ((-0.07, -0.03), (-0.15, -0.07), (-0.21, -0.11), (-0.26, -0.16)), 0.026, 0.4),
    Crease(6, 36, ((-0.08, 0.02), (-0.16, 0.02), (-0.23, 0.01), (-0.3, -0.02)), 0.026, 0.42),
    Crease(6, 36, ((-0.07, 0.06), (-0.14, 0.1), (-0.19, 0.13), (-0.24, 0.15)), 0.024, 0.36),
    Crease(6, 41, ((-0.17, 0.06), (-0.04, 0.1), (0.12, 0.11), (0.28, 0.09)), 0.04, 0.34),
    Crease(7, 41, ((-0.12, 0.035), (0.0, 0.06), (0.13, 0.06), (0.27, 0.03)), 0.025, 0.34),
    Crease(9, 27, ((-0.13, 0.05), (-0.05, 0.02), (0.05, 0.02), (0.13, 0.05)), 0.03, 0.5),
    Crease(9, 27, ((-0.15, 0.13), (-0.06, 0.09), (0.06, 0.09), (0.15, 0.13)), 0.03, 0.5),
    Crease(9, 27, ((-0.17, 0.21), (-0.08, 0.165), (0.08, 0.165), (0.17, 0.21)), 0.026, 0.4),
    Crease(9, 31, ((0.0, -0.3), (0.03, -0.23), (0.03, -0.16), (-0.01, -0.1)), 0.03, 0.35),
    Crease(9, 31, ((-0.01, -0.14), (-0.09, -0.06), (-0.13, 0.04), (-0.16, 0.14)), 0.045, 0.45),
    Crease(10, 31, ((-0.03, -0.1), (-0.11, -0.02), (-0.18, 0.1), (-0.24, 0.24)), 0.05, 0.5),
    Crease(12, 48, ((0.12, -0.42), (0.01, -0.31), (-0.07, -0.18), (-0.11, -0.02)), 0.05, 0.45),
    Crease(12, 48, ((-0.04, -0.06), (-0.06, -0.02), (-0.06, 0.03), (-0.04, 0.07)), 0.03, 0.35),
    Crease(15, 48, ((-0.03, 0.0), (-0.06, 0.06), (-0.08, 0.12), (-0.09, 0.19)), 0.04, 0.45),
    Crease(15, 48, ((0.13, -0.4), (0.04, -0.33), (-0.03, -0.24), (-0.08, -0.14)), 0.035, 0.22),
    Crease(16, 57, ((-0.22, 0.05), (-0.08, 0.08), (0.08, 0.08), (0.22, 0.05)), 0.04, 0.3),
    Crease(17, 57, ((-0.2, 0.15), (-0.07, 0.1), (0.07, 0.1), (0.2, 0.15)), 0.045, 0.45),
    Crease(17, 57, ((-0.1, 0.22), (-0.08, 0.25), (-0.11, 0.27), (-0.08, 0.3)), 0.03, 0.3),
    Crease(17, 57, ((0.09, 0.2), (0.07, 0.23), (0.1, 0.26), (0.07, 0.29)), 0.03, 0.3),
    Crease(17, 57, ((-0.02, 0.25), (0.02, 0.27), (-0.02, 0.31), (0.01, 0.34)), 0.03, 0.28),
    Crease(20, 48, ((-0.07, -0.1), (-0.11, -0.02), (-0.11, 0.07), (-0.08, 0.15)), 0.04, 0.4),
    Crease(20, 59, ((-0.05, 0.1), (0.04, 0.14), (0.12, 0.15), (0.2, 0.14)), 0.03, 0.25),
    Crease(23, 50, ((-0.06, -0.07), (-0.06, -0.045), (-0.055, -0.02), (-0.05, 0.0)), 0.016, 0.35),
    Crease(23, 50, ((0.02, -0.08), (0.02, -0.055), (0.02, -0.03), (0.02, -0.01)), 0.016, 0.3),
    Crease(24, 48, ((-0.03, -0.07), (-0.06, -0.02), (-0.06, 0.04), (-0.02, 0.09)), 0.035, 0.4),
    Crease(24, 57, ((-0.22, 0.04), (-0.08, 0.07), (0.08, 0.07), (0.22, 0.04)), 0.04, 0.35),
    Crease(26, 48, ((-0.05, -0.26), (-0.12, -0.12), (-0.14, 0.03), (-0.1, 0.18)), 0.05, 0.16),
    Crease(27, 48, ((-0.02, -0.36), (-0.12, -0.18), (-0.16, 0.02), (-0.11, 0.24)), 0.06, 0.28),
)
BULGES = (
    Bulge(4, 21, (0.08, 0.02), 0.09, 1.2),
    Bulge(6, 41, (-0.06, 0.3), 0.2, 1.2),
    Bulge(9, 31, (-0.02, -0.1), 0.09, 1.2),
    Bulge(10, 49, (-0.03, -0.1), 0.12, 1.0),
    Bulge(12, 48, (-0.2, -0.3), 0.22, 1.8),
    Bulge(15, 48, (-0.12, 0.12), 0.1, 0.8),
    Bulge(17, 57, (0.0, 0.24), 0.14, 1.4),
    Bulge(24, 51, (0.0, -0.07), 0.12, 0.8),
    Bulge(26, 48, (-0.3, 0.0), 0.18, -0.8),
    Bulge(27, 48, (-0.3, 0.0), 0.22, -1.4),
)


def _both_sides(row, offsets):
    """(AU, anchor, offsets, row) of the row and, if its anchor is not on the midline, of its mirror image."""
    yield row.au, row.anchor, offsets, row
    partner = MIRRORED[row.anchor]
    if partner != row.anchor:
        yield row.au, partner, [(-dx, dy) for dx, dy in offsets], row


_CREASE_SIDES = [side for row in CREASES for side in _both_sides(row, row.offsets)]
_BULGE_SIDES = [side for row in BULGES for side in _both_sides(row, [row.offset])]
CREASE_AUS, BULGE_AUS = ([au for au, *_ in sides] for sides in (_CREASE_SIDES, _BULGE_SIDES))
CREASE_WIDTHS = np.array([row.width for *_, row in _CREASE_SIDES], np.float32)
CREASE_DEPTHS = np.array([row.depth for *_, row in _CREASE_SIDES], np.float32)
BULGE_ROWS = [row for *_, row in _BULGE_SIDES]


def _table(sides) -> tuple[np.ndarray, np.ndarray]:
    anchors = np.array([anchor for _, anchor, *_ in sides])
    offsets = np.array([offset for *_, offset, _ in sides], np.float32)
    return anchors, np.concatenate([offsets, np.zeros_like(offsets[..., :1])], -1)


_CREASE_ANCHORS, _CREASE_OFFSETS = _table(_CREASE_SIDES)
_BULGE_ANCHORS, _BULGE_OFFSETS = _table(_BULGE_SIDES)


def crease_points(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "creases 4 3"]:
    """Return where the creases of `CREASE_AUS` lie on the face with these 3-D points."""
    return points[_CREASE_ANCHORS][:, None] + _CREASE_OFFSETS


def bulge_points(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "bulges 3"]:
    """Return the centres of the bulges of `BULGE_AUS`."""
    return points[_BULGE_ANCHORS] + _BULGE_OFFSETS[:, 0]
