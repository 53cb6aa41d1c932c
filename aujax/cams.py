"""Maps of where a network looks, from its activations: pure functions that know no network.

Activations are (..., h, w, channels), maps (..., h, w) float32, not normalised unless the name says so.
All work on any leading axes.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from aujax import resize


def layer_attention(features: Float[ArrayLike, "*batch h w channels"]) -> Float[Array, "*batch h w"]:
    """Returns the mean over channels, in float32 (Eq. 1 of the paper).

    >>> features = jnp.stack([jnp.zeros((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(layer_attention(features)[0])
    [0.5 0.  0.  0.  0. ]
    """
    return jnp.asarray(features, jnp.float32).mean(axis=-1)


def cam(
    features: Float[ArrayLike, "*batch h w channels"], weights: Float[ArrayLike, "*batch channels"]
) -> Float[Array, "*batch h w"]:
    """Returns the class activation map: the channels weighted by one class's weights (Zhou et al. 2016).

    >>> features = jnp.stack([jnp.ones((5, 5)), jnp.eye(5)], axis=-1)
    >>> print(cam(features, jnp.array([-1.0, 2.0]))[0])
    [ 1. -1. -1. -1. -1.]
    """
    features, weights = jnp.asarray(features, jnp.float32), jnp.asarray(weights, jnp.float32)
    # Accelerators would otherwise round float32 products to fewer bits.
    return jnp.einsum("...hwc,...c->...hw", features, weights, precision=jax.lax.Precision.HIGHEST)


def ts_cam(
    attention: Float[ArrayLike, "*batch h w"], class_maps: Float[ArrayLike, "*batch h w"]
) -> Float[Array, "*batch h w"]:
    """Returns the class's token map times the attention of the class token (Gao et al. 2021), sign kept.

    >>> attention = jnp.full((5, 5), 2.0)
    >>> print(ts_cam(attention, -jnp.eye(5))[0])
    [-2. -0. -0. -0. -0.]
    """
    return jnp.asarray(attention, jnp.float32) * jnp.asarray(class_maps, jnp.float32)


def informative(maps: Float[ArrayLike, "*batch h w"]) -> Bool[Array, "*batch"]:
    """Returns which maps are finite and not flat, and so mean something when drawn.

    >>> flat = jnp.ones((5, 5))
    >>> print(informative(jnp.stack([flat, flat.at[2, 2].set(jnp.nan), jnp.eye(5)])))
    [False False  True]
    """
    maps = jnp.asarray(maps, jnp.float32)
    extent = maps.max(axis=(-2, -1)) - maps.min(axis=(-2, -1))
    return jnp.isfinite(extent) & (extent > 0)


def normalize(maps: Float[ArrayLike, "*batch h w"]) -> Float[Array, "*batch h w"]:
    """Returns each map stretched to [0, 1] by its own minimum and maximum; zeros where it is not informative.

    >>> maps = jnp.arange(25.0).reshape(5, 5) - 12
    >>> print(normalize(maps)[2, 2], normalize(jnp.ones((5, 5))).max())
    0.5 0.0
    """
    maps = jnp.asarray(maps, jnp.float32)
    good = informative(maps)[..., None, None]
    # Both branches stay finite, so that gradients do too.
    maps = jnp.where(good, maps, 0.0)
    low, high = maps.min(axis=(-2, -1), keepdims=True), maps.max(axis=(-2, -1), keepdims=True)
    return jnp.where(good, (maps - low) / jnp.where(good, high - low, 1.0), 0.0)


def upsample(maps: Float[ArrayLike, "*batch h w"], size: resize.Size) -> Float[Array, "*batch height width"]:
    """Returns normalised maps enlarged to `size` (height, width): half-pixel bilinear, kept within [0, 1].

    >>> maps = jnp.eye(5)
    >>> print(upsample(maps, (10, 10)).shape)
    (10, 10)
    """
    return jnp.clip(resize.bilinear(jnp.asarray(maps, jnp.float32), size), 0.0, 1.0)
