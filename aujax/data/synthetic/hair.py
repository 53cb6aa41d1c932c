"""Hair of a drawn person: a table of styles, and the 3-D curves that a style makes on a head."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aujax.data.synthetic.canvas import curve
from aujax.data.synthetic.face_shape import CROWN, HAIRLINE

_SAMPLES = 41


class HairStyle(NamedTuple):
    """A way to wear hair or a head cover; inter-ocular units, heights as y (down, 0 at the eyes)."""

    volume: float
    fringe: float = 0.0
    part: float = 0.0
    side: float = -0.1
    back: float | None = None
    curl: float = 0.0
    fabric: bool = False
    bun: bool = False


STYLES = {
    "cropped": HairStyle(0.04, side=-0.05),
    "receding": HairStyle(0.05, fringe=-0.22),
    "short": HairStyle(0.14, fringe=0.08, part=0.25),
    "side swept": HairStyle(0.2, fringe=0.2, part=0.5, side=0.05),
    "fringe": HairStyle(0.16, fringe=0.42, side=0.12, back=1.0),
    "bob": HairStyle(0.2, fringe=0.05, part=0.3, side=1.25, back=1.35),
    "long": HairStyle(0.14, fringe=-0.05, part=0.2, side=1.9, back=3.0),
    "wavy": HairStyle(0.22, fringe=0.1, part=0.4, side=1.7, back=2.4, curl=0.035),
    "curly": HairStyle(0.3, fringe=0.16, side=0.2, back=0.7, curl=0.06),
    "afro": HairStyle(0.52, fringe=0.02, side=0.1, back=0.5, curl=0.035),
    "bun": HairStyle(0.06, fringe=-0.08, side=-0.1, bun=True),
    "headscarf": HairStyle(0.12, fringe=0.16, side=1.5, back=2.6, fabric=True),
    "beanie": HairStyle(0.14, fringe=0.36, side=-0.25, fabric=True),
}
STYLE_WEIGHTS = np.array([13, 7, 15, 11, 7, 9, 11, 9, 6, 5, 5, 3, 3], float)


class Hair(NamedTuple):
    """The curves of one person's hair: `outer` and `inner` bound the front, `back` hangs behind the head."""

    outer: np.ndarray
    inner: np.ndarray
    back: np.ndarray | None
    strands: np.ndarray
    bun: np.ndarray | None


def _resampled(points: np.ndarray, count: int) -> np.ndarray:
    points = curve(points, steps=6)
    at = np.linspace(0, len(points) - 1, count)
    low = np.minimum(at.astype(int), len(points) - 2)
    weight = (at - low)[:, None].astype(np.float32)
    return points[low] * (1 - weight) + points[low + 1] * weight


def _outer(style: HairStyle, crown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    away = crown[:, :2] - [0.0, -0.3]
    away /= np.sqrt((away**2).sum(1, keepdims=True))
    lift = style.volume * np.clip(0.45 - 0.55 * away[:, 1:], 0.3, 1.0)
    outer = crown.copy()
    outer[:, :2] += away * lift
    end = abs(outer[0, 0]) + 0.4 * style.volume
    sides = np.array([(-end, style.side, -0.5), (end, style.side, -0.5)], np.float32)
    outer = _resampled(np.concatenate([sides[:1], outer, sides[1:]]), _SAMPLES)
    outer[:, :2] += style.curl * rng.standard_normal((_SAMPLES, 2))
    return outer


def _inner(style: HairStyle, hairline: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inner = hairline.copy()
    across = inner[:, 0] / np.abs(inner[:, 0]).max()
    side = rng.choice([-1.0, 1.0])
    inner[:, 1] += (style.fringe - 0.3 * style.part * side * across) * (1.0 - across**2)
    sides = np.array([(-1.08, style.side, -0.4), (1.08, style.side, -0.4)], np.float32)
    if style.side > 0.5:
        inner[[0, -1], 0] *= 0.93
        sides[:, 0] *= 0.92
    inner = _resampled(np.concatenate([sides[:1], inner, sides[1:]]), _SAMPLES)
    ragged = 0.012 + 0.5 * style.curl if not style.fabric else 0.0
    inner[:, 1] += ragged * rng.standard_normal(_SAMPLES)
    return inner


def grow(style: HairStyle, rest: Float[np.ndarray, "points 3"], rng: np.random.Generator) -> Hair:
    """Return the hair of this style on the head with the points `rest` (see `face_shape`)."""
    outer, inner = _outer(style, rest[CROWN], rng), _inner(style, rest[HAIRLINE], rng)
    back = None
    if style.back is not None:
        wide = 1.2 + 0.5 * style.volume
        low = [(wide, 0.4 * style.back, -0.6), (wide * 0.95, style.back, -0.6)]
        low += [(0.0, style.back * 1.04, -0.6)] + [(-x, y, z) for x, y, z in reversed(low)]
        back = _resampled(np.concatenate([outer[1:-1], np.array(low, np.float32)]), 2 * _SAMPLES)
        back[_SAMPLES:, :2] += style.curl * rng.standard_normal((_SAMPLES, 2))
    count, length = (8, 12) if style.fabric else (36, 10)
    depth = rng.uniform(0.04, 0.96, (count, 1, 1)).astype(np.float32)
    start = rng.integers(0, _SAMPLES - length, count)[:, None] + np.arange(length)
    strands = outer[start] * (1 - depth) + inner[start] * depth
    strands[..., :2] += style.curl * 0.6 * rng.standard_normal((count, length, 2))
    bun = None
    if style.bun:
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        bun = np.stack([0.42 * np.cos(angle), -1.95 + 0.36 * np.sin(angle), np.full(14, -0.6)], 1)
        bun = bun.astype(np.float32)
    return Hair(outer, inner, back, strands.astype(np.float32), bun)
