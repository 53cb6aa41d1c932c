"""How the ellipses of a codebook become a map: which ones, where on this face, and in which style.

Maps are float32 in [0, 1], (height, width); landmarks are the 68 finite iBUG points, (x, y) pixels of the map.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from aujax import resize
from aujax.codebook import Codebook, Spot
from aujax.resize import Size

_GRID = 28  # cells per side of the released code's maps
_FAR = 1e9
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round pixels to fewer bits
_Quadratic = tuple[Float[Array, " ellipses"], Float[Array, " ellipses"], Float[Array, " ellipses"]]


class Selection(NamedTuple):
    """Rows of `_spots`, grouped as the rendering wants them: where `drawn` is False there is only padding."""

    rows: Int[Array | np.ndarray, "*sets units spots"]
    drawn: Bool[Array | np.ndarray, "*sets units spots"]


def stretched(drawn_map: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Returns the map scaled so that its least value is 0 and its largest 1."""
    low, high = drawn_map.min(), drawn_map.max()
    return (drawn_map - low) / jnp.where(high > low, high - low, 1.0)


@functools.lru_cache
def _spots(codebook: Codebook) -> tuple[dict[Spot, int], dict[str, np.ndarray]]:
    """Returns the row of every distinct ellipse of the codebook, and the columns of that table."""
    distinct = list(dict.fromkeys(spot for spots in codebook.spots.values() for spot in spots))
    integers = ("x", "y", "width", "height")
    columns = {
        field: np.array([getattr(spot, field) for spot in distinct], np.int32 if field in integers else np.float32)
        for field in Spot.__dataclass_fields__
    }
    return {spot: row for row, spot in enumerate(distinct)}, columns


@functools.lru_cache
def selections(sets: tuple[tuple[int, ...], ...], codebook: Codebook) -> Selection:
    """Returns the ellipses of each set of action units, padded; equal ellipses, or groups of them, come once."""
    row_of, _ = _spots(codebook)
    grouped = RENDERINGS[codebook.rendering].grouped
    groups = [
        dict.fromkeys(group for au in aus for group in grouped([row_of[s] for s in codebook.spots[au]])) for aus in sets
    ]
    units = max([1, *map(len, groups)])
    spots = max([1, *(len(members) for group in groups for members in group)])
    rows = np.zeros((len(sets), units, spots), np.int32)
    drawn = np.zeros(rows.shape, bool)
    for i, group in enumerate(groups):
        for j, members in enumerate(group):
            rows[i, j, : len(members)] = members
            drawn[i, j, : len(members)] = True
    return Selection(rows, drawn)


def expression_selections(codebook: Codebook) -> Selection:
    """Returns the ellipses of every expression of the codebook, in its order."""
    return selections(tuple(codebook.aus.values()), codebook)


def _gather(
    rows: Int[Array | np.ndarray, "units spots"], codebook: Codebook
) -> dict[str, Shaped[Array, "units spots ..."]]:
    return {field: jnp.asarray(column)[rows] for field, column in _spots(codebook)[1].items()}


def _extent(points: Float[Array, "68 2"], pair: Int[Array, "units spots 2"], axis: int) -> Array:
    return points[pair[..., 1], axis] - points[pair[..., 0], axis]


def _centre(points: Float[Array, "68 2"], spot: dict[str, Array]) -> Float[Array, "units spots 2"]:
    return jnp.stack([points[spot["x"], 0].mean(-1), points[spot["y"], 1].mean(-1)], axis=-1)


def _half_extents(points: Float[Array, "68 2"], spot: dict[str, Array]) -> Float[Array, "units spots 2"]:
    return jnp.stack([_extent(points, spot["width"], 0), _extent(points, spot["height"], 1)], axis=-1) / 2


def _smooth(points: Float[Array, "68 2"], selection: Selection, size: Size, codebook: Codebook) -> tuple[Array, Array]:
    """Draws soft ellipses in the frame of the eyes: 1 inside, 0.5 on the outline, linear in the squared radius.

    Since the profile falls with the squared radius, the maximum over ellipses is the profile of the least one.
    """
    eyes = points[42:48].mean(0) - points[36:42].mean(0)
    squared = (eyes**2).sum()
    unit = jnp.sqrt(jnp.maximum(squared, 1e-6))
    cos, sin = eyes / unit
    to_face = jnp.array([[cos, -sin], [sin, cos]])
    spot, face = _gather(selection.rows, codebook), jnp.matmul(points, to_face, precision=_EXACT)
    centre = _centre(face, spot) + unit * spot["offset"]
    centre = jnp.matmul(centre, to_face.T, precision=_EXACT).reshape(-1, 2)
    radius = (jnp.maximum(_half_extents(face, spot), 0.0) + unit * spot["radius"]).reshape(-1, 2)
    a, b = 1.0 / jnp.maximum(radius.T, 1e-3) ** 2
    shape = a * cos**2 + b * sin**2, 2 * cos * sin * (a - b), a * sin**2 + b * cos**2
    closest = jnp.where(selection.drawn.reshape(-1), _least_on_canvas(centre, shape, size), _FAR)
    outside = jnp.where(selection.drawn.reshape(-1), 0.0, _FAR)
    drawn_map = jnp.clip(1.5 - _least_squared_radius(centre, shape, outside, size), 0.0, 1.0)
    return drawn_map, (squared > 1e-6) & (closest.min() < 1.5)


def _least_squared_radius(
    centre: Float[Array, "ellipses 2"], shape: _Quadratic, outside: Float[Array, " ellipses"], size: Size
) -> Float[Array, "h w"]:
    """Returns min over ellipses of p dx^2 + q dx dy + r dy^2 + outside, for every pixel.

    In a row of pixels each is a polynomial in x, from the middle of the row so that little cancels: one vector in x
    serves all ellipses.
    """
    p, q, r = shape
    middle = (size[1] - 1) / 2
    x, centre_x = jnp.arange(size[1], dtype=jnp.float32) - middle, centre[:, 0] - middle
    dy = jnp.arange(size[0], dtype=jnp.float32)[None, :] - centre[:, 1:]
    linear = q[:, None] * dy - 2 * (p * centre_x)[:, None]
    constant = r[:, None] * dy**2 - (q * centre_x)[:, None] * dy + (p * centre_x**2 + outside)[:, None]
    rows = zip(constant, linear, p, strict=True)
    return functools.reduce(_lesser, [c[:, None] + x[None, :] * (b[:, None] + (a * x)[None, :]) for c, b, a in rows])


# As comparisons: `minimum` and `maximum` let NaN pass, which costs a CPU more than the polynomials do.
def _lesser(first: Array, second: Array) -> Array:
    return jnp.where(first < second, first, second)


def _greater(first: Array, second: Array) -> Array:
    return jnp.where(first > second, first, second)


def _least_on_canvas(centre: Float[Array, "ellipses 2"], shape: _Quadratic, size: Size) -> Float[Array, " ellipses"]:
    """Returns every ellipse's least squared radius on the canvas: at its centre, or on an edge of the canvas.

    To ask the drawn pixels instead costs as much as drawing them.
    """
    p, q, r = shape
    x, y = centre.T
    right, bottom = size[1] - 1 - x, size[0] - 1 - y
    edges = []
    for dx in (-x, right):
        dy = jnp.clip(-q * dx / (2 * r), -y, bottom)
        edges.append(p * dx**2 + q * dx * dy + r * dy**2)
    for dy in (-y, bottom):
        dx = jnp.clip(-q * dy / (2 * p), -x, right)
        edges.append(p * dx**2 + q * dx * dy + r * dy**2)
    inside = (x >= 0) & (right >= 0) & (y >= 0) & (bottom >= 0)
    return jnp.where(inside, 0.0, functools.reduce(jnp.minimum, edges))


def _coarse(points: Float[Array, "68 2"], selection: Selection, size: Size, codebook: Codebook) -> tuple[Array, Array]:
    """Draws as the released code: whole-pixel ellipses sampled on 28 x 28 cells, blurred, and enlarged again."""
    canvas = np.array([size[1], size[0]], np.float32).reshape(1, 1, 2)
    spot, points = _gather(selection.rows, codebook), jnp.trunc(points)
    centre = jnp.trunc(_centre(points, spot)) + spot["offset"] + jnp.round(spot["canvas_offset"] * canvas)
    radius = jnp.trunc(_half_extents(points, spot) + spot["radius"] + jnp.round(spot["canvas_radius"] * canvas))
    radius = jnp.where(radius > 0, radius, spot["fallback"][..., None])
    closest = (jnp.clip(centre, 0.0, canvas - 1) - centre) / (radius + 0.5)
    touched = ((closest**2).sum(-1) <= 1) & selection.drawn

    (rows, row_weights), (columns, column_weights) = (_cell_samples(n) for n in size)
    dx = jnp.abs(columns[None, None] - centre[..., :1])
    dy = jnp.abs(rows[None, None] - centre[..., 1:])
    # OpenCV paints the pixels whose centre is within half a pixel of the ellipse, along the column or along the row.
    below, beside = _reach(dx, radius[..., :1], radius[..., 1:]), _reach(dy, radius[..., 1:], radius[..., :1])
    inside = (dy[..., :, None] <= below[..., None, :]) | (dx[..., None, :] <= beside[..., :, None])
    inside &= touched[..., None, None]
    weighted = inside.any(1) * (row_weights[None, :, None] * column_weights[None, None, :])
    cells = weighted.reshape(-1, _GRID, 2, _GRID, 2).sum((2, 4))
    bands = resize.separable(cells, _blur(), resize.bilinear_matrix(_GRID, size[1]) @ _blur())
    enlarged = resize.weighted_rows(bands, resize.bilinear_matrix(_GRID, size[0]))
    return stretched(functools.reduce(_greater, enlarged)), touched.any()


def _reach(
    distance: Float[Array, "*spots taps"], along: Float[Array, "*spots 1"], across: Float[Array, "*spots 1"]
) -> Float[Array, "*spots taps"]:
    """Returns how far across an ellipse of whole pixels goes at a distance along it, -1 where it has ended."""
    share = 1.0 - (distance / jnp.maximum(along, 1e-3)) ** 2
    return jnp.where(distance <= along, across * jnp.sqrt(jnp.maximum(share, 0.0)) + 0.5, -1.0)


def _cell_samples(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two pixels that bilinear sampling of each of the 28 cells reads, flat, and their weights."""
    source = (np.arange(_GRID) + 0.5) * pixels / _GRID - 0.5
    below = np.floor(source)
    taps = np.clip(np.stack([below, below + 1], -1), 0, pixels - 1)
    weights = np.stack([1 - (source - below), source - below], -1)
    return taps.reshape(-1).astype(np.float32), weights.reshape(-1).astype(np.float32)


@functools.lru_cache
def _blur() -> np.ndarray:
    """Returns the (28, 28) weights of a mean over three cells, mirrored at the border."""
    neighbours = np.abs(np.arange(_GRID)[:, None] + np.arange(-1, 2)[None, :])
    neighbours = np.where(neighbours >= _GRID, 2 * (_GRID - 1) - neighbours, neighbours)
    weights = np.zeros((_GRID, _GRID), np.float32)
    np.add.at(weights, (np.arange(_GRID)[:, None], neighbours), 1 / 3)
    return weights


class Rendering(NamedTuple):
    """A way of drawing, and how it wants an action unit's ellipses: one by one, or together as one region."""

    draw: Callable[[Array, Selection, Size, Codebook], tuple[Array, Array]]
    grouped: Callable[[list[int]], list[tuple[int, ...]]]


RENDERINGS: dict[str, Rendering] = {
    "smooth": Rendering(_smooth, lambda rows: [(row,) for row in rows]),
    "coarse": Rendering(_coarse, lambda rows: [tuple(rows)]),
}
