"""A drawn person: everything about a face that stays the same from picture to picture."""

import dataclasses
import functools

import numpy as np

from aujax.data.synthetic.canvas import Colour, mix, shade
from aujax.data.synthetic.face_shape import CROWN, EARS, HAIRLINE, IRISES, MEAN_FACE
from aujax.data.synthetic.hair import STYLE_WEIGHTS, STYLES, Hair, HairStyle, grow

# sRGB, from the lightest to the darkest; a person's tone is drawn uniformly along the whole range.
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

_JAW, _BROWS, _NOSE, _EYES, _MOUTH = (
    np.arange(17),
    np.arange(17, 27),
    np.arange(27, 36),
    np.arange(36, 48),
    np.arange(48, 68),
)
_ALL = np.arange(len(MEAN_FACE))
_EYES_IRISES = np.concatenate([_EYES, _ALL[IRISES]])
_TOP = np.concatenate([_ALL[CROWN], _ALL[HAIRLINE]])
_OUTLINE = np.concatenate([_JAW, _ALL[CROWN], _ALL[EARS]])

# (standard deviation, points, displacement of those points as a function of their mean-face x, y, z).
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


_SPREADS, _DISPLACEMENTS = np.array([row[0] for row in _MODES], np.float32), _displacements()


@dataclasses.dataclass(frozen=True)
class Person:
    """One drawn person: shape at rest (points of `face_shape`), colours, hair, glasses, facial hair and age."""

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


def _along(palette: tuple[Colour, ...], position: float) -> Colour:
    place = position * (len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return mix(palette[low], palette[low + 1], place - low)


def _shape(rng: np.random.Generator) -> np.ndarray:
    weights = np.clip(rng.standard_normal(len(_MODES)), -2.2, 2.2).astype(np.float32) * _SPREADS
    rest = MEAN_FACE + np.tensordot(weights, _DISPLACEMENTS, 1)
    rest[:60, :2] += 0.008 * rng.standard_normal((60, 2))
    return rest


def _hair_colour(tone: float, age: float, rng: np.random.Generator) -> Colour:
    if rng.random() < max(0.0, age - 0.45) * 1.4:
        return mix((120, 118, 118), (236, 234, 230), rng.random())
    dark = min(1.0, 0.2 + 1.2 * tone)
    colour = HAIR_COLOURS[rng.integers(0, 2 if rng.random() < dark else len(HAIR_COLOURS))]
    return shade(colour, rng.uniform(0.85, 1.15))


@functools.lru_cache(maxsize=4096)
def meet(seed: int, identity: int) -> Person:
    """Return the drawn person number `identity` of the world `seed`."""
    rng = np.random.default_rng((seed, identity, 2))
    tone, age, masculine = rng.random(), rng.beta(1.3, 1.8), rng.random() < 0.5
    skin = tuple(np.clip(np.array(_along(SKIN_TONES, tone)) * rng.uniform(0.96, 1.04, 3), 20, 255).tolist())
    rest = _shape(rng)
    style_name = list(STYLES)[rng.choice(len(STYLES), p=_style_weights(masculine))]
    hair_colour = _hair_colour(tone, age, rng)
    style = STYLES[style_name]
    bald = masculine and rng.random() < 0.04 + 0.14 * age
    blood = mix((178, 84, 84), (112, 52, 52), tone)
    lips = mix(skin, blood, rng.uniform(0.4, 0.65))
    if not masculine and rng.random() < 0.35:
        lips = mix(lips, ((168, 30, 48), (190, 72, 92), (120, 30, 52), (206, 96, 84))[rng.integers(4)], 0.7)
    beards = ("none", "stubble", "moustache", "goatee", "full")
    beard = beards[rng.choice(5, p=[0.52, 0.2, 0.07, 0.08, 0.13])] if masculine else "none"
    frame = shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.4, 0.9))
    return Person(
        rest=rest,
        skin=skin,
        lips=lips,
        iris=IRIS_COLOURS[min(5, int(rng.exponential(0.7 + 2.5 * max(0.0, 0.6 - tone))))],
        hair_colour=hair_colour,
        clothes=shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.7, 1.1)),
        fabric=shade(FABRICS[rng.integers(len(FABRICS))], rng.uniform(0.8, 1.1)),
        style=style,
        hair=None if bald else grow(style, rest, rng),
        brow_width=rng.uniform(0.1, 0.165) if masculine else rng.uniform(0.07, 0.125),
        lashes=rng.uniform(0.02, 0.035) if masculine else rng.uniform(0.03, 0.06),
        lid_crease=rng.choice([0.0, 0.6, 1.0]),
        age=age,
        beard=beard,
        freckles=rng.normal(0, (0.45, 0.16), (rng.integers(0, 26), 2)) * (rng.random() < 0.25),
        glasses=(rng.uniform(0.32, 0.42), rng.uniform(2.0, 4.0), frame) if rng.random() < 0.2 else None,
    )


def _style_weights(masculine: bool) -> np.ndarray:
    likely = np.array([s.side < 0.1 and s.back is None and not s.bun for s in STYLES.values()])
    weights = STYLE_WEIGHTS * np.where(likely == masculine, 1.0, 0.12)
    return weights / weights.sum()
