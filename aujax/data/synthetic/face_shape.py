"""The 3-D points of a drawn face: a symmetric mean face, and how each action unit moves it.

Points are (x, y, z) in units of the distance between the two eye centres: x to the image's right, y down, z
towards the viewer; the origin lies between the eyes. Rows 0 to 67 are the iBUG-68 landmarks, the rows after
them the points that only the painter needs (`CROWN`, `HAIRLINE`, `EARS`, `IRISES`, `TEETH`). The tables
write the image's left half; it is mirrored.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from aujax.codebook import MIRRORED

# (landmark, x, y, z) of the image's left half and of the midline.
_HALF_FACE = (
    (0, -1.12, -0.02, -0.52),
    (1, -1.11, 0.28, -0.50),
    (2, -1.06, 0.58, -0.46),
    (3, -0.97, 0.87, -0.40),
    (4, -0.82, 1.14, -0.30),
    (5, -0.62, 1.36, -0.18),
    (6, -0.42, 1.52, -0.06),
    (7, -0.21, 1.62, 0.04),
    (8, 0.00, 1.65, 0.07),
    (17, -0.92, -0.27, -0.16),
    (18, -0.78, -0.38, -0.01),
    (19, -0.60, -0.42, 0.08),
    (20, -0.42, -0.40, 0.13),
    (21, -0.24, -0.35, 0.16),
    (27, 0.00, -0.06, 0.16),
    (28, 0.00, 0.14, 0.27),
    (29, 0.00, 0.34, 0.38),
    (30, 0.00, 0.53, 0.47),
    (31, -0.23, 0.63, 0.18),
    (32, -0.12, 0.68, 0.25),
    (33, 0.00, 0.71, 0.28),
    (36, -0.75, 0.03, -0.10),
    (37, -0.60, -0.09, 0.00),
    (38, -0.41, -0.09, 0.03),
    (39, -0.27, 0.05, 0.02),
    (40, -0.41, 0.09, 0.03),
    (41, -0.59, 0.09, 0.00),
    (48, -0.39, 1.05, 0.08),
    (49, -0.25, 0.97, 0.21),
    (50, -0.10, 0.92, 0.28),
    (51, 0.00, 0.94, 0.29),
    (57, 0.00, 1.18, 0.27),
    (58, -0.13, 1.17, 0.25),
    (59, -0.27, 1.12, 0.18),
    (60, -0.35, 1.05, 0.10),
    (61, -0.13, 1.035, 0.23),
    (62, 0.00, 1.045, 0.25),
    (66, 0.00, 1.05, 0.25),
    (67, -0.13, 1.04, 0.23),
)
_HALF_CROWN = ((-1.13, -0.1), (-1.15, -0.45), (-1.09, -0.85), (-0.92, -1.2), (-0.64, -1.48), (-0.33, -1.63))
_HALF_HAIRLINE = (
    (-1.1, 0.05, -0.46),
    (-1.04, -0.35, -0.36),
    (-0.97, -0.72, -0.2),
    (-0.78, -1.0, -0.08),
    (-0.42, -1.16, 0),
)
_LEFT_EAR = ((-1.07, -0.1), (-1.2, -0.22), (-1.3, -0.12), (-1.27, 0.2), (-1.18, 0.46), (-1.08, 0.48))
CROWN, HAIRLINE, EARS = slice(68, 81), slice(81, 92), slice(92, 104)
IRISES, TEETH = slice(104, 106), slice(106, 107)

# AU -> landmark of the left half or the midline -> (dx, dy) at intensity 1, in hundredths of the inter-ocular
# distance; the right half moves by (-dx, dy). Directions follow the FACS manual, sizes are ours.
AU_MOTION: dict[int, dict[int, tuple[float, float]]] = {
    1: {18: (0, -2), 19: (0, -8), 20: (0, -20), 21: (0, -25), 38: (0, -1)},
    2: {17: (0, -13), 18: (0, -21), 19: (0, -17), 20: (0, -7), 37: (0, -1)},
    4: {17: (1, 0), 18: (3, 6), 19: (5, 12), 20: (7, 14), 21: (8, 14), 37: (0, 1), 38: (0, 1.5)},
    5: {37: (0, -8.5), 38: (0, -8.5), 40: (0, 1), 41: (0, 1)},
    6: {2: (-1, -1), 17: (0, 3), 18: (0, 2), 36: (1.5, 0), 37: (0, 2), 40: (0, -4), 41: (0, -5.5)},
    7: {37: (0, 5), 38: (0, 4.5), 40: (0, -4.5), 41: (0, -4.5)},
    9: {19: (2, 6), 20: (4, 10), 21: (5, 12), 29: (0, -3), 30: (0, -5), 31: (-3, -10), 32: (-1, -8),
        33: (0, -6), 37: (0, 2), 38: (0, 3), 40: (0, -4), 41: (0, -3.5), 49: (0, -5), 50: (0, -6),
        51: (0, -5)},
    10: {31: (-2, -5), 32: (0, -4), 33: (0, -3), 48: (0, 2), 49: (-1, -12), 50: (0, -13), 51: (0, -11),
        60: (0, 2), 61: (0, -7), 62: (0, -7), 66: (0, -5), 67: (0, -5)},
    12: {3: (-3, -3), 4: (-3, -3), 31: (-3, -1), 48: (-17, -17), 49: (-10, -6), 50: (-2, -1), 57: (0, 1),
        58: (-4, 0), 59: (-10, -6), 60: (-16, -16), 61: (-4, -2), 62: (0, 1), 66: (0, 2), 67: (-4, 0)},
    15: {48: (-3, 15), 49: (-2, 4), 58: (0, 1), 59: (-4, 9), 60: (-2, 14), 61: (0, 1), 67: (0, 2)},
    16: {48: (-1, 2), 57: (0, 12), 58: (-2, 12), 59: (-3, 10), 60: (-1, 2), 66: (0, 6), 67: (-1, 6)},
    17: {6: (0, -2), 7: (0, -5), 8: (0, -6), 48: (0, 3), 50: (0, -2), 51: (0, -3), 57: (0, -9), 58: (0, -8),
        59: (0, -4), 60: (0, 3), 61: (0, -4), 62: (0, -5), 66: (0, -6), 67: (0, -5)},
    20: {4: (-2, 1), 5: (-2, 1), 48: (-22, 7), 49: (-13, 4), 50: (-3, 2), 51: (0, 1), 57: (0, -1),
        58: (-7, -1), 59: (-15, 2), 60: (-21, 6), 61: (-7, 0), 67: (-7, 2)},
    23: {48: (7, 0), 49: (3, 3.5), 50: (1, 5), 51: (0, 4.5), 57: (0, -6), 58: (2, -6), 59: (3, -3.5),
        60: (6, 0)},
    24: {48: (3, 1), 49: (1, 5), 50: (0, 7), 51: (0, 6.5), 57: (0, -8.5), 58: (1, -8), 59: (1, -4.5),
        60: (2, 1)},
    25: {49: (0, -1.5), 50: (0, -2.5), 51: (0, -2.5), 57: (0, 6), 58: (0, 6), 59: (0, 3), 61: (0, -5),
        62: (0, -4.5), 66: (0, 8.5), 67: (0, 8)},
    26: {3: (1, 3), 4: (2, 8), 5: (2, 14), 6: (2, 20), 7: (1, 23), 8: (0, 24), 48: (5, 6), 57: (0, 23),
        58: (0, 22), 59: (2, 14), 60: (5, 6), 61: (0, -1.5), 62: (0, -1.5), 66: (0, 24), 67: (-1, 22)},
    27: {2: (1, 2), 3: (3, 7), 4: (4, 16), 5: (4, 27), 6: (3, 37), 7: (1, 41), 8: (0, 42), 48: (7, 13),
        49: (3, 0), 50: (0, -3), 51: (0, -3), 57: (0, 42), 58: (-1, 40), 59: (2, 27), 60: (7, 13),
        61: (0, -5), 62: (0, -4.5), 66: (0, 44), 67: (-1, 42)},
}  # fmt: skip


def _mirrored(half, middle=()):
    """The half's points, the middle ones, then the half mirrored in reverse order."""
    return [*half, *middle, *[(-x, *rest) for x, *rest in reversed(half)]]


def _mean_face() -> np.ndarray:
    points = np.zeros((TEETH.stop, 3), np.float32)
    for landmark, x, y, z in _HALF_FACE:
        points[landmark] = x, y, z
        points[MIRRORED[landmark]] = -x, y, z
    points[CROWN, :2] = _mirrored(_HALF_CROWN, [(0.0, -1.67)])
    points[CROWN, 2] = -0.5
    points[HAIRLINE] = _mirrored(_HALF_HAIRLINE, [(0.0, -1.2, 0.02)])
    points[EARS, :2] = [*_LEFT_EAR, *((-x, y) for x, y in _LEFT_EAR)]
    points[EARS, 2] = -0.56
    points[IRISES] = (-0.505, 0.0, 0.0), (0.505, 0.0, 0.0)
    points[TEETH] = 0.0, 1.11, 0.2
    return points


def _motions() -> dict[int, np.ndarray]:
    table = {}
    for au, rows in AU_MOTION.items():
        motion = np.zeros((TEETH.stop, 3), np.float32)
        for landmark, (dx, dy) in rows.items():
            motion[MIRRORED[landmark]] = -dx, dy, 0.0
            motion[landmark] = dx, dy, 0.0
        table[au] = motion / 100
    return table


MEAN_FACE = _mean_face()
_MOTIONS = _motions()
_UPPER_LIP, _UPPER_INNER = np.array([49, 50, 51, 52, 53]), np.array([61, 61, 62, 63, 63])
_LOWER_LIP, _LOWER_INNER = np.array([59, 58, 57, 56, 55]), np.array([67, 67, 66, 65, 65])
_UPPER_LID, _LOWER_LID = np.array([37, 38, 43, 44]), np.array([41, 40, 47, 46])


def face_points(
    rest: Float[np.ndarray, "points 3"], intensities: Mapping[int, float], *, asymmetry: float = 0.0
) -> Float[np.ndarray, "points 3"]:
    """Return the points of the face `rest` showing action units: `intensities[au]` is 0 for none, 1 for strongest.

    `asymmetry` a makes the image's right half move by 1 + a of the intensity and the left half by 1 - a. Lips
    and lids never pass through each other. An AU that `AU_MOTION` does not hold raises KeyError.
    """
    moved = rest.copy()
    side = (1.0 + asymmetry * np.sign(MEAN_FACE[:, :1])).astype(np.float32)
    for au, intensity in intensities.items():
        moved += (_MOTIONS[au] * np.float32(intensity)) * side
    y = moved[:, 1]
    for upper, lower, gap in (((61, 62, 63), (67, 66, 65), 0.0), (_UPPER_LID, _LOWER_LID, 0.05)):
        upper, lower = np.asarray(upper), np.asarray(lower)
        excess = np.maximum(y[upper] + gap - y[lower], 0.0) / 2
        y[upper] -= excess
        y[lower] += excess
    y[_UPPER_LIP] = np.minimum(y[_UPPER_LIP], y[_UPPER_INNER] - [0.02, 0.03, 0.03, 0.03, 0.02])
    y[_LOWER_LIP] = np.maximum(y[_LOWER_LIP], y[_LOWER_INNER] + [0.02, 0.04, 0.04, 0.04, 0.02])
    return moved


def rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Return R, used as `points @ R.T`, in radians: yaw moves the nose right, pitch down, roll is clockwise."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (tilt @ nod @ turn).astype(np.float32)
