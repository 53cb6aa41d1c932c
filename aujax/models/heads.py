"""Classification heads: the backbone's features to one logit per expression, in float32 whatever came in."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
