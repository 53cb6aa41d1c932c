"""Codebooks: the action units (AUs) of each expression, and the region of each AU on the face.

AUs have their FACS numbers and landmarks their iBUG-68 indices (0-based); left and right are those of the image. A
`Codebook` has two tables: expression -> FACS numbers (the paper's Fig. 2), and FACS number -> ellipses (`Ellipse`)
placed by landmarks. `FACS` is symmetric, follows the roll of the face, and has lengths in units of the inter-ocular
distance; `REFERENCE` is what the paper's released code draws, with lengths in pixels of a 224 x 224 image.
"""

import dataclasses
import fractions
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

EXPRESSIONS = ("Neutral", "Happiness", "Surprise", "Fear", "Anger", "Disgust", "Sadness")

# FACS numbers and names: Ekman, Friesen & Hager, Facial Action Coding System (2002).
ACTION_UNITS = {
    1: "Inner brow raiser",
    2: "Outer brow raiser",
    4: "Brow lowerer",
    5: "Upper lid raiser",
    6: "Cheek raiser",
    7: "Lid tightener",
    9: "Nose wrinkler",
    10: "Upper lip raiser",
    12: "Lip corner puller",
    14: "Dimpler",
    15: "Lip corner depressor",
    16: "Lower lip depressor",
    17: "Chin raiser",
    20: "Lip stretcher",
    23: "Lip tightener",
    24: "Lip pressor",
    25: "Lips part",
    26: "Jaw drop",
    27: "Mouth stretch",
    43: "Eyes closed",
}

# Index of each landmark's counterpart in the face mirrored left to right.
MIRRORED = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *range(27, 31),  # nose bridge
    *range(35, 30, -1),  # nostrils
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *range(54, 47, -1),  # outer lips
    *range(59, 54, -1),
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)

Pair = tuple[int, int]
Lengths = tuple[float, float]  # in x and y


def rescale_landmarks(landmarks: Any, scale: Any) -> Any:
    """Returns the (x, y) landmarks of an image in pixels of that image resized by the factors `scale` for x and y.

    Pixel centres have whole-numbered coordinates, so the image begins at -0.5, and x + 0.5, the distance from its edge,
    is what is proportional to the size. Landmarks and factors are NumPy or JAX arrays (..., 2).

    >>> import numpy as np
    >>> rescale_landmarks(np.array([-0.5, 0.0]), np.array([2.0, 2.0]))
    array([-0.5,  0.5])
    """
    return (landmarks + 0.5) * scale - 0.5


class Ellipse(NamedTuple):
    """A filled ellipse. The x and the y of its centre are the means of a pair of landmarks each.

    `radius` and `offset` are (x, y) lengths in the codebook's unit; `canvas_radius` and `canvas_offset` are added to
    them, in fractions of the canvas (width, height). `width` and `height` are pairs of landmarks: half the extent from
    the first to the second, in x and in y, is added to the radius. A radius of 0 or less in total is replaced by that
    of `fallback`.
    """

    x: Pair
    y: Pair
    radius: Lengths = (0.0, 0.0)
    offset: Lengths = (0.0, 0.0)
    width: Pair = (0, 0)
    height: Pair = (0, 0)
    canvas_radius: Lengths = (0.0, 0.0)
    canvas_offset: Lengths = (0.0, 0.0)
    fallback: Lengths = (0.0, 0.0)

    def mirrored(self) -> "Ellipse":
        """Returns the same ellipse on the other half of the face."""
        x, y, width, height = ((MIRRORED[a], MIRRORED[b]) for a, b in (self.x, self.y, self.width, self.height))
        offset = (-self.offset[0], self.offset[1])
        return self._replace(x=x, y=y, width=width[::-1], height=height, offset=offset)


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Two tables, expression -> AUs and AU -> ellipses, and the way in which the ellipses are drawn.

    `rendering` names a row of `ellipses.RENDERINGS`. `canvas` is the (height, width) of the image for which lengths in
    pixels are meant, None if the lengths scale with the face. The order of `aus` is that of the labels.
    """

    name: str
    aus: Mapping[str, tuple[int, ...]]
    ellipses: Mapping[int, tuple[Ellipse, ...]]
    rendering: str
    canvas: tuple[int, int] | None = None

    @property
    def expressions(self) -> tuple[str, ...]:
        """The class names in label order."""
        return tuple(self.aus)

    @property
    def all_aus(self) -> tuple[int, ...]:
        """The FACS numbers of all AUs that have a region on the face, in ascending order."""
        return tuple(sorted(self.ellipses))

    def same_region(self, aus: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Returns the FACS numbers in groups that have the same region, so that occluding one AU occludes its group.

        >>> FACS.same_region((1, 12, 15))
        ((1,), (12, 15))
        """
        groups = {}
        for number in aus:
            groups.setdefault(frozenset(self.ellipses[number]), []).append(number)
        return tuple(tuple(group) for group in groups.values())

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.aus.items()), tuple(self.ellipses), self.rendering, self.canvas))


_FIGURE_2 = {
    "Neutral": (),
    "Happiness": (6, 12, 25),
    "Surprise": (1, 2, 5, 26, 27),
    "Fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "Anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),
    "Disgust": (9, 10, 16, 17, 25, 26),
    "Sadness": (1, 4, 6, 15, 17),
}

# The fields of `Ellipse`, a row per ellipse; "-" is the default. With sides "both", its mirror image is drawn as well.
# The regions of the paper's Fig. 2 with their FACS meaning, mirrored exactly; lengths in inter-ocular distances.
# Sizes are those of the released code on a face of 76 px between the eyes (20 px = 0.26, 28 px = 0.37, ...).
_FACS_ELLIPSES = """
AUs          sides  x      y      radius     offset   width  height
1            both   20,20  20,20  0.37,0.29  -        -      -
2            both   18,18  18,18  0.37,0.29  -        -      -
4            one    19,24  19,24  0,0.16     -        19,24  -
5            both   36,39  38,41  0.05,0.08  -        36,39  37,41
6            both   41,41  41,41  0.29,0.29  0,0.49   -      -
7            both   36,39  38,41  0.05,0.15  -        36,39  37,41
9            both   31,31  29,29  0.26,0.26  -        -      -
10           both   48,48  50,50  0.26,0.26  -        -      -
12,15        both   48,48  48,48  0.26,0.26  -        -      -
14           both   48,48  48,48  0.26,0.26  -0.26,0  -      -
16           both   59,59  59,59  0.26,0.26  -        -      -
17           one    8,57   57,8   0.26,0.03  -        -      57,8
20           both   48,6   48,6   0.26,0.26  -        -      -
23,24,26,27  one    48,54  51,57  0.03,0.06  -        48,54  51,57
25           one    51,51  51,51  0.33,0.13  -        -      -
25           one    57,57  57,57  0.33,0.13  -        -      -
43           both   36,39  38,41  0.05,0.05  -        36,39  37,41
"""

# What the authors' released code draws, in pixels of its canvas, errors included: the right ellipses of AU10 and AU20
# are not the mirror images of the left ones.
_REFERENCE_ELLIPSES = """
AUs          sides  x      y      radius  offset  width  height  canvas_radius  canvas_offset  fallback
1            one    20,20  20,20  -       -       -      -       1/8,1/10       -              -
1            one    23,23  23,23  -       -       -      -       1/8,1/10       -              -
2            one    18,18  18,18  -       -       -      -       1/8,1/10       -              -
2            one    25,25  25,25  -       -       -      -       1/8,1/10       -              -
4            one    19,24  19,24  -       -       19,24  19,24   -              -              10,10
5            one    36,39  38,41  -       -       36,39  38,41   -              -              5,5
5            one    42,45  44,47  -       -       42,45  44,47   -              -              5,5
6            one    41,41  41,41  -       -       -      -       1/10,1/10      0,1/6          -
6            one    46,46  46,46  -       -       -      -       1/10,1/10      0,1/6          -
7            one    36,39  38,41  0,10    -       36,39  38,41   -              -              5,5
7            one    42,45  44,47  0,10    -       42,45  44,47   -              -              5,5
9            one    31,31  29,29  20,20   -       -      -       -              -              -
9            one    35,35  29,29  20,20   -       -      -       -              -              -
10           one    48,48  50,50  20,20   -       -      -       -              -              -
10           one    52,52  54,54  20,20   -       -      -       -              -              -
12,15        one    48,48  48,48  20,20   -       -      -       -              -              -
12,15        one    54,54  54,54  20,20   -       -      -       -              -              -
14           one    48,48  48,48  20,20   -20,0   -      -       -              -              -
14           one    54,54  54,54  20,20   20,0    -      -       -              -              -
16           one    59,59  59,59  20,20   -       -      -       -              -              -
16           one    55,55  55,55  20,20   -       -      -       -              -              -
17           one    59,8   59,8   -       -       59,8   59,8    -              -              5,5
20           one    48,6   48,6   20,20   -       -      -       -              -              -
20           one    50,10  50,10  20,20   -       -      -       -              -              -
23,24,26,27  one    48,54  51,57  -       -       48,54  51,57   -              -              5,5
25           one    51,51  51,51  25,10   -       -      -       -              -              -
25           one    57,57  57,57  25,10   -       -      -       -              -              -
43           one    36,39  38,41  0,10    -       36,39  38,41   -              -              -
43           one    42,45  44,47  0,10    -       42,45  44,47   -              -              -
"""


def _ellipses(text: str) -> dict[int, tuple[Ellipse, ...]]:
    """Returns the ellipses of each AU from a table such as the two above."""
    header, *rows = text.strip().splitlines()
    regions = {}
    for row in rows:
        cells = {name: cell for name, cell in zip(header.split(), row.split(), strict=True) if cell != "-"}
        aus, sides = cells.pop("AUs"), cells.pop("sides")
        fields = {}
        for name, cell in cells.items():
            number = int if name in ("x", "y", "width", "height") else float
            fields[name] = tuple(number(fractions.Fraction(text)) for text in cell.split(","))
        ellipse = Ellipse(**fields)
        drawn = [ellipse, ellipse.mirrored()] if sides == "both" else [ellipse]
        for au in map(int, aus.split(",")):
            regions[au] = (*regions.get(au, ()), *drawn)
    return regions


FACS = Codebook(name="FACS", aus=_FIGURE_2, rendering="smooth", ellipses=_ellipses(_FACS_ELLIPSES))

# Disgust has AU5 where Fig. 2 lists AU10.
REFERENCE = Codebook(
    name="REFERENCE",
    aus={**_FIGURE_2, "Disgust": (5, 9, 16, 17, 25, 26)},
    rendering="coarse",
    canvas=(224, 224),
    ellipses=_ellipses(_REFERENCE_ELLIPSES),
)

CODEBOOKS = {book.name: book for book in (FACS, REFERENCE)}
_EXPECTED_FILE = (
    'expected {"aus": {expression: [FACS numbers]}}, and optionally "expressions": [class names in label order] '
    f'and "geometry": one of {", ".join(CODEBOOKS)}'
)


def custom(
    aus: Mapping[str, Sequence[int]],
    *,
    expressions: Sequence[str] = EXPRESSIONS,
    geometry: Codebook = FACS,
    name: str = "custom",
) -> Codebook:
    """Returns a codebook with a table of your own, expression -> FACS numbers, and the ellipses of `geometry`.

    `expressions` is the class list in label order; a class absent from `aus` has no AUs and so no AU map. An AU without
    a region or an expression that is not in the class list is a ValueError that lists the valid values. A class list
    that is empty, has duplicates, or is a single string is a ValueError.

    >>> custom({"Happiness": [6, 12]}).aus["Happiness"]
    (6, 12)
    """
    if isinstance(expressions, str) or not expressions or len(set(expressions)) < len(expressions):
        raise ValueError(f"expressions must be a sequence of different names, at least one, got {expressions!r}")
    for expression, numbers in aus.items():
        if expression not in expressions:
            raise ValueError(f"unknown expression {expression!r}: expected one of {', '.join(expressions)}")
        for number in numbers:
            if isinstance(number, bool) or number not in geometry.all_aus:  # True == 1
                raise ValueError(
                    f"{expression}: {number!r} is not the FACS number of an action unit with a region on the face; "
                    f"valid numbers: {', '.join(map(str, geometry.all_aus))}"
                )
    table = {expression: tuple(sorted(set(map(int, aus.get(expression, ()))))) for expression in expressions}
    return dataclasses.replace(geometry, name=name, aus=table)


def single_aus(aus: Sequence[int], *, geometry: Codebook = FACS) -> Codebook:
    """Returns a codebook with one class per AU in `aus`, in that order, and the ellipses of `geometry`.

    >>> single_aus((4, 12)).aus
    {'AU4': (4,), 'AU12': (12,)}
    """
    table = {f"AU{number}": [number] for number in aus}
    return custom(table, expressions=tuple(table), geometry=geometry, name="single action units")


def generic(codebook: Codebook) -> Codebook:
    """Returns a codebook with one class, of all the AUs: its AU map is the same for every expression.

    >>> generic(FACS).aus["all"] == FACS.all_aus
    True
    """
    return custom({"all": codebook.all_aus}, expressions=("all",), geometry=codebook, name="generic")


def load(name_or_path: str) -> Codebook:
    """Returns `FACS`, `REFERENCE`, or the codebook in a JSON file `{"aus": {expression: [FACS numbers]}}`.

    The file may also have "expressions" (the class list in label order; default: the keys of "aus") and "geometry"
    ("FACS" or "REFERENCE"). Any other name, key or form is a ValueError.
    """
    if name_or_path in CODEBOOKS:
        return CODEBOOKS[name_or_path]
    path = pathlib.Path(name_or_path)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(f"expected {', '.join(CODEBOOKS)} or the path of a .json file, got {name_or_path!r}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise ValueError(f"{path}: {_EXPECTED_FILE}, got {error}") from error
    if unexpected := _unexpected_part(content):
        raise ValueError(f"{path}: {_EXPECTED_FILE}, got {unexpected}")
    aus, geometry = content["aus"], CODEBOOKS[content.get("geometry", FACS.name)]
    try:
        return custom(aus, expressions=content.get("expressions", list(aus)), geometry=geometry, name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of a JSON object as a dictionary; JSON itself would silently keep the last of equal keys."""
    content = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key {name!r} twice")
        content[name] = value
    return content


def _unexpected_part(content: Any) -> str:
    """Returns the first part of a file's content that has not the form of a codebook, as text; empty if none."""
    if not isinstance(content, dict) or not isinstance(content.get("aus"), dict):
        return repr(content)
    for expression, numbers in content["aus"].items():
        if not isinstance(numbers, list):
            return f"{numbers!r} for {expression}"
    names = content.get("expressions", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return f"{names!r} for the expressions"
    if content.get("geometry", FACS.name) not in list(CODEBOOKS):
        return f"{content['geometry']!r} for the geometry"
    unknown = [name for name in content if name not in ("aus", "expressions", "geometry")]
    return f"the unknown keys {', '.join(unknown)}" if unknown else ""
