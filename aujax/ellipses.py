"""Drawing of a codebook's ellipses as a map, for one face.

Maps are float32 in [0, 1], (height, width). Landmarks are the 68 iBUG points, all finite, (x, y) pixels of the map.
A codebook names its way of drawing, a row of `RENDERINGS`: "smooth" or "coarse".
"""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import resize
from aujax.codebook import Codebook, Ellipse
from aujax.resize import Size

_GRID = 28  # cells per side of the released code's maps
_FAR = 1e9  # a squared radius that no pixel of a map has
_EXACT = "highest"  # accelerators would otherwise round pixels to fewer bits

Points = Float[Array, "68 2"]
Map = Float[Array, "h w"]
Rows = Int[Array, "groups members"]  # of the codebook's table of distinct ellipses
Valid = Bool[Array, "groups members"]  # False: padding, not drawn


@functools.lru_cache
def _table(codebook: Codebook) -> tuple[dict[Ellipse, int], dict[str, np.ndarray]]:
    """Returns the row of every distinct ellipse of the codebook, and the columns of the table, by field."""
    distinct = dict.fromkeys(itertools.chain(*codebook.ellipses.values()))
    columns = zip(Ellipse._fields, map(np.array, zip(*distinct, strict=True)), strict=True)
    return {ellipse: row for row, ellipse in enumerate(distinct)}, dict(columns)


@functools.lru_cache
def selections(
    codebook: Codebook,
) -> tuple[Int[np.ndarray, "expressions groups members"], Bool[np.ndarray, "expressions groups members"]]:
    """Returns the ellipses of each expression: rows of the codebook's table, and the mask of those to draw.

    The ellipses of a group form one region; equal groups of an expression occur once. Where the mask is False is
    padding.
    """
    row_of, _ = _table(codebook)
    groups_of = []
    for aus in codebook.aus.values():
        groups = [tuple(row_of[ellipse] for ellipse in codebook.ellipses[au]) for au in aus]
        if codebook.rendering != "coarse":  # the released code paints the ellipses of an AU together, and blurs them
            groups = [(row,) for members in groups for row in members]
        groups_of.append(list(dict.fromkeys(groups)))
    most_groups = max([1, *map(len, groups_of)])
    most_members = max([1, *map(len, itertools.chain(*groups_of))])
    rows = np.full((len(groups_of), most_groups, most_members), -1, np.int32)
    for i, groups in enumerate(groups_of):
        for j, members in enumerate(groups):
            rows[i, j, : len(members)] = members
    return np.maximum(rows, 0), rows >= 0


def _place(points: Points, rows: Rows, codebook: Codebook) -> tuple[dict[str, Array], Array, Array]:
    """Returns the fields of the selected ellipses, and from landmarks their centres and half extents, (..., 2)."""
    ellipse = {field: jnp.asarray(column)[rows] for field, column in _table(codebook)[1].items()}
    centre = [points[ellipse[pair], axis].mean(-1) for axis, pair in enumerate(("x", "y"))]
    extent = [jnp.diff(points[ellipse[pair], axis]) for axis, pair in enumerate(("width", "height"))]
    return ellipse, jnp.stack(centre, axis=-1), jnp.concatenate(extent, axis=-1) / 2


def _smooth(points: Points, rows: Rows, valid: Valid, size: Size, codebook: Codebook) -> tuple[Map, Array]:
    """Returns the map of soft ellipses: 1.5 minus the squared radius, clipped to [0, 1], so 0.5 on the outline.

    The squared radius is 0 at the centre of an ellipse and 1 on its outline. The value falls with it, so that the
    maximum over ellipses is the value of the smallest squared radius.
    """
    # The face's frame has its x axis through the eyes; lengths are in units of the distance between them.
    eyes = points[42:48].mean(0) - points[36:42].mean(0)
    squared = (eyes**2).sum()
    unit = jnp.sqrt(jnp.maximum(squared, 1e-6))
    cos, sin = eyes / unit
    to_face = jnp.array([[cos, -sin], [sin, cos]])
    face_points = jnp.matmul(points, to_face, precision=_EXACT)
    ellipse, centre, half_extent = _place(face_points, rows, codebook)
    centre = centre + unit * ellipse["offset"]
    centre = jnp.matmul(centre, to_face.T, precision=_EXACT).reshape(-1, 2)  # back in the map's frame
    radius = (jnp.maximum(half_extent, 0.0) + unit * ellipse["radius"]).reshape(-1, 2)
    # The squared radius of a pixel (dx, dy) from the centre is p dx^2 + q dx dy + r dy^2.
    a, b = 1.0 / jnp.maximum(radius.T, 1e-3) ** 2
    p, q, r = a * cos**2 + b * sin**2, 2 * cos * sin * (a - b), a * sin**2 + b * cos**2
    x, y = centre.T
    valid = valid.reshape(-1)

    # Its minimum over the pixels of the map, without drawing them: 0 if the centre is on the map, else at the minimum
    # along one of the edges, two of which are vertical and two horizontal.
    right, bottom = size[1] - 1 - x, size[0] - 1 - y
    places = [(dx, jnp.clip(-q * dx / (2 * r), -y, bottom)) for dx in (-x, right)]
    places += [(jnp.clip(-q * dy / (2 * p), -x, right), dy) for dy in (-y, bottom)]
    on_edge = functools.reduce(jnp.minimum, [p * dx**2 + q * dx * dy + r * dy**2 for dx, dy in places])
    inside = (x >= 0) & (right >= 0) & (y >= 0) & (bottom >= 0)
    closest = jnp.where(valid, jnp.where(inside, 0.0, on_edge), _FAR)

    # In a row of pixels it is a polynomial in x for each ellipse. x is counted from the middle of the row, so that
    # large terms hardly cancel, and one vector of x serves all ellipses.
    middle = (size[1] - 1) / 2
    columns, x = jnp.arange(size[1], dtype=jnp.float32) - middle, x - middle
    dy = jnp.arange(size[0], dtype=jnp.float32)[None, :] - centre[:, 1:]
    linear = q[:, None] * dy - 2 * (p * x)[:, None]
    constant = r[:, None] * dy**2 - (q * x)[:, None] * dy + (p * x**2 + jnp.where(valid, 0.0, _FAR))[:, None]
    squared_radii = []
    for c, b, a in zip(constant, linear, p, strict=True):
        squared_radii.append(c[:, None] + columns[None, :] * (b[:, None] + (a * columns)[None, :]))
    drawn_map = jnp.clip(1.5 - functools.reduce(_minimum, squared_radii), 0.0, 1.0)
    return drawn_map, (squared > 1e-6) & (closest.min() < 1.5)


# Not `jnp.minimum` and `jnp.maximum`: they propagate NaN, which costs a CPU more than the polynomials do.
def _minimum(first: Array, second: Array) -> Array:
    return jnp.where(first < second, first, second)


def _maximum(first: Array, second: Array) -> Array:
    return jnp.where(first > second, first, second)


def _coarse(points: Points, rows: Rows, valid: Valid, size: Size, codebook: Codebook) -> tuple[Map, Array]:
    """Returns the map that the released code draws: ellipses of whole pixels, sampled on 28 x 28 cells, and blurred."""
    canvas = np.array([[size[::-1]]], np.float32)  # (width, height)
    ellipse, centre, half_extent = _place(jnp.trunc(points), rows, codebook)
    centre = jnp.trunc(centre) + ellipse["offset"] + jnp.round(ellipse["canvas_offset"] * canvas)
    radius = jnp.trunc(half_extent + ellipse["radius"] + jnp.round(ellipse["canvas_radius"] * canvas))
    radius = jnp.where(radius > 0, radius, ellipse["fallback"])
    closest = (jnp.clip(centre, 0.0, canvas - 1) - centre) / (radius + 0.5)
    touched = ((closest**2).sum(-1) <= 1) & valid

    # Bilinear sampling of a cell reads two pixels per axis: only those are painted.
    samples = [np.float32(values).reshape(-1) for n in size for values in resize.bilinear_samples(n, _GRID)]
    y, row_weights, x, column_weights = samples
    dx = jnp.abs(x[None, None] - centre[..., :1])
    dy = jnp.abs(y[None, None] - centre[..., 1:])
    # OpenCV paints the pixels whose centre is within half a pixel of the ellipse, along the column or along the row.
    reach_y, reach_x = _reach(dx, radius[..., :1], radius[..., 1:]), _reach(dy, radius[..., 1:], radius[..., :1])
    inside = (dy[..., :, None] <= reach_y[..., None, :]) | (dx[..., None, :] <= reach_x[..., :, None])
    inside &= touched[..., None, None]
    weighted = inside.any(1) * (row_weights[None, :, None] * column_weights[None, None, :])
    cells = weighted.reshape(-1, _GRID, 2, _GRID, 2).sum((2, 4))

    # Blurred and enlarged, then the maximum over action units, then scaled to [0, 1].
    bands = resize.separable(cells, _blur(), resize.bilinear_matrix(_GRID, size[1]) @ _blur())
    enlarged = resize.weighted_rows(bands, resize.bilinear_matrix(_GRID, size[0]))
    drawn_map = functools.reduce(_maximum, enlarged)
    low, high = drawn_map.min(), drawn_map.max()
    return (drawn_map - low) / jnp.where(high > low, high - low, 1.0), touched.any()


def _reach(distance: Array, along: Array, across: Array) -> Array:
    """Returns the reach of a painted ellipse across one axis, by the distance along the other; -1 beyond its end."""
    square = 1.0 - (distance / jnp.maximum(along, 1e-3)) ** 2
    return jnp.where(distance <= along, across * jnp.sqrt(jnp.maximum(square, 0.0)) + 0.5, -1.0)


@functools.lru_cache
def _blur() -> np.ndarray:
    """Returns the (28, 28) weights of a mean over three cells, mirrored at the border."""
    padded = np.pad(np.eye(_GRID, dtype=np.float32), ((1, 1), (0, 0)), mode="reflect")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


# (landmarks, rows, valid, size, codebook) -> the map, which is the maximum over the groups of ellipses of `selections`,
# and whether any ellipse touches it.
RENDERINGS = {"smooth": _smooth, "coarse": _coarse}
