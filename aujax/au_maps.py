"""Maps of where an expression's action units lie on one face; `jax.vmap` over faces is the batched builder.

Maps are float32 in [0, 1], (height, width). Landmarks are the 68 iBUG points, (x, y) pixels of a picture of the
map's size, x right, y down. A function that can fail to draw returns a mask beside the map: `has_map` is False,
and the map zero, for an expression without action units (Neutral), for a landmark that is not finite, and where
no ellipse touches the canvas. Everything here is pure and works under jit, vmap and grad.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real, Shaped

from aujax import codebook as codebooks
from aujax import resize
from aujax.codebook import FACS, Codebook
from aujax.resize import Size

LANDMARKS = 68
_GRID = 28  # cells per side of the released code's maps
_FAR = 1e9
_EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round pixels to fewer bits


class _Selection(NamedTuple):
    """Rows of `_spots`, grouped by action unit: where `drawn` is False there is only padding."""

    rows: Int[Array | np.ndarray, "*sets units spots"]
    drawn: Bool[Array | np.ndarray, "*sets units spots"]


class _Ellipses(NamedTuple):
    """Centres and radii in pixels along the axes (cos, sin) and (-sin, cos) of the face."""

    centre: Float[Array, "units spots 2"]
    radius: Float[Array, "units spots 2"]


def au_map(
    landmarks: Real[Array | np.ndarray, "points xy"],
    expression: int | Int[Array | np.ndarray | np.integer, ""],
    *,
    size: Size = (224, 224),
    codebook: Codebook = FACS,
) -> tuple[Float[Array, "h w"], Bool[Array, ""]]:
    """Returns the map of all action units that `codebook` lists for the expression, and whether there is one.

    This is A of the paper's section 3.2: the pixel-wise maximum over the action units' maps. `expression` is an
    index into `codebook.expressions`; any other index has no map.

    >>> maps, has_map = jax.jit(jax.vmap(au_map))(jnp.zeros((2, 68, 2)), jnp.array([0, 1]))
    >>> maps.shape, has_map.shape
    ((2, 224, 224), (2,))
    """
    rows, drawn = _expression_selections(codebook)
    drawn = jnp.asarray(drawn).at[expression].get(mode="fill", fill_value=False)
    drawn &= jnp.asarray(expression) >= 0
    return _draw(landmarks, _Selection(jnp.asarray(rows)[expression], drawn), size, codebook)


def batch_au_maps(
    landmarks: Float[Array | np.ndarray, "batch points xy"],
    expression: Int[Array | np.ndarray, " batch"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    size: Size,
    codebook: Codebook,
) -> tuple[Float[Array, "batch h w"], Bool[Array, " batch"]]:
    """Returns the AU maps of stored pictures of `size`, drawn on the codebook's canvas if it has one.

    Faces outside `where` (no landmarks, padding) have no map. A map drawn on another canvas is resized by the
    nearest pixel, as the released code does.
    """
    return _batch(au_map, (landmarks, expression), where, size, codebook)


def batch_generic_maps(
    landmarks: Float[Array | np.ndarray, "batch points xy"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    size: Size,
    codebook: Codebook,
) -> tuple[Float[Array, "batch h w"], Bool[Array, " batch"]]:
    """Returns the `generic_map` of stored pictures of `size`, as `batch_au_maps` does for an expression's."""
    return _batch(generic_map, (landmarks,), where, size, codebook)


def generic_map(
    landmarks: Real[Array | np.ndarray, "points xy"], *, size: Size = (224, 224), codebook: Codebook = FACS
) -> tuple[Float[Array, "h w"], Bool[Array, ""]]:
    """Returns the map of every action unit of the codebook, whatever the expression: also Neutral has one."""
    selection = _selections((codebook.all_aus,), codebook)
    return _draw(landmarks, _Selection(selection.rows[0], selection.drawn[0]), size, codebook)


def expression_maps(
    landmarks: Real[Array | np.ndarray, "points xy"], *, size: Size = (224, 224), codebook: Codebook = FACS
) -> tuple[Float[Array, "classes h w"], Bool[Array, " classes"]]:
    """Returns one map per expression, in the codebook's order: what the face would be asked for as each class."""
    draw = functools.partial(_draw, size=size, codebook=codebook)
    return jax.vmap(draw, in_axes=(None, 0))(landmarks, _expression_selections(codebook))


def single_au_maps(
    landmarks: Real[Array | np.ndarray, "points xy"],
    aus: Sequence[int],
    *,
    size: Size = (224, 224),
    codebook: Codebook = FACS,
) -> tuple[Float[Array, "aus h w"], Bool[Array, " aus"]]:
    """Returns one map per FACS number in `aus`; a number the codebook does not place is a ValueError."""
    unknown = [number for number in aus if number not in codebook.spots]
    if unknown:
        raise ValueError(
            f"action units {unknown} have no place on the face; "
            f"valid FACS numbers: {', '.join(map(str, codebook.all_aus))}"
        )
    draw = functools.partial(_draw, size=size, codebook=codebook)
    selections = _selections(tuple((number,) for number in aus), codebook)
    return jax.vmap(draw, in_axes=(None, 0))(landmarks, selections)


def landmark_map(
    landmarks: Real[Array | np.ndarray, "points xy"],
    *,
    size: Size = (224, 224),
    sigma: float = 8.0,
    jaw: bool = False,
) -> tuple[Float[Array, "h w"], Bool[Array, ""]]:
    """Returns the maximum of one Gaussian per landmark (`sigma` in pixels, jaw line optional), scaled to [0, 1]."""
    points, finite = _checked(landmarks)
    points = points if jaw else points[17:]
    x, y = (jnp.arange(n, dtype=jnp.float32) for n in reversed(size))
    dx, dy = (x[None, :] - points[:, :1]) ** 2, (y[None, :] - points[:, 1:]) ** 2
    nearest = functools.reduce(jnp.minimum, [dy[i][:, None] + dx[i][None, :] for i in range(len(points))])
    return _masked(_stretched(jnp.exp(-nearest / (2 * sigma**2))), finite)


def _batch(
    draw: Callable[..., tuple[Array, Array]],
    faces: tuple[Array | np.ndarray, ...],
    where: Bool[Array | np.ndarray, " batch"],
    size: Size,
    codebook: Codebook,
) -> tuple[Float[Array, "batch h w"], Bool[Array, " batch"]]:
    landmarks, *rest = faces
    canvas = codebook.canvas or size
    if canvas != size:
        scale = np.array([canvas[1] / size[1], canvas[0] / size[0]], np.float32).reshape(1, 1, 2)
        # Rounded to 1/1000 px: the reference truncates, and 50 must not come back as 49.99999.
        landmarks = jnp.round((landmarks + 0.5) * scale - 0.5, 3)
    maps, has_map = jax.vmap(functools.partial(draw, size=canvas, codebook=codebook))(landmarks, *rest)
    has_map &= where
    maps = maps if canvas == size else resize.nearest(maps, size)
    return jnp.where(has_map[:, None, None], maps, 0.0), has_map


def _draw(
    landmarks: Real[Array | np.ndarray, "points xy"], selection: _Selection, size: Size, codebook: Codebook
) -> tuple[Float[Array, "h w"], Bool[Array, ""]]:
    points, finite = _checked(landmarks)
    drawn_map, touched = RENDERINGS[codebook.rendering](points, selection, size, codebook)
    return _masked(drawn_map, finite & touched)


def _masked(drawn_map: Float[Array, "h w"], has_map: Bool[Array, ""]) -> tuple[Array, Array]:
    return jnp.where(has_map, drawn_map, 0.0), has_map


def _stretched(drawn_map: Float[Array, "h w"]) -> Float[Array, "h w"]:
    low, high = drawn_map.min(), drawn_map.max()
    return (drawn_map - low) / jnp.where(high > low, high - low, 1.0)


def _checked(
    landmarks: Real[Array | np.ndarray, "points xy"],
) -> tuple[Float[Array, "68 2"], Bool[Array, ""]]:
    points = jnp.asarray(landmarks, jnp.float32)
    if points.shape != (LANDMARKS, 2):
        raise ValueError(
            f"landmarks must have shape (68, 2), got {points.shape}: give the 68 iBUG points (x, y) of one face, "
            "and use jax.vmap for a batch"
        )
    finite = jnp.isfinite(points).all()
    return jnp.where(finite, points, 0.0), finite


@functools.lru_cache
def _spots(codebook: Codebook) -> tuple[dict[codebooks.Spot, int], dict[str, np.ndarray]]:
    """Returns the row of every distinct ellipse of the codebook, and the columns of that table."""
    distinct = list(dict.fromkeys(spot for spots in codebook.spots.values() for spot in spots))
    integers = ("x", "y", "width", "height")
    columns = {
        field: np.array([getattr(spot, field) for spot in distinct], np.int32 if field in integers else np.float32)
        for field in codebooks.Spot.__dataclass_fields__
    }
    return {spot: row for row, spot in enumerate(distinct)}, columns


@functools.lru_cache
def _selections(sets: tuple[tuple[int, ...], ...], codebook: Codebook) -> _Selection:
    """Returns the ellipses of each set of action units, padded; units with the same ellipses are drawn once."""
    row_of, _ = _spots(codebook)
    groups = [dict.fromkeys(tuple(row_of[spot] for spot in codebook.spots[au]) for au in aus) for aus in sets]
    units = max([1, *map(len, groups)])
    rows = np.zeros((len(sets), units, 2), np.int32)
    drawn = np.zeros(rows.shape, bool)
    for i, group in enumerate(groups):
        for j, members in enumerate(group):
            rows[i, j, : len(members)] = members
            drawn[i, j, : len(members)] = True
    return _Selection(rows, drawn)


def _expression_selections(codebook: Codebook) -> _Selection:
    return _selections(tuple(codebook.aus.values()), codebook)


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


def _smooth(points: Float[Array, "68 2"], selection: _Selection, size: Size, codebook: Codebook) -> tuple[Array, Array]:
    """Draws soft ellipses in the frame of the eyes: 1 inside, 0.5 on the outline, linear in the squared radius.

    Since the profile falls with the squared radius q, the maximum over ellipses is the profile of the least q,
    a quadratic in the pixel's position: three operations per pixel and ellipse.
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
    x, y = (jnp.arange(n, dtype=jnp.float32) for n in reversed(size))
    dx, dy = x[None, :] - centre[:, :1], y[None, :] - centre[:, 1:]
    column = (a * cos**2 + b * sin**2)[:, None] * dx**2 + jnp.where(selection.drawn, 0.0, _FAR).reshape(-1, 1)
    row, cross = (a * sin**2 + b * cos**2)[:, None] * dy**2, (2 * cos * sin * (a - b))[:, None] * dx
    squared_radii = [
        row[i][:, None] + column[i][None, :] + cross[i][None, :] * dy[i][:, None] for i in range(len(radius))
    ]
    drawn_map = jnp.clip(1.5 - functools.reduce(jnp.minimum, squared_radii), 0.0, 1.0)
    return drawn_map, (squared > 1e-6) & (drawn_map.max() > 0)


def _coarse(points: Float[Array, "68 2"], selection: _Selection, size: Size, codebook: Codebook) -> tuple[Array, Array]:
    """Draws as the released code: whole-pixel ellipses sampled on 28 x 28 cells, blurred, and enlarged again."""
    canvas = np.array([size[1], size[0]], np.float32).reshape(1, 1, 2)
    spot, points = _gather(selection.rows, codebook), jnp.trunc(points)
    centre = jnp.trunc(_centre(points, spot)) + spot["offset"] + jnp.round(spot["canvas_offset"] * canvas)
    radius = jnp.trunc(_half_extents(points, spot) + spot["radius"] + jnp.round(spot["canvas_radius"] * canvas))
    radius = jnp.where(radius > 0, radius, spot["fallback"][..., None]) + 0.5
    closest = (jnp.clip(centre, 0.0, canvas - 1) - centre) / radius
    touched = ((closest**2).sum(-1) <= 1) & selection.drawn

    (rows, row_weights), (columns, column_weights) = (_cell_samples(n) for n in size)
    dx = ((columns[None, None] - centre[..., :1]) / radius[..., :1]) ** 2
    dy = ((rows[None, None] - centre[..., 1:]) / radius[..., 1:]) ** 2
    inside = (dy[..., :, None] + dx[..., None, :] <= 1) & touched[..., None, None]
    weighted = inside.any(1) * (row_weights[None, :, None] * column_weights[None, None, :])
    cells = weighted.reshape(-1, _GRID, 2, _GRID, 2).sum((2, 4))
    drawn_map = resize.separable(cells, *(_cells_to_pixels(n) for n in size)).max(0)
    return _stretched(drawn_map), touched.any()


def _cell_samples(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two pixels that bilinear sampling of each of the 28 cells reads, flat, and their weights."""
    source = (np.arange(_GRID) + 0.5) * pixels / _GRID - 0.5
    below = np.floor(source)
    taps = np.clip(np.stack([below, below + 1], -1), 0, pixels - 1)
    weights = np.stack([1 - (source - below), source - below], -1)
    return taps.reshape(-1).astype(np.float32), weights.reshape(-1).astype(np.float32)


@functools.lru_cache
def _cells_to_pixels(pixels: int) -> np.ndarray:
    """Returns the (pixels, 28) weights of a mean over three cells, mirrored at the border, then enlarging."""
    neighbours = np.abs(np.arange(_GRID)[:, None] + np.arange(-1, 2)[None, :])
    neighbours = np.where(neighbours >= _GRID, 2 * (_GRID - 1) - neighbours, neighbours)
    blur = np.zeros((_GRID, _GRID))
    np.add.at(blur, (np.arange(_GRID)[:, None], neighbours), 1 / 3)
    return (resize.bilinear_matrix(_GRID, pixels) @ blur).astype(np.float32)


Rendering = Callable[[Array, _Selection, Size, Codebook], tuple[Array, Array]]
RENDERINGS: dict[str, Rendering] = {"smooth": _smooth, "coarse": _coarse}
