"""How well a map's highlights fall into the region of the action units, beyond the cosine.

Maps are (..., h, w) at the network's own resolution, AU maps (..., height, width). The region is where the AU map is at
least `REGION`, the outline of its ellipses. Nothing is enlarged: each pixel of the map weighs with the share of its
cell that lies in the region, and with the rest of the cell outside. No score changes when a map is multiplied by a
positive number or raised by one. A map that is flat or not finite, and any map where there is no region, scores 0, in
`auc` 0.5: what chance gives.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aujax import cams, resize

REGION = 0.5
# What a map that says nothing scores.
NOTHING = {"pointing": 0.0, "energy": 0.0, "iou": 0.0, "mean_iou": 0.0, "auc": 0.5, "correlation": 0.0}
SCORES = tuple(NOTHING)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_FLOOR = 1e-8


def scores(
    maps: Float[Array | np.ndarray, "*batch h w"], au_map: Float[Array | np.ndarray, "*batch height width"]
) -> dict[str, Float[Array, "*batch"]]:
    """Returns each of `SCORES` for every map and its AU map.

    pointing: 1 where the largest value lies in the region, that is at least half its cell does (Zhang et al. 2018); of
      several equally large ones, the share that does.
    energy: the share of the map, stretched to [0, 1], that lies in the region (Wang et al. 2020).
    iou: intersection over union of the region and as large an area of the map's highest values.
    mean_iou: the same of what reaches a threshold, averaged over `THRESHOLDS` of the map stretched to [0, 1].
    auc: area under the ROC curve of the values against the region: how often a place in it is higher than one outside.
    correlation: Pearson's, of the values and the AU map's means over the cells.

    >>> {name: float(value) for name, value in scores(jnp.eye(2), jnp.eye(2)).items()}
    {'pointing': 1.0, 'energy': 1.0, 'iou': 1.0, 'mean_iou': 1.0, 'auc': 1.0, 'correlation': 1.0}
    """
    maps, au_map = cams.normalize(maps), jnp.asarray(au_map, jnp.float32)
    soft, inside = (shrunk(x, maps.shape[-2:]) for x in (au_map, (au_map >= REGION).astype(jnp.float32)))
    values, soft, inside = (cells.reshape(*cells.shape[:-2], -1) for cells in (maps, soft, inside))
    largest = values == values.max(-1, keepdims=True)
    found = {
        "pointing": (largest & (inside >= 0.5)).sum(-1) / jnp.maximum(largest.sum(-1), 1),
        "energy": (values * inside).sum(-1) / jnp.maximum(values.sum(-1), _FLOOR),
        **_ranked(values, inside),
        "mean_iou": sum(_iou(values >= threshold, inside) for threshold in THRESHOLDS) / len(THRESHOLDS),
        "correlation": correlation(values, soft),
    }
    meaningful = (values.max(-1) > 0) & (inside.sum(-1) > 0)
    return {name: jnp.where(meaningful, found[name], nothing) for name, nothing in NOTHING.items()}


def _iou(taken: Bool[Array, "*batch n"], inside: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Returns intersection over union of whole cells and of the shares of cells in the region."""
    common = (taken * inside).sum(-1)
    return common / jnp.maximum(taken.sum(-1) + inside.sum(-1) - common, _FLOOR)


def shrunk(maps: Float[Array, "*batch height width"], size: resize.Size) -> Float[Array, "*batch h w"]:
    """Returns the mean of the map over each cell of a grid of `size`, which need not divide the map's.

    >>> shrunk(jnp.eye(4), (2, 2))
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    if maps.shape[-2:] == size:
        return maps
    return resize.separable(maps, *(_area_matrix(n, m) for n, m in zip(maps.shape[-2:], size, strict=True)))


def correlation(first: Float[Array, "*batch n"], second: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Returns Pearson's correlation over the last axis, 0 where one of the two is flat.

    >>> correlation(jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 0.0, -2.0]))
    Array(-1., dtype=float32)
    """
    first, second = (x - x.mean(-1, keepdims=True) for x in (first, second))
    norms = [jnp.sqrt(jnp.maximum((x**2).sum(-1), _FLOOR**2)) for x in (first, second)]
    return jnp.clip((first * second).sum(-1) / (norms[0] * norms[1]), -1.0, 1.0)


@functools.lru_cache
def _area_matrix(n_in: int, n_out: int) -> resize.Matrix:
    """Returns the (n_out, n_in) shares of the pixels in the cells."""
    edges = np.arange(n_out + 1) * n_in / n_out
    pixels = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * n_out / n_in).astype(np.float32)


def _ranked(values: Float[Array, "*batch n"], inside: Float[Array, "*batch n"]) -> dict[str, Float[Array, "*batch"]]:
    """Returns the scores that depend on the order of the values alone. Equal values share: neither is before the other.

    Before the place k of the order, counted from the highest value, lie k cells, and `above[k]` of the region.
    """
    order = jnp.argsort(-values, axis=-1)
    ordered, share = (jnp.take_along_axis(x, order, axis=-1) for x in (values, inside))
    count = values.shape[-1]
    above = jnp.concatenate([jnp.zeros_like(share[..., :1]), jnp.cumsum(share, axis=-1)], axis=-1)
    area = jnp.minimum(above[..., -1:], count)
    first, last = _ties(ordered)
    region_first, region_last = (jnp.take_along_axis(above, place, axis=-1) for place in (first, last))

    # Of the outside, what lies lower: all of it but that before a value, and but half of that beside it.
    outside = count - area
    lower = outside - ((first - region_first) + (last - region_last)) / 2
    auc = (share * lower).sum(-1) / jnp.maximum(area * outside, _FLOOR)[..., 0]

    # The value at which as many cells are taken as the region has; of its equals, only as many as that takes.
    place = jnp.clip(area.astype(jnp.int32), 0, count - 1)
    low, high, region_low, region_high = (
        jnp.take_along_axis(x, place, axis=-1) for x in (first, last, region_first, region_last)
    )
    taken = (area - low) / jnp.maximum(high - low, 1)
    common = (region_low + taken * (region_high - region_low))[..., 0]
    iou = common / jnp.maximum(2 * area[..., 0] - common, _FLOOR)
    return {"iou": iou, "auc": jnp.where(outside[..., 0] > 0, auc, NOTHING["auc"])}


def _ties(ordered: Float[Array, "*batch n"]) -> tuple[Int[Array, "*batch n"], Int[Array, "*batch n"]]:
    """Returns for each value where the run of its equals begins, and where it has ended."""
    index = jnp.broadcast_to(jnp.arange(ordered.shape[-1]), ordered.shape)
    changes = ordered[..., 1:] != ordered[..., :-1]
    edge = jnp.ones_like(changes[..., :1])
    starts, ends = jnp.concatenate([edge, changes], axis=-1), jnp.concatenate([changes, edge], axis=-1)
    axis = ordered.ndim - 1
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=axis)
    last = jax.lax.cummin(jnp.where(ends, index + 1, ordered.shape[-1]), axis=axis, reverse=True)
    return first, last
