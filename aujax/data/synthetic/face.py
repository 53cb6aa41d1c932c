"""The 3-D points of a drawn face, and what each action unit does to them and to the skin.

Points are (x, y, z) in units of the distance between the two eye centres: x to the image's right, y down, z
towards the viewer; the origin lies between the eyes. Rows 0 to 67 are the iBUG-68 landmarks, the rows after
them are points for painting only (`CROWN`, `HAIRLINE`, `EARS`, `IRISES`, `TEETH`). The tables hold the image's left
half and the midline; the right half is their mirror image.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from aujax.codebook import MIRRORED

View = Callable[[np.ndarray], np.ndarray]  # projects 3-D points to (x, y) pixels

CROWN, HAIRLINE, EARS = slice(68, 81), slice(81, 92), slice(92, 104)
IRISES, TEETH = slice(104, 106), slice(106, 107)


def _table(text: str) -> np.ndarray:
    """Returns the numbers of a table in text, a row per line."""
    return np.array([line.split() for line in text.strip().splitlines()], float)


_HALF_FACE = _table("""
     0   -1.12  -0.02  -0.52
     1   -1.11   0.28  -0.50
     2   -1.06   0.58  -0.46
     3   -0.97   0.87  -0.40
     4   -0.82   1.14  -0.30
     5   -0.62   1.36  -0.18
     6   -0.42   1.52  -0.06
     7   -0.21   1.62   0.04
     8    0.00   1.65   0.07
    17   -0.92  -0.27  -0.16
    18   -0.78  -0.38  -0.01
    19   -0.60  -0.42   0.08
    20   -0.42  -0.40   0.13
    21   -0.24  -0.35   0.16
    27    0.00  -0.06   0.16
    28    0.00   0.14   0.27
    29    0.00   0.34   0.38
    30    0.00   0.53   0.47
    31   -0.23   0.63   0.18
    32   -0.12   0.68   0.25
    33    0.00   0.71   0.28
    36   -0.75   0.03  -0.10
    37   -0.60  -0.09   0.00
    38   -0.41  -0.09   0.03
    39   -0.27   0.05   0.02
    40   -0.41   0.09   0.03
    41   -0.59   0.09   0.00
    48   -0.39   1.05   0.08
    49   -0.25   0.97   0.21
    50   -0.10   0.92   0.28
    51    0.00   0.94   0.29
    57    0.00   1.18   0.27
    58   -0.13   1.17   0.25
    59   -0.27   1.12   0.18
    60   -0.35   1.05   0.10
    61   -0.13  1.035   0.23
    62    0.00  1.045   0.25
    66    0.00   1.05   0.25
    67   -0.13   1.04   0.23
""")  # landmark, x, y, z
_HALF_CROWN = ((-1.13, -0.1), (-1.15, -0.45), (-1.09, -0.85), (-0.92, -1.2), (-0.64, -1.48), (-0.33, -1.63))
_HALF_HAIRLINE = (
    (-1.1, 0.05, -0.46),
    (-1.04, -0.35, -0.36),
    (-0.97, -0.72, -0.2),
    (-0.78, -1.0, -0.08),
    (-0.42, -1.16, 0),
)
_LEFT_EAR = ((-1.07, -0.1), (-1.2, -0.22), (-1.3, -0.12), (-1.27, 0.2), (-1.18, 0.46), (-1.08, 0.48))

# How AUs move landmarks of the left half and the midline: the AU, then landmark: dx dy at intensity 1, in hundredths of
# the inter-ocular distance; the right half moves by (-dx, dy). Directions follow the FACS manual, sizes are ours.
_MOTION = """
     1   18: 0 -2  19: 0 -8  20: 0 -20  21: 0 -25  38: 0 -1
     2   17: 0 -13  18: 0 -21  19: 0 -17  20: 0 -7  37: 0 -1
     4   17: 1 0  18: 3 6  19: 5 12  20: 7 14  21: 8 14  37: 0 1  38: 0 1.5
     5   37: 0 -8.5  38: 0 -8.5  40: 0 1  41: 0 1
     6   2: -1 -1  17: 0 3  18: 0 2  36: 1.5 0  37: 0 2  40: 0 -4  41: 0 -5.5
     7   37: 0 5  38: 0 4.5  40: 0 -4.5  41: 0 -4.5
     9   19: 2 6  20: 4 10  21: 5 12  29: 0 -3  30: 0 -5  31: -3 -10  32: -1 -8  33: 0 -6  37: 0 2  38: 0 3
     9   40: 0 -4  41: 0 -3.5  49: 0 -5  50: 0 -6  51: 0 -5
    10   31: -2 -5  32: 0 -4  33: 0 -3  48: 0 2  49: -1 -12  50: 0 -13  51: 0 -11  60: 0 2  61: 0 -7  62: 0 -7
    10   66: 0 -5  67: 0 -5
    12   3: -3 -3  4: -3 -3  31: -3 -1  48: -17 -17  49: -10 -6  50: -2 -1  57: 0 1  58: -4 0  59: -10 -6
    12   60: -16 -16  61: -4 -2  62: 0 1  66: 0 2  67: -4 0
    15   48: -3 15  49: -2 4  58: 0 1  59: -4 9  60: -2 14  61: 0 1  67: 0 2
    16   48: -1 2  57: 0 12  58: -2 12  59: -3 10  60: -1 2  66: 0 6  67: -1 6
    17   6: 0 -2  7: 0 -5  8: 0 -6  48: 0 3  50: 0 -2  51: 0 -3  57: 0 -9  58: 0 -8  59: 0 -4  60: 0 3
    17   61: 0 -4  62: 0 -5  66: 0 -6  67: 0 -5
    20   4: -2 1  5: -2 1  48: -22 7  49: -13 4  50: -3 2  51: 0 1  57: 0 -1  58: -7 -1  59: -15 2  60: -21 6
    20   61: -7 0  67: -7 2
    23   48: 7 0  49: 3 3.5  50: 1 5  51: 0 4.5  57: 0 -6  58: 2 -6  59: 3 -3.5  60: 6 0
    24   48: 3 1  49: 1 5  50: 0 7  51: 0 6.5  57: 0 -8.5  58: 1 -8  59: 1 -4.5  60: 2 1
    25   49: 0 -1.5  50: 0 -2.5  51: 0 -2.5  57: 0 6  58: 0 6  59: 0 3  61: 0 -5  62: 0 -4.5  66: 0 8.5
    25   67: 0 8
    26   3: 1 3  4: 2 8  5: 2 14  6: 2 20  7: 1 23  8: 0 24  48: 5 6  57: 0 23  58: 0 22  59: 2 14  60: 5 6
    26   61: 0 -1.5  62: 0 -1.5  66: 0 24  67: -1 22
    27   2: 1 2  3: 3 7  4: 4 16  5: 4 27  6: 3 37  7: 1 41  8: 0 42  48: 7 13  49: 3 0  50: 0 -3  51: 0 -3
    27   57: 0 42  58: -1 40  59: 2 27  60: 7 13  61: 0 -5  62: 0 -4.5  66: 0 44  67: -1 42
"""

# Lines that AUs carve into the skin. A line runs through four points, given as (dx, dy) from the anchor landmark; the
# depth is the share of the light that the line takes away at intensity 1. Columns:
# AU, anchor, dx dy of each point, width, depth.
_CREASES = _table("""
     1 21   -0.3  -0.25  -0.12  -0.29   0.06   -0.3   0.24  -0.28   0.035  0.3
     1 21  -0.28  -0.41   -0.1  -0.45   0.08  -0.46   0.24  -0.44    0.03 0.26
     2 18  -0.12  -0.16    0.0  -0.24   0.16  -0.28   0.36  -0.29   0.032 0.28
     2 18  -0.02  -0.36    0.1  -0.42   0.24  -0.45    0.4  -0.45   0.028 0.22
     4 21   0.13  -0.14   0.15  -0.04   0.15   0.07   0.11   0.17   0.035 0.45
     4 21   0.04    0.1   0.09   0.14   0.13   0.19   0.15   0.25    0.04  0.2
     5 37   -0.1  -0.03   0.03  -0.09   0.17  -0.09    0.3  -0.01    0.02  0.3
     6 36  -0.07  -0.03  -0.15  -0.07  -0.21  -0.11  -0.26  -0.16   0.026  0.4
     6 36  -0.08   0.02  -0.16   0.02  -0.23   0.01   -0.3  -0.02   0.026 0.42
     6 36  -0.07   0.06  -0.14    0.1  -0.19   0.13  -0.24   0.15   0.024 0.36
     6 41  -0.17   0.06  -0.04    0.1   0.12   0.11   0.28   0.09    0.04 0.34
     7 41  -0.12  0.035    0.0   0.06   0.13   0.06   0.27   0.03   0.025 0.34
     9 27  -0.13   0.05  -0.05   0.02   0.05   0.02   0.13   0.05    0.03  0.5
     9 27  -0.15   0.13  -0.06   0.09   0.06   0.09   0.15   0.13    0.03  0.5
     9 27  -0.17   0.21  -0.08  0.165   0.08  0.165   0.17   0.21   0.026  0.4
     9 31    0.0   -0.3   0.03  -0.23   0.03  -0.16  -0.01   -0.1    0.03 0.35
     9 31  -0.01  -0.14  -0.09  -0.06  -0.13   0.04  -0.16   0.14   0.045 0.45
    10 31  -0.03   -0.1  -0.11  -0.02  -0.18    0.1  -0.24   0.24    0.05  0.5
    12 48   0.12  -0.42   0.01  -0.31  -0.07  -0.18  -0.11  -0.02    0.05 0.45
    12 48  -0.04  -0.06  -0.06  -0.02  -0.06   0.03  -0.04   0.07    0.03 0.35
    15 48  -0.03    0.0  -0.06   0.06  -0.08   0.12  -0.09   0.19    0.04 0.45
    15 48   0.13   -0.4   0.04  -0.33  -0.03  -0.24  -0.08  -0.14   0.035 0.22
    16 57  -0.22   0.05  -0.08   0.08   0.08   0.08   0.22   0.05    0.04  0.3
    17 57   -0.2   0.15  -0.07    0.1   0.07    0.1    0.2   0.15   0.045 0.45
    17 57   -0.1   0.22  -0.08   0.25  -0.11   0.27  -0.08    0.3    0.03  0.3
    17 57   0.09    0.2   0.07   0.23    0.1   0.26   0.07   0.29    0.03  0.3
    17 57  -0.02   0.25   0.02   0.27  -0.02   0.31   0.01   0.34    0.03 0.28
    20 48  -0.07   -0.1  -0.11  -0.02  -0.11   0.07  -0.08   0.15    0.04  0.4
    20 59  -0.05    0.1   0.04   0.14   0.12   0.15    0.2   0.14    0.03 0.25
    23 50  -0.06  -0.07  -0.06 -0.045  -0.055  -0.02  -0.05    0.0   0.016 0.35
    23 50   0.02  -0.08   0.02 -0.055   0.02  -0.03   0.02  -0.01   0.016  0.3
    24 48  -0.03  -0.07  -0.06  -0.02  -0.06   0.04  -0.02   0.09   0.035  0.4
    24 57  -0.22   0.04  -0.08   0.07   0.08   0.07   0.22   0.04    0.04 0.35
    26 48  -0.05  -0.26  -0.12  -0.12  -0.14   0.03   -0.1   0.18    0.05 0.16
    27 48  -0.02  -0.36  -0.12  -0.18  -0.16   0.02  -0.11   0.24    0.06 0.28
""")

# Round swellings (height > 0) and hollows that AUs make; the height is in tenths of the inter-ocular distance. Columns:
# AU, anchor, dx dy of the centre, radius, height.
_BULGES = _table("""
     4 21   0.08  0.02   0.09  1.2
     6 41  -0.06   0.3    0.2  1.2
     9 31  -0.02  -0.1   0.09  1.2
    10 49  -0.03  -0.1   0.12  1.0
    12 48   -0.2  -0.3   0.22  1.8
    15 48  -0.12  0.12    0.1  0.8
    17 57    0.0  0.24   0.14  1.4
    24 51    0.0 -0.07   0.12  0.8
    26 48   -0.3   0.0   0.18 -0.8
    27 48   -0.3   0.0   0.22 -1.4
""")


def _mirrored(half, middle=()):
    """Returns the points of the left half, those of the midline, then the left half mirrored in reverse order."""
    return [*half, *middle, *[(-x, *rest) for x, *rest in reversed(half)]]


def _mean_face() -> np.ndarray:
    points = np.zeros((TEETH.stop, 3), np.float32)
    for number, x, y, z in _HALF_FACE:
        landmark = int(number)
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
    """Returns the displacements of all points at intensity 1, by AU."""
    motions: dict[int, np.ndarray] = {}
    for line in _MOTION.strip().splitlines():
        au, *numbers = line.replace(":", " ").split()
        motion = motions.setdefault(int(au), np.zeros((TEETH.stop, 3), np.float32))
        for number, dx, dy in np.array(numbers, float).reshape(-1, 3):
            landmark = int(number)
            motion[MIRRORED[landmark]] = -dx, dy, 0.0
            motion[landmark] = dx, dy, 0.0
    return {au: motion / 100 for au, motion in motions.items()}


def _both_sides(rows: np.ndarray, points: int) -> np.ndarray:
    """Returns the rows of a table with `points` pairs (dx, dy), each followed by its mirror image if it has one."""
    result = []
    for row in rows:
        result.append(row)
        partner = MIRRORED[int(row[1])]
        if partner != row[1]:
            mirrored = row.copy()
            mirrored[1] = partner
            mirrored[2 : 2 + 2 * points : 2] *= -1
            result.append(mirrored)
    return np.array(result)


MEAN_FACE = _mean_face()
AU_MOTION = _motions()
CREASES = _both_sides(_CREASES, 4)
BULGES = _both_sides(_BULGES, 1)
# Pairs of points that must keep their order from top to bottom: of each lip, its outer and inner edge; of each eye, its
# upper and lower lid.
_UPPER_LIP, _UPPER_INNER = np.array([49, 50, 51, 52, 53]), np.array([61, 61, 62, 63, 63])
_LOWER_LIP, _LOWER_INNER = np.array([59, 58, 57, 56, 55]), np.array([67, 67, 66, 65, 65])
_UPPER_LID, _LOWER_LID = np.array([37, 38, 43, 44]), np.array([41, 40, 47, 46])


def face_points(
    rest: Float[np.ndarray, "points 3"], intensities: Mapping[int, float], *, asymmetry: float = 0.0
) -> Float[np.ndarray, "points 3"]:
    """Returns the points of the face `rest` with action units: `intensities[au]` is 0 for none, 1 for the strongest.

    `asymmetry` a makes the image's right half move by 1 + a of the intensity and the left half by 1 - a. Lips
    and lids never pass through each other. An AU that is not in `AU_MOTION` raises KeyError.
    """
    moved = rest.copy()
    side = (1.0 + asymmetry * np.sign(MEAN_FACE[:, :1])).astype(np.float32)
    for au, intensity in intensities.items():
        moved += (AU_MOTION[au] * np.float32(intensity)) * side
    y = moved[:, 1]
    # Points that passed each other meet halfway; the lids keep a gap, the inner lips may close.
    for upper, lower, gap in ((np.array([61, 62, 63]), np.array([67, 66, 65]), 0.0), (_UPPER_LID, _LOWER_LID, 0.05)):
        excess = np.maximum(y[upper] + gap - y[lower], 0.0) / 2
        y[upper] -= excess
        y[lower] += excess
    # The lips keep some thickness.
    y[_UPPER_LIP] = np.minimum(y[_UPPER_LIP], y[_UPPER_INNER] - [0.02, 0.03, 0.03, 0.03, 0.02])
    y[_LOWER_LIP] = np.maximum(y[_LOWER_LIP], y[_LOWER_INNER] + [0.02, 0.04, 0.04, 0.04, 0.02])
    return moved


def anchored(
    points: Float[np.ndarray, "points 3"], anchors: Float[np.ndarray, " rows"], offsets: Float[np.ndarray, "rows k 2"]
) -> Float[np.ndarray, "rows k 3"]:
    """Returns the 3-D points at `offsets` (dx, dy) from the anchor landmarks of the face with these points."""
    depths = np.zeros((*offsets.shape[:2], 1))
    return points[anchors.astype(int)][:, None] + np.concatenate([offsets, depths], -1).astype(np.float32)


def rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Returns R, used as `points @ R.T`; angles in radians: yaw turns the nose right, pitch down, roll is clockwise."""
    cy, cp, cr = np.cos([yaw, pitch, roll])
    sy, sp, sr = np.sin([yaw, pitch, roll])
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (tilt @ nod @ turn).astype(np.float32)
