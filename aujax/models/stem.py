"""The first convolution of a residual network, in a form that compiles to a faster program for the same numbers.

It sees 12 channels in place of 3, which suits a GPU's matrix units better (docs/performance.md).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class StemConv(nn.Module):
    """A 7x7 convolution with stride 2 and padding 3, as one of 4x4 over squares of 2x2 pixels."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width colours"]) -> Float[Array, "batch h w channels"]:
        """Returns the convolved pictures, half as high and wide, rounded up."""
        colours = x.shape[-1]
        kernel = self.param("kernel", kaiming_normal, (7, 7, colours, self.channels)).astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = x.reshape(-1, height, 2, width, 2, colours).swapaxes(2, 3).reshape(-1, height, width, 4 * colours)
        # The window begins 3 pixels before its own place: with a row and a column of zeros, where a square begins.
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, colours, self.channels)
        kernel = kernel.swapaxes(1, 2).reshape(4, 4, 4 * colours, self.channels)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((2, 1), (2, 1)), dimension_numbers=layout)
