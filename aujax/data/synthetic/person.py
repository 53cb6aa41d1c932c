"""A drawn person: everything about a face that stays the same from image to image, with the hair as 3-D curves.

Lengths are in inter-ocular units, in the coordinates of `face`.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from aujax.data.synthetic.canvas import Colour, curve, mix, shade
from aujax.data.synthetic.face import CROWN, EARS, HAIRLINE, IRISES, MEAN_FACE

# sRGB, from the lightest to the darkest; a person's tone is uniform over the whole range.
SKIN_TONES: tuple[Colour, ...] = (
    *((247, 219, 200), (240, 199, 170), (226, 176, 140), (203, 148, 108)),
    *((176, 122, 84), (141, 93, 63), (106, 71, 52), (86, 60, 47)),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    *((24, 20, 20), (44, 30, 24), (78, 50, 32), (118, 78, 46)),
    *((126, 58, 34), (192, 152, 92), (222, 190, 132)),
)
IRIS_COLOURS: tuple[Colour, ...] = (
    *((62, 38, 24), (92, 58, 34), (120, 88, 48)),
    *((92, 112, 74), (84, 118, 148), (120, 140, 158)),
)
FABRICS: tuple[Colour, ...] = (
    *((38, 44, 66), (120, 36, 44), (232, 228, 218), (60, 92, 82), (140, 124, 160)),
    *((214, 172, 90), (40, 40, 42), (92, 132, 176), (176, 92, 110), (108, 108, 112)),
)

_ALL = np.arange(len(MEAN_FACE))
_JAW, _BROWS, _NOSE, _EYES, _MOUTH = np.split(_ALL[:68], [17, 27, 36, 48])
_EYES_IRISES = np.concatenate([_EYES, _ALL[IRISES]])
_TOP = np.concatenate([_ALL[CROWN], _ALL[HAIRLINE]])
_OUTLINE = np.concatenate([_JAW, _ALL[CROWN], _ALL[EARS]])

# The ways in which the faces of people differ from the mean face: (standard deviation, points, displacement of those
# points as a function of their mean-face x, y, z), such as a wider head, a heavier jaw, a longer nose.
_MODES = (
    (0.045, np.concatenate([_OUTLINE, _ALL[HAIRLINE]]), lambda x, y, z: (x, 0, 0)),
    (0.07, _JAW, lambda x, y, z: (x * np.clip(y, 0, 1.3), 0, 0)),
    (0.04, _ALL, lambda x, y, z: (0, np.maximum(y, 0), 0)),
    (0.05, _JAW, lambda x, y, z: (0, np.clip(y - 0.8, 0, 1), 0)),
    (0.05, _TOP, lambda x, y, z: (0, y, 0)),
    (0.06, _ALL[HAIRLINE], lambda x, y, z: (0, 1 - x**2, 0)),
    (0.14, _EYES, lambda x, y, z: (0, y, 0)),
    (0.05, _EYES, lambda x, y, z: (x - 0.505 * np.sign(x), 0, 0)),
    (0.07, _EYES, lambda x, y, z: (0, 0.505 - np.abs(x), 0)),
    (0.022, np.concatenate([_EYES_IRISES, _BROWS]), lambda x, y, z: (np.sign(x), 0, 0)),
    (0.032, _BROWS, lambda x, y, z: (0, 1, 0)),
    (0.1, _BROWS, lambda x, y, z: (0, 0.58 - np.abs(x), 0)),
    (0.25, _BROWS, lambda x, y, z: (0, (np.abs(x) - 0.58) ** 2 - 0.06, 0)),
    (0.13, _NOSE, lambda x, y, z: (x, 0, 0)),
    (0.06, _NOSE, lambda x, y, z: (0, y, 0)),
    (0.2, _NOSE, lambda x, y, z: (0, 0, np.maximum(z - 0.1, 0))),
    (0.08, _MOUTH, lambda x, y, z: (x, 0, 0)),
    (0.2, np.arange(48, 60), lambda x, y, z: (0, y - 1.05, 0)),
    (0.025, _MOUTH, lambda x, y, z: (0, 1, 0)),
    (0.028, _MOUTH, lambda x, y, z: (0, (x / 0.39) ** 2, 0)),
)


def _displacements() -> np.ndarray:
    table = np.zeros((len(_MODES), *MEAN_FACE.shape), np.float32)
    for row, (_, points, motion) in enumerate(_MODES):
        for axis, values in enumerate(motion(*MEAN_FACE[points].T)):
            table[row, points, axis] = values
    return table


_SPREADS = np.array([row[0] for row in _MODES], np.float32)
_DISPLACEMENTS = _displacements()
_SAMPLES = 41  # points of a curve of hair


class HairStyle(NamedTuple):
    """A way to wear hair or a head cover.

    Attributes:
      volume: thickness over the crown.
      fringe: how far the hair reaches below the hairline.
      part: how far the part is from the middle.
      side: y of the lower end at the temples (down, 0 at the eyes).
      back: y of the lower end behind the head; None for none.
      curl: standard deviation of the waves.
      fabric: a head cover instead of hair.
      bun: whether there is a bun on the crown.
    """

    volume: float
    fringe: float = 0.0
    part: float = 0.0
    side: float = -0.1
    back: float | None = None
    curl: float = 0.0
    fabric: bool = False
    bun: bool = False


STYLES = (
    HairStyle(0.04, side=-0.05),  # cropped
    HairStyle(0.05, fringe=-0.22),  # receding
    HairStyle(0.14, fringe=0.08, part=0.25),  # short
    HairStyle(0.2, fringe=0.2, part=0.5, side=0.05),  # side swept
    HairStyle(0.16, fringe=0.42, side=0.12, back=1.0),  # fringe
    HairStyle(0.2, fringe=0.05, part=0.3, side=1.25, back=1.35),  # bob
    HairStyle(0.14, fringe=-0.05, part=0.2, side=1.9, back=3.0),  # long
    HairStyle(0.22, fringe=0.1, part=0.4, side=1.7, back=2.4, curl=0.035),  # wavy
    HairStyle(0.3, fringe=0.16, side=0.2, back=0.7, curl=0.06),  # curly
    HairStyle(0.52, fringe=0.02, side=0.1, back=0.5, curl=0.035),  # afro
    HairStyle(0.06, fringe=-0.08, side=-0.1, bun=True),  # bun
    HairStyle(0.12, fringe=0.16, side=1.5, back=2.6, fabric=True),  # headscarf
    HairStyle(0.14, fringe=0.36, side=-0.25, fabric=True),  # beanie
)
STYLE_WEIGHTS = np.array([13, 7, 15, 11, 7, 9, 11, 9, 6, 5, 5, 3, 3], float)


class Hair(NamedTuple):
    """The 3-D curves of a person's hair: `outer` and `inner` bound the front, `back` hangs behind the head."""

    outer: np.ndarray
    inner: np.ndarray
    back: np.ndarray | None
    strands: np.ndarray
    bun: np.ndarray | None


def _resampled(points: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` points of the smooth curve through `points`."""
    points = curve(points, steps=6)
    at = np.linspace(0, len(points) - 1, count)
    low = np.minimum(at.astype(int), len(points) - 2)
    weight = (at - low)[:, None].astype(np.float32)
    return points[low] * (1 - weight) + points[low + 1] * weight


def _hair(style: HairStyle, rest: np.ndarray, rng: np.random.Generator) -> Hair:
    """Returns the hair of this style on the head with the points `rest` (see `face`)."""
    # The outer edge is the crown moved away from a point above the eyes, least at the sides, down to the temples.
    outer = rest[CROWN].copy()
    away = outer[:, :2] - [0.0, -0.3]
    away /= np.sqrt((away**2).sum(1, keepdims=True))
    outer[:, :2] += away * (style.volume * np.clip(0.45 - 0.55 * away[:, 1:], 0.3, 1.0))
    end = abs(outer[0, 0]) + 0.4 * style.volume
    temples = np.array([(-end, style.side, -0.5), (end, style.side, -0.5)], np.float32)
    outer = _resampled(np.concatenate([temples[:1], outer, temples[1:]]), _SAMPLES)
    outer[:, :2] += style.curl * rng.standard_normal((_SAMPLES, 2))

    # The inner edge is the hairline, lowered by the fringe, with a part on one side.
    inner = rest[HAIRLINE].copy()
    across = inner[:, 0] / np.abs(inner[:, 0]).max()
    side = rng.choice([-1.0, 1.0])
    inner[:, 1] += (style.fringe - 0.3 * style.part * side * across) * (1.0 - across**2)
    temples = np.array([(-1.08, style.side, -0.4), (1.08, style.side, -0.4)], np.float32)
    if style.side > 0.5:  # long hair falls over the edge of the face
        inner[[0, -1], 0] *= 0.93
        temples[:, 0] *= 0.92
    inner = _resampled(np.concatenate([temples[:1], inner, temples[1:]]), _SAMPLES)
    ragged = 0.012 + 0.5 * style.curl if not style.fabric else 0.0
    inner[:, 1] += ragged * rng.standard_normal(_SAMPLES)

    back = None
    if style.back is not None:
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

    bun = None
    if style.bun:
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        bun = np.stack([0.42 * np.cos(angle), -1.95 + 0.36 * np.sin(angle), np.full(14, -0.6)], 1).astype(np.float32)
    return Hair(outer, inner, back, strands.astype(np.float32), bun)


@dataclasses.dataclass(frozen=True)
class Person:
    """A drawn person: the points of the face at rest, colours, hair, glasses, facial hair and age (0 to 1).

    `glasses` are radius, squareness and colour of the rims, or None.
    """

    rest: np.ndarray
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
    low = min(int(position), len(SKIN_TONES) - 2)
    skin = mix(SKIN_TONES[low], SKIN_TONES[low + 1], position - low)
    skin = tuple(np.clip(np.array(skin) * rng.uniform(0.96, 1.04, 3), 20, 255).tolist())

    weights = np.clip(rng.standard_normal(len(_MODES)), -2.2, 2.2).astype(np.float32) * _SPREADS
    rest = MEAN_FACE + np.tensordot(weights, _DISPLACEMENTS, 1)
    rest[:60, :2] += 0.008 * rng.standard_normal((60, 2))

    likely = np.array([style.side < 0.1 and style.back is None and not style.bun for style in STYLES])
    style_weights = STYLE_WEIGHTS * np.where(likely == masculine, 1.0, 0.12)
    style = STYLES[rng.choice(len(STYLES), p=style_weights / style_weights.sum())]
    hair_colour = _hair_colour(tone, age, rng)
    bald = masculine and rng.random() < 0.04 + 0.14 * age
    blood = mix((178, 84, 84), (112, 52, 52), tone)
    lips = mix(skin, blood, rng.uniform(0.4, 0.65))
    if not masculine and rng.random() < 0.35:  # lipstick
        lips = mix(lips, ((168, 30, 48), (190, 72, 92), (120, 30, 52), (206, 96, 84))[rng.integers(4)], 0.7)
    beards = ("none", "stubble", "moustache", "goatee", "full")
    beard = beards[rng.choice(5, p=[0.52, 0.2, 0.07, 0.08, 0.13])] if masculine else "none"
    frame = shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.4, 0.9))
    # The arguments are evaluated in this order, which belongs to the faces: each takes its random numbers in turn.
    return Person(
        rest=rest,
        skin=skin,
        lips=lips,
        iris=IRIS_COLOURS[min(5, int(rng.exponential(0.7 + 2.5 * max(0.0, 0.6 - tone))))],
        hair_colour=hair_colour,
        clothes=shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.7, 1.1)),
        fabric=shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.8, 1.1)),
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


def _hair_colour(tone: float, age: float, rng: np.random.Generator) -> Colour:
    if rng.random() < max(0.0, age - 0.45) * 1.4:
        return mix((120, 118, 118), (236, 234, 230), rng.random())
    dark = min(1.0, 0.2 + 1.2 * tone)
    colour = HAIR_COLOURS[rng.integers(0, 2 if rng.random() < dark else len(HAIR_COLOURS))]
    return shade(colour, rng.uniform(0.85, 1.15))
