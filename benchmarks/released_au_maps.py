"""The baseline: AU maps made as the paper's released code makes them, one image and one action unit at a time.

Restated from its description, with OpenCV's polygon ellipses on whole pixels; NumPy and OpenCV only. Landmarks are
(68, 2) pixels (x, y) of the canvas; maps are (height, width), 0 to 1, and None where nothing is drawn.
"""

from collections.abc import Sequence

import cv2
import numpy as np

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


def au_cells(points: Sequence[tuple[int, int]], number: int, size: tuple[int, int]) -> np.ndarray | None:
    """Returns one action unit drawn with 255 and sampled on 28 x 28 cells, before the blur."""
    canvas = np.zeros(size) + BACKGROUND
    empty = canvas.copy()
    for centre, axes in _ellipses(points, number, size):
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, 255, -1)
    return cv2.resize(canvas, (GRID, GRID)) if (canvas - empty).sum() > 0 else None


def _ellipses(points: Sequence[tuple[int, int]], number: int, size: tuple[int, int]) -> Ellipses:
    height, width = size
    brow = round(width / 8), round(height / 10)

    def at(*landmarks: int, axes: tuple[int, int], dx: int = 0, dy: int = 0) -> Ellipses:
        return [((points[i][0] + dx, points[i][1] + dy), axes) for i in landmarks]

    def between(x: tuple[int, int], y: tuple[int, int], taller: int = 0, fallback: int = 0) -> Ellipses:
        axes = _half(points, x, 0), _half(points, y, 1, taller)
        return [((_middle(points, x, 0), _middle(points, y, 1)), tuple(length or fallback for length in axes))]

    def eyes(taller: int = 0, fallback: int = 0) -> Ellipses:
        return between((36, 39), (38, 41), taller, fallback) + between((42, 45), (44, 47), taller, fallback)

    def halfway(*pairs: tuple[int, int]) -> Ellipses:
        return [((_middle(points, pair, 0), _middle(points, pair, 1)), (20, 20)) for pair in pairs]

    match number:
        case 1:
            return at(20, 23, axes=brow)
        case 2:
            return at(18, 25, axes=brow)
        case 4:
            return between((19, 24), (19, 24), fallback=10)
        case 5:
            return eyes(fallback=5)
        case 6:
            return at(41, 46, axes=(round(width / 10), round(height / 10)), dy=round(height / 6))
        case 7:
            return eyes(taller=20, fallback=5)
        case 9:
            return [((points[side][0], points[29][1]), (20, 20)) for side in (31, 35)]
        case 10:
            return [((points[x][0], points[y][1]), (20, 20)) for x, y in ((48, 50), (52, 54))]
        case 12 | 15:
            return at(48, 54, axes=(20, 20))
        case 14:
            left, right = max(points[48][0] - 20, 0), min(points[54][0] + 20, width)
            return [((left, points[48][1]), (20, 20)), ((right, points[54][1]), (20, 20))]
        case 16:
            return at(59, 55, axes=(20, 20))
        case 17:
            return between((59, 8), (59, 8), fallback=5)
        case 20:
            return halfway((48, 6), (50, 10))
        case 23 | 24 | 26 | 27:
            return between((48, 54), (51, 57), fallback=5)
        case 25:
            return at(51, 57, axes=(25, 10))
        case 43:
            return eyes(taller=20)
    raise ValueError(f"expected a FACS number that the released code draws, got {number}")


def _middle(points: Sequence[tuple[int, int]], pair: tuple[int, int], axis: int) -> int:
    return int((points[pair[0]][axis] + points[pair[1]][axis]) / 2)


def _half(points: Sequence[tuple[int, int]], pair: tuple[int, int], axis: int, more: int = 0) -> int:
    return max(int((points[pair[1]][axis] - points[pair[0]][axis] + more) / 2), 0)
