"""Metrics: masked means, accuracy, the cosine with the AU map, and localization scores of a map.

Maps are float32 (..., h, w) at the network's own resolution, of any range; AU maps are (..., height, width) in [0, 1].
All results are fractions without a unit: cosines and Pearson correlations are in [-1, 1], all other scores in [0, 1].
Sums and counts are kept apart and divided once, so that masked and padded examples, batches of any size and several
devices give the same number.

The localization scores (`scores`) compare a map with a region of the face: the pixels where the AU map is at least
`REGION`, which is the area within the outlines of its ellipses. The map is not enlarged. Each of its pixels is a cell
that counts with the fraction of its area inside the region, and with the rest of its area outside. No score changes
when the map is multiplied by a positive number or a constant is added. A degenerate map (constant, or with
a pixel that is not finite) and any map compared with an empty region have the score of a map without information: 0,
and 0.5 for `auc`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import cams, resize

REGION = 0.5  # value of the AU map on the outline of an ellipse
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of `mean_iou`, on the map scaled to [0, 1]
DEGENERATE_SCORES = {"pointing": 0.0, "energy": 0.0, "iou": 0.0, "mean_iou": 0.0, "auc": 0.5, "correlation": 0.0}
SCORES = tuple(DEGENERATE_SCORES)
_FLOOR = 1e-8  # of norms and denominators

Maps = Float[Array | np.ndarray, "*batch h w"]
AUMaps = Float[Array | np.ndarray, "*batch height width"]
PerClass = Float[Array | np.ndarray, "*batch classes"]
Expression = Int[Array | np.ndarray, "*batch"]
Where = Bool[Array | np.ndarray, "*batch"] | None  # the examples that count; None for all
PerExample = Float[Array, "*batch"]


class Mean(NamedTuple):
    """Sum and number of the counted values; both can be added up before `compute` divides them."""

    total: Float[Array | np.ndarray, "*shape"]
    count: Float[Array | np.ndarray, "*shape"]

    @classmethod
    def of(
        cls,
        values: Float[Array | np.ndarray, "*batch"],
        *,
        where: Where = None,
        axis_name: str | None = None,
    ) -> "Mean":
        """Returns the sum and number of the values where the mask is True, also over the mapped axis if it is named."""
        where = jnp.ones(values.shape, bool) if where is None else where
        if where.shape != values.shape:
            raise ValueError(f"where must have the shape of the values, {values.shape}, got {where.shape}")
        pair = jnp.where(where, values, 0.0).sum(), jnp.sum(where, dtype=jnp.float32)
        return cls(*(pair if axis_name is None else jax.lax.psum(pair, axis_name)))

    def compute(self) -> Float[Array, "*shape"]:
        """Returns total / count, and 0 if no value was counted."""
        return jnp.asarray(self.total) / jnp.maximum(self.count, 1.0)


def correct(logits: PerClass, expression: Expression) -> Bool[Array, "*batch"]:
    """Returns whether the largest logit is that of the labelled expression."""
    return jnp.argmax(logits, axis=-1) == expression


def cosine(first: Float[Array, "*batch h w"], second: Float[Array, "*batch h w"]) -> PerExample:
    """Returns the cosine of two maps (Eq. 2 of the paper), 0 if one is zero; value and gradient are always finite.

    >>> cosine(jnp.eye(2), jnp.ones((2, 2))).round(4)
    Array(0.7071, dtype=float32)
    """
    # The squared norm is floored before the root: the root's gradient at 0 is infinite.
    norms = [jnp.sqrt(jnp.maximum((m**2).sum((-2, -1)), _FLOOR**2)) for m in (first, second)]
    return (first * second).sum((-2, -1)) / (norms[0] * norms[1])


def map_cosine(maps: Maps, au_map: AUMaps) -> PerExample:
    """Returns the cosine of each map with its AU map: CAM-COS and ATT-COS of the paper (section 4.1).

    A map with negative values is shifted up by its minimum. Maps are resampled to the AU map's size by
    `resize.torch_aligned`. A map that is zero, or not finite, has cosine 0.

    >>> map_cosine(jnp.ones((1, 7, 7)), jnp.ones((1, 14, 14))).round(4)
    Array([1.], dtype=float32)
    """
    maps = jnp.asarray(maps, jnp.float32)
    shifted = maps - jnp.minimum(maps.min((-2, -1), keepdims=True), 0.0)
    return resampled_cosine(shifted, au_map, resize.torch_aligned_matrix)


def resampled_cosine(maps: Maps, au_map: AUMaps, matrix: Callable[[int, int], resize.Matrix]) -> PerExample:
    """Returns the cosine of non-negative maps, resampled to the size of the AU maps, with the AU maps.

    `matrix(n_in, n_out)` gives the weights of the resampling, such as `resize.bilinear_matrix`. A map that is zero, or
    not finite, has cosine 0.

    >>> resampled_cosine(jnp.eye(2), jnp.ones((4, 4)), resize.bilinear_matrix).round(4)
    Array(0.848, dtype=float32)
    """
    # The maps are not enlarged, because all sums can be taken at their own size. With R and C the weights of rows and
    # columns, the resampled map is R m C', and <R m C', a> = <m, R' a C>, where R' a C is shared by all maps of one
    # size. Likewise <R m C', R m C'> = <m, R'R m C'C>, where R'R and C'C have few diagonals that are not zero.
    maps, au_map = jnp.asarray(maps), jnp.asarray(au_map)
    projected, spread = au_map, maps
    if maps.shape[-2:] != au_map.shape[-2:]:
        rows, columns = map(matrix, maps.shape[-2:], au_map.shape[-2:])
        projected = resize.separable(au_map, rows.T, columns.T)
        spread = resize.banded(maps, rows.T @ rows, columns.T @ columns)
    squares = (maps * spread).sum((-2, -1)), (au_map**2).sum((-2, -1))
    norms = [jnp.sqrt(jnp.maximum(square, _FLOOR**2)) for square in squares]
    inner = (maps * projected).sum((-2, -1))
    return jnp.nan_to_num(inner / (norms[0] * norms[1]), nan=0.0, posinf=1.0, neginf=0.0)


def scores(maps: Maps, au_map: AUMaps) -> dict[str, PerExample]:
    """Returns the localization scores of each map against its AU map, by name (`SCORES`).

    pointing: 1 if the largest value lies in the region, that is if at least half of its cell does (the pointing game,
      Zhang et al. 2018); if several values are equally large, the fraction of them that do.
    energy: the fraction of the sum of the map, scaled to [0, 1], that lies in the region (Wang et al. 2020).
    iou: intersection over union of the region and the cells of highest value, as many as cover the region's area.
    mean_iou: intersection over union of the region and the cells above a threshold, averaged over `THRESHOLDS`.
    auc: area under the ROC curve of the values as a detector of the region: the probability that a place inside has a
      higher value than a place outside, ties counting half.
    correlation: Pearson's correlation of the map and of the AU map averaged over the cells.

    >>> {name: float(value) for name, value in scores(jnp.eye(2), jnp.eye(2)).items()}
    {'pointing': 1.0, 'energy': 1.0, 'iou': 1.0, 'mean_iou': 1.0, 'auc': 1.0, 'correlation': 1.0}
    """
    maps, au_map = cams.normalize(maps), jnp.asarray(au_map, jnp.float32)
    cells = maps.shape[-2:]
    au_values = resize.area_resize(au_map, cells)
    inside = resize.area_resize((au_map >= REGION).astype(jnp.float32), cells)  # fraction of each cell in the region
    values, au_values, inside = (x.reshape(*x.shape[:-2], -1) for x in (maps, au_values, inside))

    # `inside` is a fraction of each cell, so that sums over cells are areas.
    largest = values == values.max(-1, keepdims=True)
    mean_iou = 0.0
    for threshold in THRESHOLDS:
        above = values >= threshold
        intersection = (above * inside).sum(-1)
        union = above.sum(-1) + inside.sum(-1) - intersection
        mean_iou += intersection / jnp.maximum(union, _FLOOR)
    iou, auc = _iou_and_auc(values, inside)
    result = {
        "pointing": (largest & (inside >= 0.5)).sum(-1) / jnp.maximum(largest.sum(-1), 1),
        "energy": (values * inside).sum(-1) / jnp.maximum(values.sum(-1), _FLOOR),
        "iou": iou,
        "mean_iou": mean_iou / len(THRESHOLDS),
        "auc": auc,
        "correlation": pearson(values, au_values),
    }
    # `cams.normalize` has made degenerate maps zero.
    meaningful = (values.max(-1) > 0) & (inside.sum(-1) > 0)
    return {name: jnp.where(meaningful, result[name], value) for name, value in DEGENERATE_SCORES.items()}


def _iou_and_auc(values: Array, inside: Array) -> tuple[Array, Array]:
    """Returns the two scores that depend only on the order of the values; equal values have no order among them."""
    # Sort the cells from the highest value down. The first k of them cover k cells, `covered[k]` of it in the region.
    order = jnp.argsort(-values, axis=-1)
    values, inside = (jnp.take_along_axis(x, order, axis=-1) for x in (values, inside))
    count = values.shape[-1]
    covered = jnp.concatenate([jnp.zeros_like(inside[..., :1]), jnp.cumsum(inside, axis=-1)], axis=-1)
    area = jnp.minimum(covered[..., -1:], count)  # of the region, in cells

    # For each of the sorted values, the index where the run of its equals begins, and where it has ended.
    first, last = (
        jnp.vectorize(functools.partial(jnp.searchsorted, side=side), signature="(n),(n)->(n)")(-values, -values)
        for side in ("left", "right")
    )
    covered_first, covered_last = (jnp.take_along_axis(covered, place, axis=-1) for place in (first, last))

    # The part of the outside that has a lower value than a given cell is all of the outside, less the part before the
    # cell's ties, less half of the part that is tied with it: ties count half in a ROC curve.
    outside = count - area
    lower = outside - ((first - covered_first) + (last - covered_last)) / 2
    auc = (inside * lower).sum(-1) / jnp.maximum(area * outside, _FLOOR)[..., 0]
    auc = jnp.where(outside[..., 0] > 0, auc, DEGENERATE_SCORES["auc"])

    # Take cells from the highest value down until their area is that of the region. Of the cells tied at the last value
    # the same fraction of each is taken.
    place = jnp.clip(area.astype(jnp.int32), 0, count - 1)
    low, high, covered_low, covered_high = (
        jnp.take_along_axis(x, place, axis=-1) for x in (first, last, covered_first, covered_last)
    )
    taken = (area - low) / jnp.maximum(high - low, 1)
    intersection = (covered_low + taken * (covered_high - covered_low))[..., 0]
    iou = intersection / jnp.maximum(2 * area[..., 0] - intersection, _FLOOR)
    return iou, auc


def pearson(first: Float[Array, "*batch n"], second: Float[Array, "*batch n"]) -> PerExample:
    """Returns Pearson's correlation over the last axis, 0 if one of the two is constant.

    >>> pearson(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 0.0, -2.0]))
    Array(-1., dtype=float32)
    """
    centred = ((x - x.mean(-1, keepdims=True))[..., None, :] for x in (first, second))
    return jnp.clip(cosine(*centred), -1.0, 1.0)
