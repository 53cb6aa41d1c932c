"""What is measured: means that can be merged, accuracy, and how well a map agrees with the AU map.

Sums and counts are kept apart and divided once, so that masked and padded examples, batches of any size and
several devices give the same number. Maps are (..., height, width).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import resize

NORM_FLOOR = 1e-8


class Mean(NamedTuple):
    """A mean in the making: `total` and `count` are merged by addition and divided at the end."""

    total: Float[Array | np.ndarray, "*shape"]
    count: Float[Array | np.ndarray, "*shape"]

    @classmethod
    def of(
        cls,
        values: Float[Array | np.ndarray, "*batch"],
        *,
        where: Bool[Array | np.ndarray, "*batch"] | None = None,
        axis_name: str | None = None,
    ) -> "Mean":
        """Returns the sum and number of all counted values, over the mapped axis too when it is named."""
        where = jnp.ones(values.shape, bool) if where is None else where
        pair = jnp.where(where, values, 0.0).sum(), jnp.asarray(where).sum(dtype=jnp.float32)
        return cls(*(pair if axis_name is None else jax.lax.psum(pair, axis_name)))

    def merge(self, other: "Mean") -> "Mean":
        """Returns the mean over the examples of both."""
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> Float[Array, "*shape"]:
        """Returns total / count, and 0 where nothing was counted."""
        return jnp.asarray(self.total) / jnp.maximum(self.count, 1.0)


def correct(
    logits: Float[Array | np.ndarray, "*batch classes"], expression: Int[Array | np.ndarray, "*batch"]
) -> Bool[Array, "*batch"]:
    """Returns whether the largest logit is that of the labelled expression."""
    return jnp.argmax(jnp.asarray(logits), axis=-1) == expression


def cosine(first: Float[Array, "*batch h w"], second: Float[Array, "*batch h w"]) -> Float[Array, "*batch"]:
    """Returns the cosine of two maps (Eq. 2 of the paper), 0 where one is zero; value and gradient stay finite.

    >>> cosine(jnp.eye(2), jnp.ones((2, 2))).round(4)
    Array(0.7071, dtype=float32)
    """
    # The squared norm is floored before the root: the root's gradient at 0 is infinite.
    norms = [jnp.sqrt(jnp.maximum((m**2).sum((-2, -1)), NORM_FLOOR**2)) for m in (first, second)]
    return (first * second).sum((-2, -1)) / (norms[0] * norms[1])


def map_cosine(
    maps: Float[Array | np.ndarray, "*batch h w"], au_map: Float[Array | np.ndarray, "*batch height width"]
) -> Float[Array, "*batch"]:
    """Returns the cosine of each map with its AU map, as CAM-COS and ATT-COS of the paper (section 4.1) are read.

    The map is shifted up by its minimum if that is negative, and resampled to the AU map's size by
    `resize.torch_aligned`. A map that is zero, or not finite, scores 0.

    >>> map_cosine(jnp.ones((1, 7, 7)), jnp.ones((1, 14, 14))).round(4)
    Array([1.], dtype=float32)
    """
    maps = jnp.asarray(maps).astype(jnp.float32)
    shifted = maps - jnp.minimum(maps.min((-2, -1), keepdims=True), 0.0)
    return resampled_cosine(shifted, au_map, resize.torch_aligned_matrix)


def resampled_cosine(
    maps: Float[Array | np.ndarray, "*batch h w"],
    au_map: Float[Array | np.ndarray, "*batch height width"],
    matrix: Callable[[int, int], resize.Matrix],
) -> Float[Array, "*batch"]:
    """Returns the cosine of maps, without negative values, with AU maps to whose size a matrix of `resize` takes them.

    No map is resampled: <R m C', a> is <m, R' a C>, where maps of one size share R' a C, and <R m C', R m C'> is
    <m, R'R m C'C>. A map that is zero, or not finite, scores 0.

    >>> resampled_cosine(jnp.eye(2), jnp.ones((4, 4)), resize.bilinear_matrix).round(4)
    Array(0.848, dtype=float32)
    """
    maps, au_map = jnp.asarray(maps), jnp.asarray(au_map)
    shrunk, spread = au_map, maps
    if maps.shape[-2:] != au_map.shape[-2:]:
        rows, columns = (matrix(*lengths) for lengths in zip(maps.shape[-2:], au_map.shape[-2:], strict=True))
        shrunk = resize.separable(au_map, rows.T, columns.T)
        spread = resize.banded(maps, rows.T @ rows, columns.T @ columns)
    squares = (maps * spread).sum((-2, -1)), (au_map**2).sum((-2, -1))
    norms = [jnp.sqrt(jnp.maximum(square, NORM_FLOOR**2)) for square in squares]
    inner = (maps * shrunk).sum((-2, -1))
    return jnp.nan_to_num(inner / (norms[0] * norms[1]), nan=0.0, posinf=1.0, neginf=0.0)


def per_class_mean(
    values: Float[np.ndarray, "examples *shape"], expression: Int[np.ndarray, " examples"], num_classes: int
) -> tuple[Float[np.ndarray, "classes *shape"], Int[np.ndarray, " classes"]]:
    """Returns the mean of the values of each class and how many there were; a class without any has mean 0."""
    totals = np.zeros((num_classes, *values.shape[1:]))
    np.add.at(totals, expression, values)
    counts = np.bincount(expression, minlength=num_classes)
    return totals / np.maximum(counts, 1).reshape(-1, *[1] * (values.ndim - 1)), counts


def confusion_matrix(
    expression: Int[np.ndarray, " examples"], predicted: Int[np.ndarray, " examples"], num_classes: int
) -> Int[np.ndarray, "true predicted"]:
    """Returns how many examples of each class (row) were called what (column)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (expression, predicted), 1)
    return matrix
