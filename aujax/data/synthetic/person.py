"""A drawn person: the 3-D points of the face, how action units move them, and the looks, the same in all images.

Points are (x, y, z) in units of the distance between the two eye centres: x to the image's right, y down, z
towards the viewer; the origin lies between the eyes. Rows 0 to 67 are the iBUG-68 landmarks, the rows after
them are points for painting only (`CROWN`, `HAIRLINE`, `EARS`, `IRISES`, `TEETH`). The tables hold the image's left
half and the midline; the right half is their mirror image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from aujax.codebook import MIRRORED
from aujax.data.sources import words
from aujax.data.synthetic.canvas import Colour, Curve, curve, mix, shade, table

Points = Float[np.ndarray, "points 3"]
View = Callable[[Curve], Curve]  # projects 3-D points to (x, y) pixels

CROWN, HAIRLINE, EARS = slice(68, 81), slice(81, 92), slice(92, 104)
IRISES, TEETH = slice(104, 106), slice(106, 107)
# The point on the other side of the face; a point of the midline is its own partner.
_PARTNERS = (*MIRRORED, *range(80, 67, -1), *range(91, 80, -1), *range(98, 104), *range(92, 98), 105, 104, 106)

# Columns: point, x, y, z.
_HALF_FACE = table("""
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
    68   -1.13  -0.10  -0.50
    69   -1.15  -0.45  -0.50
    70   -1.09  -0.85  -0.50
    71   -0.92  -1.20  -0.50
    72   -0.64  -1.48  -0.50
    73   -0.33  -1.63  -0.50
    74    0.00  -1.67  -0.50
    81   -1.10   0.05  -0.46
    82   -1.04  -0.35  -0.36
    83   -0.97  -0.72  -0.20
    84   -0.78  -1.00  -0.08
    85   -0.42  -1.16   0.00
    86    0.00  -1.20   0.02
    92   -1.07  -0.10  -0.56
    93   -1.20  -0.22  -0.56
    94   -1.30  -0.12  -0.56
    95   -1.27   0.20  -0.56
    96   -1.18   0.46  -0.56
    97   -1.08   0.48  -0.56
   104  -0.505   0.00   0.00
   106    0.00   1.11   0.20
""")

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
_CREASES = table("""
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
_BULGES = table("""
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


def _both_halves(rows: np.ndarray) -> Points:
    """Returns (x, y, z) of all points from rows (point, x, y, z) of the left half; 0 for points without a row."""
    points = np.zeros((len(_PARTNERS), 3), np.float32)
    for number, x, y, z in rows:
        points[_PARTNERS[int(number)]] = -x, y, z
        points[int(number)] = x, y, z
    return points


def _both_sides(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of one of the two tables above, each followed by its mirror image if it has one."""
    result = []
    for row in rows:
        result.append(row)
        mirrored = row.copy()
        mirrored[1] = _PARTNERS[int(row[1])]
        mirrored[2:-2:2] *= -1  # the dx: two columns before the pairs, two behind
        if mirrored[1] != row[1]:
            result.append(mirrored)
    return np.array(result)


MEAN_FACE = _both_halves(_HALF_FACE)
AU_MOTION: dict[int, Points] = {}  # the displacements of all points at intensity 1
for _line in _MOTION.strip().splitlines():
    _au, *_numbers = map(float, _line.replace(":", " ").split())
    _motion = _both_halves(np.pad(np.reshape(_numbers, (-1, 3)), [(0, 0), (0, 1)]))
    AU_MOTION[int(_au)] = AU_MOTION.get(int(_au), 0) + _motion / 100
CREASES = _both_sides(_CREASES).astype(np.float32)
BULGES = _both_sides(_BULGES)
# Pairs of points that must keep their order from top to bottom: of each lip, its outer and inner edge; of each eye, its
# upper and lower lid.
_UPPER_LIP, _UPPER_INNER, _LOWER_LIP, _LOWER_INNER = table("""
    49 50 51 52 53
    61 61 62 63 63
    59 58 57 56 55
    67 67 66 65 65
""").astype(int)
# The least thickness of the upper and of the lower lip there.
_UPPER_THICKNESS, _LOWER_THICKNESS = table("""
    0.02 0.03 0.03 0.03 0.02
    0.02 0.04 0.04 0.04 0.02
""")
_UPPER_LID, _LOWER_LID = table("37 38 43 44\n 41 40 47 46").astype(int)


def face_points(rest: Points, intensities: Mapping[int, float], *, asymmetry: float = 0.0) -> Points:
    """Returns the points of the face `rest` with action units: `intensities[au]` is 0 for none, 1 for the strongest.

    `asymmetry` a makes the image's right half move by 1 + a of the intensity and the left half by 1 - a. Lips
    and lids never pass through each other. An AU that is not in `AU_MOTION` raises KeyError.
    """
    moved = rest.copy()
    side = (1.0 + asymmetry * np.sign(MEAN_FACE[:, :1])).astype(np.float32)
    for au, intensity in intensities.items():
        moved += AU_MOTION[au] * intensity * side
    y = moved[:, 1]
    # Points that passed each other meet halfway; the lids keep a gap, the inner lips may close.
    for upper, lower, gap in (([61, 62, 63], [67, 66, 65], 0.0), (_UPPER_LID, _LOWER_LID, 0.05)):
        excess = np.maximum(y[upper] + gap - y[lower], 0.0) / 2
        y[upper] -= excess
        y[lower] += excess
    # The lips keep some thickness.
    y[_UPPER_LIP] = np.minimum(y[_UPPER_LIP], y[_UPPER_INNER] - _UPPER_THICKNESS)
    y[_LOWER_LIP] = np.maximum(y[_LOWER_LIP], y[_LOWER_INNER] + _LOWER_THICKNESS)
    return moved


def rotation(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Returns R, used as `points @ R.T`; angles in radians: yaw turns the nose right, pitch down, roll is clockwise."""
    return Rotation.from_euler("yxz", [yaw, -pitch, roll]).as_matrix().astype(np.float32)


# sRGB, from the lightest to the darkest; a person's tone is uniform over the whole range.
SKIN_TONES = table("""
    247 219 200
    240 199 170
    226 176 140
    203 148 108
    176 122  84
    141  93  63
    106  71  52
     86  60  47
""")
HAIR_COLOURS = table("""
     24  20  20
     44  30  24
     78  50  32
    118  78  46
    126  58  34
    192 152  92
    222 190 132
""")
IRIS_COLOURS = table("""
     62  38  24
     92  58  34
    120  88  48
     92 112  74
     84 118 148
    120 140 158
""")
FABRICS = table("""
     38  44  66
    120  36  44
    232 228 218
     60  92  82
    140 124 160
    214 172  90
     40  40  42
     92 132 176
    176  92 110
    108 108 112
""")
# Of blood in light and in dark skin, of grey and white hair, and of lipsticks.
_BLOOD = table("178 84 84\n112 52 52")
_GREY = table("120 118 118\n236 234 230")
_LIPSTICKS = table("168 30 48\n190 72 92\n120 30 52\n206 96 84")

_X, _Y, _Z = MEAN_FACE.T
_ALL = np.arange(len(MEAN_FACE))
_JAW, _BROWS, _NOSE, _EYES, _MOUTH = np.split(_ALL[:68], [17, 27, 36, 48])
_HEAD = np.r_[_JAW, CROWN, HAIRLINE, EARS]

# The ways in which the faces of people differ from the mean face, such as a wider head, a heavier jaw, a longer nose:
# standard deviation, points, axis of their displacement (0 for x), and the displacement as a function of the mean face.
_MODES = (
    (0.045, _HEAD, 0, _X),
    (0.07, _JAW, 0, _X * np.clip(_Y, 0, 1.3)),
    (0.04, _ALL, 1, np.maximum(_Y, 0)),
    (0.05, _JAW, 1, np.clip(_Y - 0.8, 0, 1)),
    (0.05, np.r_[CROWN, HAIRLINE], 1, _Y),
    (0.06, _ALL[HAIRLINE], 1, 1 - _X**2),
    (0.14, _EYES, 1, _Y),
    (0.05, _EYES, 0, _X - 0.505 * np.sign(_X)),
    (0.07, _EYES, 1, 0.505 - np.abs(_X)),
    (0.022, np.r_[_EYES, IRISES, _BROWS], 0, np.sign(_X)),
    (0.032, _BROWS, 1, np.ones_like(_X)),
    (0.1, _BROWS, 1, 0.58 - np.abs(_X)),
    (0.25, _BROWS, 1, (np.abs(_X) - 0.58) ** 2 - 0.06),
    (0.13, _NOSE, 0, _X),
    (0.06, _NOSE, 1, _Y),
    (0.2, _NOSE, 2, np.maximum(_Z - 0.1, 0)),
    (0.08, _MOUTH, 0, _X),
    (0.2, np.arange(48, 60), 1, _Y - 1.05),
    (0.025, _MOUTH, 1, np.ones_like(_X)),
    (0.028, _MOUTH, 1, (_X / 0.39) ** 2),
)
_SPREADS = np.array([spread for spread, *_ in _MODES], np.float32)
_DISPLACEMENTS = np.zeros((len(_MODES), *MEAN_FACE.shape), np.float32)
for _row, (_, _points, _axis, _values) in enumerate(_MODES):
    _DISPLACEMENTS[_row, _points, _axis] = _values[_points]
_SAMPLES = 41  # points of a curve of hair


class HairStyle(NamedTuple):
    """A way to wear hair or a head cover.

    Attributes:
      weight: how often it is worn, relative to the others.
      volume: thickness over the crown.
      fringe: how far the hair reaches below the hairline.
      part: how far the part is from the middle.
      side: y of the lower end at the temples (down, 0 at the eyes).
      back: y of the lower end behind the head; 0 for none.
      curl: standard deviation of the waves.
      fabric: 1 for a head cover instead of hair.
      bun: 1 for a bun on the crown.
    """

    name: str
    weight: float
    volume: float
    fringe: float
    part: float
    side: float
    back: float
    curl: float
    fabric: float
    bun: float


# The columns are the attributes of `HairStyle`.
_STYLES = """
    cropped     13  0.04   0.00  0.00  -0.05  0.00  0.000  0  0
    receding     7  0.05  -0.22  0.00  -0.10  0.00  0.000  0  0
    short       15  0.14   0.08  0.25  -0.10  0.00  0.000  0  0
    side-swept  11  0.20   0.20  0.50   0.05  0.00  0.000  0  0
    fringe       7  0.16   0.42  0.00   0.12  1.00  0.000  0  0
    bob          9  0.20   0.05  0.30   1.25  1.35  0.000  0  0
    long        11  0.14  -0.05  0.20   1.90  3.00  0.000  0  0
    wavy         9  0.22   0.10  0.40   1.70  2.40  0.035  0  0
    curly        6  0.30   0.16  0.00   0.20  0.70  0.060  0  0
    afro         5  0.52   0.02  0.00   0.10  0.50  0.035  0  0
    bun          5  0.06  -0.08  0.00  -0.10  0.00  0.000  0  1
    headscarf    3  0.12   0.16  0.00   1.50  2.60  0.000  1  0
    beanie       3  0.14   0.36  0.00  -0.25  0.00  0.000  1  0
"""
STYLES = [HairStyle(name, *map(float, numbers)) for name, numbers in words(_STYLES).items()]


class Hair(NamedTuple):
    """The 3-D curves of a person's hair: `outer` and `inner` bound the front, `back` hangs behind the head."""

    outer: Curve
    inner: Curve
    back: Curve | None
    strands: Curve


def random_fabric(rng: np.random.Generator, low: float, high: float) -> Colour:
    """Returns a colour of `FABRICS`, made darker or lighter by a random factor from `low` to `high`."""
    return shade(rng.choice(FABRICS), rng.uniform(low, high))


def _resampled(points: Curve, count: int) -> Curve:
    """Returns `count` points of the smooth curve through `points`."""
    points = curve(points, steps=6)
    at = np.linspace(0, len(points) - 1, count)
    low = np.minimum(at.astype(int), len(points) - 2)
    weight = (at - low)[:, None].astype(np.float32)
    return points[low] * (1 - weight) + points[low + 1] * weight


def _hair(style: HairStyle, rest: Points, rng: np.random.Generator) -> Hair:
    """Returns the hair of this style on the head with the points `rest`."""
    # The outer edge is the crown moved away from a point above the eyes, least at the sides, down to the temples.
    outer = rest[CROWN].copy()
    away = outer[:, :2] - [0.0, -0.3]
    away /= np.sqrt((away**2).sum(1, keepdims=True))
    outer[:, :2] += away * (style.volume * np.clip(0.45 - 0.55 * away[:, 1:], 0.3, 1.0))
    end = abs(outer[0, 0]) + 0.4 * style.volume
    outer = np.array([(-end, style.side, -0.5), *outer, (end, style.side, -0.5)], np.float32)
    outer = _resampled(outer, _SAMPLES)
    outer[:, :2] += style.curl * rng.standard_normal((_SAMPLES, 2))

    # The inner edge is the hairline, lowered by the fringe, with a part on one side.
    inner = rest[HAIRLINE].copy()
    across = inner[:, 0] / np.abs(inner[:, 0]).max()
    side = rng.choice([-1.0, 1.0])
    inner[:, 1] += (style.fringe - 0.3 * style.part * side * across) * (1.0 - across**2)
    inner = np.array([(-1.08, style.side, -0.4), *inner, (1.08, style.side, -0.4)], np.float32)
    if style.side > 0.5:  # long hair falls over the edge of the face
        inner[[0, -1], 0] *= 0.92
        inner[[1, -2], 0] *= 0.93
    inner = _resampled(inner, _SAMPLES)
    ragged = 0.012 + 0.5 * style.curl if not style.fabric else 0.0
    inner[:, 1] += ragged * rng.standard_normal(_SAMPLES)

    back = None
    if style.back:
        wide = 1.2 + 0.5 * style.volume
        low = [(wide, 0.4 * style.back, -0.6), (wide * 0.95, style.back, -0.6)]
        low += [(0.0, style.back * 1.04, -0.6)] + [(-x, y, z) for x, y, z in reversed(low)]
        back = _resampled(np.concatenate([outer[1:-1], np.array(low, np.float32)]), 2 * _SAMPLES)
        back[_SAMPLES:, :2] += style.curl * rng.standard_normal((_SAMPLES, 2))

    # Strands (or folds of a fabric) follow the edges at random depths between them.
    count, length = (8, 12) if style.fabric else (36, 10)
    depth = rng.uniform(0.04, 0.96, (count, 1, 1)).astype(np.float32)
    start = rng.integers(0, _SAMPLES - length, count)[:, None] + np.arange(length)
    strands = outer[start] * (1 - depth) + inner[start] * depth
    strands[..., :2] += style.curl * 0.6 * rng.standard_normal((count, length, 2))
    return Hair(outer, inner, back, strands.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Person:
    """A drawn person: the points of the face at rest, colours, hair, glasses, facial hair and age (0 to 1).

    `glasses` are radius, squareness and colour of the rims, or None.
    """

    rest: Points
    skin: Colour
    lips: Colour
    iris: Colour
    hair_colour: Colour
    clothes: Colour
    fabric: Colour
    style: HairStyle
    hair: Hair | None
    brow_width: float
    lashes: float
    lid_crease: float
    age: float
    beard: str
    freckles: np.ndarray
    glasses: tuple[float, float, Colour] | None


@functools.lru_cache(maxsize=4096)
def make_person(seed: int, identity: int) -> Person:
    """Returns the drawn person number `identity` of the data set `seed`."""
    rng = np.random.default_rng((seed, identity, 2))
    tone, age, masculine = rng.random(), rng.beta(1.3, 1.8), rng.random() < 0.5
    position = tone * (len(SKIN_TONES) - 1)
    low = int(position)
    skin = mix(SKIN_TONES[low], SKIN_TONES[low + 1], position - low)
    skin = np.clip(skin * rng.uniform(0.96, 1.04, 3), 20, 255)

    weights = np.clip(rng.standard_normal(len(_MODES)), -2.2, 2.2).astype(np.float32) * _SPREADS
    rest = MEAN_FACE + np.tensordot(weights, _DISPLACEMENTS, 1)
    rest[:60, :2] += 0.008 * rng.standard_normal((60, 2))

    short = [style.side < 0.1 and not style.back and not style.bun for style in STYLES]
    weights = np.where(np.equal(short, masculine), 1.0, 0.12) * [style.weight for style in STYLES]
    style = STYLES[rng.choice(len(STYLES), p=weights / weights.sum())]
    if rng.random() < max(0.0, age - 0.45) * 1.4:
        hair_colour = mix(*_GREY, weight=rng.random())
    else:
        count = 2 if rng.random() < min(1.0, 0.2 + 1.2 * tone) else len(HAIR_COLOURS)  # the first two are dark
        hair_colour = shade(rng.choice(HAIR_COLOURS[:count]), rng.uniform(0.85, 1.15))
    bald = masculine and rng.random() < 0.04 + 0.14 * age
    lips = mix(skin, mix(*_BLOOD, weight=tone), rng.uniform(0.4, 0.65))
    if not masculine and rng.random() < 0.35:  # lipstick
        lips = mix(lips, rng.choice(_LIPSTICKS), 0.7)
    beards = ("none", "stubble", "moustache", "goatee", "full")
    beard = rng.choice(beards, p=[0.52, 0.2, 0.07, 0.08, 0.13]) if masculine else "none"
    frame = random_fabric(rng, 0.4, 0.9)
    # The arguments are evaluated in this order, which belongs to the faces: each takes its random numbers in turn.
    return Person(
        rest=rest,
        skin=skin,
        lips=lips,
        iris=IRIS_COLOURS[min(5, int(rng.exponential(0.7 + 2.5 * max(0.0, 0.6 - tone))))],
        hair_colour=hair_colour,
        clothes=random_fabric(rng, 0.7, 1.1),
        fabric=random_fabric(rng, 0.8, 1.1),
        style=style,
        hair=None if bald else _hair(style, rest, rng),
        brow_width=rng.uniform(0.1, 0.165) if masculine else rng.uniform(0.07, 0.125),
        lashes=rng.uniform(0.02, 0.035) if masculine else rng.uniform(0.03, 0.06),
        lid_crease=rng.choice([0.0, 0.6, 1.0]),
        age=age,
        beard=beard,
        freckles=rng.normal(0, (0.45, 0.16), (rng.integers(0, 26), 2)) * (rng.random() < 0.25),
        glasses=(rng.uniform(0.32, 0.42), rng.uniform(2.0, 4.0), frame) if rng.random() < 0.2 else None,
    )
