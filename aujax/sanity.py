"""What any map of a network should do: change with the network's weights, and hold still when the picture hardly moves.

Pictures are (batch, height, width, 3), maps (batch, h, w) of any resolution. Similarity is Pearson's correlation of two
maps of one face: 1 where they are the same, about 0 where one tells nothing of the other or is flat or not finite.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax import cams, map_scores, resize
from aujax.models.forward import Variables

SHIFT = 1 / 28  # of the picture's side: 8 of 224 pixels


def stages(model: nn.Module, size: int) -> tuple[str, ...]:
    """Returns the stages of a network for pictures of `size`, from the top, the head, down to the first.

    A stage is what the backbone calls by one first name: "stage4_block0" and "stage4_block1" are of "stage4".
    """
    called: dict[str, None] = {}

    def note() -> Variables:
        variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
        # In the order of their calls, which is lost as soon as JAX has handled the tree.
        called.update(dict.fromkeys(_stage(name) for name in variables["params"]["backbone"]))
        return variables

    jax.eval_shape(note)
    return ("head", *reversed(called))


def randomised(variables: Variables, fresh: Variables, names: Collection[str]) -> dict[str, Any]:
    """Returns the variables with those of the named stages, statistics too, taken from fresh ones.

    The test randomises from the top downwards (Adebayo et al. 2018): name the stages down to one, `stages(...)[:n]`.
    """

    def chosen(stage: str) -> Variables:
        return fresh if stage in names else variables

    mixed: dict[str, Any] = {}
    for kind, parts in variables.items():
        blocks = {name: chosen(_stage(name))[kind]["backbone"][name] for name in parts.get("backbone", {})}
        heads = {"head": chosen("head")[kind]["head"]} if "head" in parts else {}
        mixed[kind] = {**({"backbone": blocks} if blocks else {}), **heads}
    return mixed


def _stage(name: str) -> str:
    return name.split("_")[0]


def similarity(first: Float[Array, "batch h w"], second: Float[Array, "batch h w"]) -> Float[Array, " batch"]:
    """Returns the correlation of two maps of each face.

    >>> similarity(jnp.eye(4)[None], 3 - jnp.eye(4)[None])
    Array([-1.], dtype=float32)
    """
    flat = [cams.normalize(maps).reshape(len(maps), -1) for maps in (first, second)]
    return map_scores.correlation(flat[0], flat[1])


class View(NamedTuple):
    """Another look at the same face: what it does to pictures, and how alike its map and the plain picture's are."""

    picture: Callable[[Float[Array, "batch height width 3"]], Float[Array, "batch height width 3"]]
    similarity: Callable[[Float[Array, "batch h w"], Float[Array, "batch h w"]], Float[Array, " batch"]]


def _mirrored(image: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    return image[:, :, ::-1]


def _of_mirrored(plain: Float[Array, "batch h w"], view: Float[Array, "batch h w"]) -> Float[Array, " batch"]:
    """Returns how alike the plain map and the mirrored one, mirrored back, are."""
    return similarity(plain, view[..., ::-1])


def _shifted(image: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
    """Returns the pictures moved by `SHIFT` to the right and down; what comes in repeats the border."""
    down, right = (_pixels(n) for n in image.shape[1:3])
    padded = jnp.pad(image, ((0, 0), (down, 0), (right, 0), (0, 0)), mode="edge")
    return padded[:, : image.shape[1], : image.shape[2]]


def _of_shifted(
    plain: Float[Array, "batch h w"], view: Float[Array, "batch h w"], *, size: resize.Size
) -> Float[Array, " batch"]:
    """Returns how alike the plain map, moved as the picture was, and the other are where both show the face."""
    cells = [_pixels(n) * m / n for n, m in zip(size, plain.shape[1:], strict=True)]
    moved = resize.separable(plain, *(_moving(m, by) for m, by in zip(plain.shape[1:], cells, strict=True)))
    top, left = (int(np.ceil(by)) for by in cells)
    return similarity(moved[:, top:, left:], view[:, top:, left:])


def _pixels(side: int) -> int:
    return max(round(side * SHIFT), 1)


@functools.lru_cache
def _moving(n: int, by: float) -> resize.Matrix:
    """Returns the (n, n) weights of a linear interpolation `by` cells before each."""
    source = np.clip(np.arange(n) - by, 0, n - 1)
    return np.maximum(1 - np.abs(source[:, None] - np.arange(n)[None, :]), 0.0).astype(np.float32)


def views(size: resize.Size) -> dict[str, View]:
    """Returns the looks that a face stays the same for, at pictures of `size`: mirrored, and shifted a little."""
    return {
        "flip": View(_mirrored, _of_mirrored),
        "shift": View(_shifted, functools.partial(_of_shifted, size=size)),
    }
