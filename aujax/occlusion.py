"""What a hidden part of a picture is replaced by, so that a network can be asked what it does without it.

Pictures are float32 RGB in [0, 1], before normalisation, (batch, height, width, 3). Masks are (batch, height, width) in
[0, 1], 1 where all is hidden; whatever a mask touches counts as unknown to the fillings that look at the rest. The
result for a picture depends on that picture and its mask alone, not on the others of the batch. A row of `FILLINGS`
takes pictures and returns what fills a mask, so that what does not depend on the mask is computed once.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax import resize

BLUR = 1 / 12  # standard deviation, as a share of the picture's side: lips and eyes vanish, skin and light stay
NOISE = 0.01  # standard deviation, as in the authors' imputer
_SCALES = (1 / 4, 1 / 16, 1 / 64)  # of the side: the blurs that the imputation starts from, coarse to fine
_STEPS = 60  # of conjugate gradients, for pictures smaller than that
_KNOWN = 1e-3  # a blur that saw less of the picture than this says nothing

Picture = Float[Array, "batch height width 3"]
Mask = Float[Array, "batch height width"]
Filling = Callable[[Picture], Callable[[Mask], Picture]]


def hide(image: Picture, mask: Mask, *, filling: str) -> Picture:
    """Returns the pictures with the masked part replaced, in proportion to the mask.

    >>> image = jnp.zeros((1, 4, 4, 3)).at[:, :2].set(1.0)
    >>> hide(image, jnp.zeros((1, 4, 4)).at[:, 0].set(1.0), filling="mean")[0, :, 0, 0]
    Array([0.5, 1. , 0. , 0. ], dtype=float32)
    """
    return hider(image, filling)(mask)


def hider(image: Picture, filling: str) -> Callable[[Mask], Picture]:
    """Returns mask -> pictures with that part replaced: `hide` for many masks of the same pictures."""
    fill = _row(filling)(image)

    def hidden(mask: Mask) -> Picture:
        weight = mask[..., None]
        return image * (1 - weight) + fill(mask) * weight

    return hidden


def blurred(image: Picture) -> Callable[[Mask], Picture]:
    """Returns the filling with a strong Gaussian blur of the picture itself: light and skin without features."""
    blur = _blur(image, BLUR)
    return lambda mask: blur


def mean_colour(image: Picture) -> Callable[[Mask], Picture]:
    """Returns the filling with the mean colour of the whole picture."""
    mean = jnp.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
    return lambda mask: mean


def imputed(image: Picture) -> Callable[[Mask], Picture]:
    """Returns ROAD's filling: every hidden pixel a weighted mean of its neighbours, plus noise (Rong et al. 2022).

    Direct neighbours weigh twice the diagonal ones, so that hidden pixels solve a linear system whose solution is as
    smooth as the rest allows: the shape of the mask cannot be read from it. From blurs of what is seen, coarse to
    fine, conjugate gradients lead to it, in as many steps at most as the picture has pixels on its longer side: with
    nine tenths of a face hidden that is within 0.002. The noise is the same for all pictures. A picture without any
    visible pixel becomes its mean colour.
    """
    noise = NOISE * jax.random.normal(jax.random.key(0), image.shape[1:])

    def fill(mask: Mask) -> Picture:
        unknown = (mask > 0).astype(jnp.float32)[..., None]
        return jax.vmap(_solve)(image, unknown, _start(image, unknown)) + unknown * noise[None]

    return fill


FILLINGS: dict[str, Filling] = {"blur": blurred, "mean": mean_colour, "road": imputed}


def _row(name: str) -> Filling:
    if name not in FILLINGS:
        raise ValueError(f"filling must be one of {', '.join(FILLINGS)}, got {name!r}")
    return FILLINGS[name]


@functools.lru_cache
def _gaussian(n: int, share: float) -> resize.Matrix:
    """Returns the (n, n) weights of a Gaussian blur; beyond the border there is nothing to weigh."""
    x = np.arange(n)
    weights = np.exp(-(((x[:, None] - x[None, :]) / (share * n)) ** 2) / 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blur(image: Float[Array, "batch height width channels"], share: float) -> Array:
    """Returns the pictures blurred by that share of their sides."""
    height, width = image.shape[1:3]
    planes = resize.separable(jnp.moveaxis(image, -1, 1), _gaussian(height, share), _gaussian(width, share))
    return jnp.moveaxis(planes, 1, -1)


def _start(image: Picture, unknown: Float[Array, "batch height width 1"]) -> Picture:
    """Returns the pictures with what is unknown taken from the narrowest blur that saw something of the rest."""
    seen = image * (1 - unknown)
    count = (1 - unknown).sum((1, 2), keepdims=True)
    mean = jnp.where(
        count > 0, seen.sum((1, 2), keepdims=True) / jnp.maximum(count, 1), image.mean((1, 2), keepdims=True)
    )
    guess = jnp.broadcast_to(mean, image.shape)
    for share in _SCALES:
        both = _blur(jnp.concatenate([seen, 1 - unknown], axis=-1), share)
        colour, weight = both[..., :3], jnp.maximum(both[..., 3:], 0.0)
        guess = (colour + _KNOWN * guess) / (weight + _KNOWN)
    return seen + unknown * guess


def _solve(
    image: Float[Array, "height width 3"],
    unknown: Float[Array, "height width 1"],
    start: Float[Array, "height width 3"],
) -> Float[Array, "height width 3"]:
    """Returns the picture with its unknown pixels moved towards the mean of their neighbours' values."""
    known = image * (1 - unknown)
    # Symmetric and positive: pixel times the weight of its neighbours, less those of them that are unknown too.
    degree = _neighbours(jnp.ones_like(unknown))

    def spread(x: Array) -> Array:
        return unknown * (degree * x - _neighbours(unknown * x)) + (1 - unknown) * x

    # The tolerance stops it only where nothing is left to do, which would divide by zero.
    solved, _ = jax.scipy.sparse.linalg.cg(
        spread, unknown * _neighbours(known), x0=unknown * start, tol=0.0, atol=1e-4, maxiter=max(_STEPS, *image.shape)
    )
    return known + unknown * solved


def _neighbours(x: Float[Array, "height width channels"]) -> Float[Array, "height width channels"]:
    """Returns the weighted sum of each pixel's eight neighbours: 1/6 the direct ones, 1/12 those at the corners."""

    def sides(x: Array, axis: int) -> Array:
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        n = x.shape[axis]
        return jax.lax.slice_in_dim(padded, 0, n, axis=axis) + jax.lax.slice_in_dim(padded, 2, n + 2, axis=axis)

    beside = sides(x, 1)
    return (beside + sides(x + beside / 2, 0)) / 6
