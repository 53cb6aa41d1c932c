"""Classification heads: the backbone's features to one logit per expression, in float32 whatever came in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from aujax import cams
from aujax.models.taps import tap

_EXACT = jax.lax.Precision.HIGHEST  # accelerators would otherwise round float32 products to fewer bits


class LinearHead(nn.Module):
    """Average over the map, then one linear layer: the head whose weights make the CAM (Zhou et al. 2016)."""

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch h w channels"]) -> Float[Array, "batch classes"]:
        """Returns the logits."""
        pooled = features.astype(jnp.float32).mean(axis=(1, 2))
        uniform = nn.initializers.xavier_uniform()
        return nn.Dense(self.num_classes, kernel_init=uniform, precision=_EXACT, name="fc")(pooled)


class TokenHead(nn.Module):
    """3x3 convolution over the grid of tokens to one map per class (tap `class_maps`), then their average.

    The head of TS-CAM (Gao et al. 2021). Its kernel starts as torch's convolutions do, uniform within
    1 / sqrt(fan in); its bias at zero.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch h w channels"]) -> Float[Array, "batch classes"]:
        """Returns the logits."""
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        conv = nn.Conv(self.num_classes, (3, 3), padding=1, kernel_init=uniform, precision=_EXACT, name="conv")
        return tap(self, "class_maps", conv(features.astype(jnp.float32))).mean(axis=(1, 2))


def wildcat_pool_reference(maps: Float[Array, "batch h w classes"]) -> Float[Array, "batch classes"]:
    """Returns the mean of each map's largest half, as the released WILDCAT scores it: the minima are lost there."""
    pixels = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    kept = round(pixels.shape[1] / 2)
    return jnp.sort(pixels, axis=1)[:, -kept:].mean(axis=1)


def peak_pool(maps: Float[Array, "batch h w classes"]) -> Float[Array, "batch classes"]:
    """Returns the mean over 3x3 windows of their maximum: PRM's peak stimulation (Zhou et al. 2018), unpadded."""
    return nn.max_pool(maps, (3, 3), strides=(1, 1), padding="VALID").mean(axis=(1, 2))


def unerased(maps: Float[Array, "batch h w"], *, threshold: float) -> Bool[Array, "batch h w"]:
    """Returns what ACoL's second branch still sees (Zhang et al. 2018): a stretched map below the threshold."""
    return cams.normalize(maps) < threshold
