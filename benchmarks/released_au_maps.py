"""The baseline: AU maps made as the paper's released code makes them, one image and one action unit at a time.

Restated from its description, with OpenCV's polygon ellipses on whole pixels; NumPy and OpenCV only. Landmarks are
(68, 2) pixels (x, y) of the canvas; maps are (height, width), 0 to 1, and None where nothing is drawn.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Points = Sequence[tuple[int, int]]
Pair = tuple[int, int]
Ellipses = list[tuple[tuple[int, int], tuple[int, int]]]  # centres and semi-axes, both (x, y)
GRID = 28
BACKGROUND = 1e-4
EXPRESSION_AUS = {
    "Happiness": (6, 12, 25),
    "Surprise": (1, 2, 5, 26, 27),
    "Fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "Anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),
    "Disgust": (9, 5, 16, 17, 25, 26),
    "Sadness": (1, 4, 6, 15, 17),
}


def released_map(landmarks: np.ndarray, aus: Sequence[int], size: tuple[int, int]) -> np.ndarray | None:
    """Returns the normalised maximum over the action units' maps, None where every one of them failed."""
    points = [(int(x), int(y)) for x, y in landmarks]
    maps, drawn = np.zeros((len(aus), *size)), []
    for i, number in enumerate(aus):
        cells = au_cells(points, number, size)
        if cells is not None:
            maps[i] = cv2.resize(cv2.blur(cells, (3, 3)), size[::-1])
            drawn.append(i)
    if not drawn:
        return None
    strongest = (maps if len(drawn) == len(aus) else maps[drawn]).astype(np.float32).max(0)
    low, high = strongest.min(), strongest.max()
    return (strongest - low) / (high - low if high > low else 1.0)


def au_cells(points: Points, number: int, size: tuple[int, int]) -> np.ndarray | None:
    """Returns one action unit drawn with 255 and sampled on 28 x 28 cells, before the blur."""
    canvas = np.zeros(size) + BACKGROUND
    empty = canvas.copy()
    for centre, axes in _ellipses(points, number, size):
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, 255, -1)
    return cv2.resize(canvas, (GRID, GRID)) if (canvas - empty).sum() > 0 else None


def _middle(points: Points, pair: Pair, axis: int) -> int:
    return int((points[pair[0]][axis] + points[pair[1]][axis]) / 2)


def _half(points: Points, pair: Pair, axis: int, more: int = 0) -> int:
    return max(int((points[pair[1]][axis] - points[pair[0]][axis] + more) / 2), 0)


def _ellipses(points: Points, number: int, size: tuple[int, int]) -> Ellipses:
    if number not in _DRAWN:
        raise ValueError(f"expected a FACS number that the released code draws, got {number}")
    return _DRAWN[number](points, *size)


def _at(points: Points, *landmarks: int, axes: tuple[int, int], dx: int = 0, dy: int = 0) -> Ellipses:
    return [((points[i][0] + dx, points[i][1] + dy), axes) for i in landmarks]


def _between(points: Points, x: Pair, y: Pair, taller: int = 0, fallback: int = 0) -> Ellipses:
    axes = _half(points, x, 0), _half(points, y, 1, taller)
    return [((_middle(points, x, 0), _middle(points, y, 1)), tuple(length or fallback for length in axes))]


def _eyes(points: Points, taller: int = 0, fallback: int = 0) -> Ellipses:
    left = _between(points, (36, 39), (38, 41), taller, fallback)
    return left + _between(points, (42, 45), (44, 47), taller, fallback)


def _halfway(points: Points, *pairs: Pair) -> Ellipses:
    return [((_middle(points, pair, 0), _middle(points, pair, 1)), (20, 20)) for pair in pairs]


def _brows(points: Points, height: int, width: int, *landmarks: int) -> Ellipses:
    return _at(points, *landmarks, axes=(round(width / 8), round(height / 10)))


def _cheeks(points: Points, height: int, width: int) -> Ellipses:
    return _at(points, 41, 46, axes=(round(width / 10), round(height / 10)), dy=round(height / 6))


def _dimples(points: Points, width: int) -> Ellipses:
    left, right = max(points[48][0] - 20, 0), min(points[54][0] + 20, width)
    return [((left, points[48][1]), (20, 20)), ((right, points[54][1]), (20, 20))]


def _crossed(points: Points, *pairs: Pair) -> Ellipses:
    return [((points[x][0], points[y][1]), (20, 20)) for x, y in pairs]


def _mouth(points: Points, height: int, width: int) -> Ellipses:
    return _between(points, (48, 54), (51, 57), fallback=5)


# FACS number -> (points, height, width) -> ellipses
_DRAWN: dict[int, Callable[[Points, int, int], Ellipses]] = {
    1: lambda p, h, w: _brows(p, h, w, 20, 23),
    2: lambda p, h, w: _brows(p, h, w, 18, 25),
    4: lambda p, h, w: _between(p, (19, 24), (19, 24), fallback=10),
    5: lambda p, h, w: _eyes(p, fallback=5),
    6: _cheeks,
    7: lambda p, h, w: _eyes(p, taller=20, fallback=5),
    9: lambda p, h, w: _crossed(p, (31, 29), (35, 29)),
    10: lambda p, h, w: _crossed(p, (48, 50), (52, 54)),
    12: lambda p, h, w: _at(p, 48, 54, axes=(20, 20)),
    14: lambda p, h, w: _dimples(p, w),
    15: lambda p, h, w: _at(p, 48, 54, axes=(20, 20)),
    16: lambda p, h, w: _at(p, 59, 55, axes=(20, 20)),
    17: lambda p, h, w: _between(p, (59, 8), (59, 8), fallback=5),
    20: lambda p, h, w: _halfway(p, (48, 6), (50, 10)),
    23: _mouth,
    24: _mouth,
    25: lambda p, h, w: _at(p, 51, 57, axes=(25, 10)),
    26: _mouth,
    27: _mouth,
    43: lambda p, h, w: _eyes(p, taller=20),
}
