"""Sanity checks of maps: they should depend on the network's weights and be stable under small image changes.

Images are (batch, height, width, 3), maps (batch, h, w) of any resolution. Similarity is the Pearson correlation of two
maps of one face: 1 for equal maps, about 0 for unrelated ones, 0 if one of them is degenerate.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax import cams, metrics, resize
from aujax.models.forward import Variables

SHIFT = 1 / 28  # of the image's side: 8 of 224 pixels

Images = Float[Array, "batch height width 3"]
Maps = Float[Array, "batch h w"]


def stages(model: nn.Module, size: int) -> tuple[str, ...]:
    """Returns the stages of a network for images of `size`, from the head down to the first.

    A stage is a prefix of parameter names in the backbone: "stage4_block0" and "stage4_block1" belong to "stage4".
    """
    prefixes: dict[str, None] = {}

    def init() -> Variables:
        variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
        # Recorded here, in the order of the calls: JAX sorts the keys of the tree that it returns.
        prefixes.update(dict.fromkeys(_stage(name) for name in variables["params"]["backbone"]))
        return variables

    jax.eval_shape(init)
    return ("head", *reversed(prefixes))


def randomised(variables: Variables, fresh: Variables, names: Collection[str]) -> dict[str, Any]:
    """Returns the variables with parameters and statistics of the named stages replaced by newly initialised ones.

    Cascading randomisation goes from the head down (Adebayo et al. 2018): pass `stages(...)[:n]` for n = 1, 2, ...
    """
    mixed: dict[str, Any] = {}
    for kind, parts in variables.items():
        mixed[kind] = {}
        if "backbone" in parts:
            mixed[kind]["backbone"] = {
                name: (fresh if _stage(name) in names else variables)[kind]["backbone"][name]
                for name in parts["backbone"]
            }
        if "head" in parts:
            mixed[kind]["head"] = (fresh if "head" in names else variables)[kind]["head"]
    return mixed


def _stage(name: str) -> str:
    return name.split("_")[0]


def similarity(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """Returns the correlation of two maps of each face.

    >>> similarity(jnp.eye(4)[None], 3 - jnp.eye(4)[None])
    Array([-1.], dtype=float32)
    """
    flat = [cams.normalize(maps).reshape(len(maps), -1) for maps in (first, second)]
    return metrics.pearson(flat[0], flat[1])


class View(NamedTuple):
    """A view of the same face: the image transform, and the similarity of the original's and the view's maps."""

    transform: Callable[[Images], Images]
    similarity: Callable[[Maps, Maps], Float[Array, " batch"]]


def views(size: resize.Size) -> dict[str, View]:
    """Returns the views under which a prediction should be stable, for images of `size`: mirrored, and shifted."""
    return {
        "mirrored": View(lambda image: image[:, :, ::-1], lambda map_, view: similarity(map_, view[..., ::-1])),
        "shifted": View(_shift, functools.partial(_shifted_similarity, size=size)),
    }


def _shift(image: Images) -> Images:
    """Returns the images moved by `SHIFT` to the right and down; the border is repeated."""
    down, right = (_shift_pixels(n) for n in image.shape[1:3])
    padded = jnp.pad(image, ((0, 0), (down, 0), (right, 0), (0, 0)), mode="edge")
    return padded[:, : image.shape[1], : image.shape[2]]


def _shifted_similarity(map_: Maps, view: Maps, *, size: resize.Size) -> Float[Array, " batch"]:
    """Returns the similarity of the map, moved like the image, and the view's map, where both show the face."""
    cells = [_shift_pixels(n) * m / n for n, m in zip(size, map_.shape[1:], strict=True)]
    moved = resize.separable(map_, *(_shift_matrix(m, by) for m, by in zip(map_.shape[1:], cells, strict=True)))
    top, left = (int(np.ceil(by)) for by in cells)
    return similarity(moved[:, top:, left:], view[:, top:, left:])


def _shift_pixels(side: int) -> int:
    return max(round(side * SHIFT), 1)


@functools.lru_cache
def _shift_matrix(n: int, by: float) -> resize.Matrix:
    """Returns the (n, n) weights of linear interpolation `by` cells before each cell."""
    source = np.clip(np.arange(n) - by, 0, n - 1)
    return np.maximum(1 - np.abs(source[:, None] - np.arange(n)[None, :]), 0.0).astype(np.float32)
