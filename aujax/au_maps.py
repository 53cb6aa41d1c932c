"""AU maps: where an expression's action units (AUs) lie on one face; `jax.vmap` over faces is the batched builder.

Maps are float32 in [0, 1], (height, width). Landmarks are the 68 iBUG points, (x, y) pixels of an image of the map's
size, x right, y down; integers are pixel centres. A function that may be unable to draw returns a mask beside the map:
`has_map` is False, and the map zero, for an expression without AUs (Neutral), for a landmark that is not finite, and if
no ellipse touches the canvas. Everything here is pure and works under jit, vmap and grad.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from aujax import ellipses, resize
from aujax.codebook import FACS, Codebook, rescale_landmarks, single_aus
from aujax.resize import Size

_FOREHEAD = 0.4  # height of the forehead above the brows, in inter-ocular distances

Points = Real[Array | np.ndarray, "points xy"]
Map = Float[Array, "h w"]


def au_map(
    landmarks: Points,
    expression: int | Int[Array | np.ndarray | np.integer, ""],
    *,
    size: Size = (224, 224),
    codebook: Codebook = FACS,
) -> tuple[Map, Bool[Array, ""]]:
    """Returns the map of all AUs that `codebook` lists for the expression, and whether there is a map.

    This is A of the paper's section 3.2: the pixel-wise maximum over the AUs' maps. `expression` is an index into
    `codebook.expressions`; any other index has no map. Landmarks of another shape than (68, 2) are a ValueError.

    >>> maps, has_map = jax.jit(jax.vmap(au_map))(jnp.zeros((2, 68, 2)), jnp.array([0, 1]))
    >>> maps.shape, has_map.shape
    ((2, 224, 224), (2,))
    """
    points, finite = _checked(landmarks, size)
    if isinstance(expression, str):
        raise ValueError(
            f"expression must be an index into codebook.expressions, got {expression!r}: "
            f"use codebook.expressions.index({expression!r}), {codebook.name} has {', '.join(codebook.expressions)}"
        )
    rows, valid = ellipses.selections(codebook)
    # An index beyond the end selects no ellipse; a negative one, which would count from the end, is masked as well.
    valid = jnp.asarray(valid).at[expression].get(mode="fill", fill_value=False)
    valid &= jnp.asarray(expression) >= 0
    rows = jnp.asarray(rows)[expression]
    drawn_map, touched = ellipses.RENDERINGS[codebook.rendering](points, rows, valid, size, codebook)
    has_map = finite & touched
    return jnp.where(has_map, drawn_map, 0.0), has_map


def batch_au_maps(
    landmarks: Float[Array | np.ndarray, "batch points xy"],
    expression: Int[Array | np.ndarray, " batch"],
    where: Bool[Array | np.ndarray, " batch"],
    *,
    size: Size,
    codebook: Codebook,
) -> tuple[Float[Array, "batch h w"], Bool[Array, " batch"]]:
    """Returns the AU maps of stored images of `size`, drawn on the codebook's canvas if it has one.

    Faces where the mask is False (no landmarks, padding) have no map. A map drawn on a canvas of another size is
    resized to the nearest pixel, as in the released code.
    """
    canvas = codebook.canvas or size
    if canvas != size:
        scale = np.array([canvas[1] / size[1], canvas[0] / size[0]], np.float32).reshape(1, 1, 2)
        # Rounded to 1/1000 px, because the reference truncates: 50 must not become 49.99999.
        landmarks = jnp.round(rescale_landmarks(landmarks, scale), 3)
    maps, has_map = jax.vmap(functools.partial(au_map, size=canvas, codebook=codebook))(landmarks, expression)
    has_map &= where
    maps = maps if canvas == size else resize.nearest(maps, size)
    return jnp.where(has_map[:, None, None], maps, 0.0), has_map


def single_au_maps(
    landmarks: Points,
    aus: Sequence[int],
    *,
    size: Size = (224, 224),
    codebook: Codebook = FACS,
) -> tuple[Float[Array, "aus h w"], Bool[Array, " aus"]]:
    """Returns one map per FACS number in `aus`; a number without a region in the codebook is a ValueError."""
    # A codebook has at least one class, also if no map is asked for.
    single = single_aus(aus or codebook.all_aus, geometry=codebook)
    classes = jnp.array([single.expressions.index(f"AU{number}") for number in aus], int)
    draw = functools.partial(au_map, size=size, codebook=single)
    return jax.vmap(draw, in_axes=(None, 0))(landmarks, classes)


def face_outline(landmarks: Points, *, size: Size = (224, 224)) -> Map:
    """Returns the mask of the face, from the jaw to a forehead above the brows: 1 inside, 0 outside.

    >>> face_outline(jnp.zeros((68, 2)), size=(4, 4)).sum()
    Array(0., dtype=float32)
    """
    landmarks, _ = _checked(landmarks, size)
    eyes = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    up = _FOREHEAD * jnp.stack([eyes[1], -eyes[0]])
    corners = jnp.concatenate([landmarks[:17], landmarks[26:16:-1] + up[None]])
    x = jnp.arange(size[1], dtype=jnp.float32)[None, None, :]
    y = jnp.arange(size[0], dtype=jnp.float32)[None, :, None]
    # Even-odd rule: a pixel is inside if the ray from it to the right crosses an odd number of the polygon's edges.
    (ax, ay), (bx, by) = (part.T[:, :, None, None] for part in (corners, jnp.roll(corners, -1, axis=0)))
    height = jnp.where(by == ay, 1.0, by - ay)
    crossed = ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / height + ax)
    return (crossed.sum(0) % 2).astype(jnp.float32)


def _checked(landmarks: Points, size: object) -> tuple[Float[Array, "68 2"], Bool[Array, ""]]:
    """Returns the landmarks as float32, zeros if one is not finite, and whether all are finite."""
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(
            f"size must be (height, width) of the map in pixels, got {size!r}: give (224, 224), for example"
        )
    points = jnp.asarray(landmarks, jnp.float32)
    if points.shape != (68, 2):
        raise ValueError(
            f"landmarks must have shape (68, 2), got {points.shape}: give the 68 iBUG points (x, y) of one face, "
            "and use jax.vmap for a batch"
        )
    finite = jnp.isfinite(points).all()
    return jnp.where(finite, points, 0.0), finite
