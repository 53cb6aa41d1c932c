"""The residual network of face recognition (IR-50; ArcFace, Deng et al. 2019) up to its third stage.

Images and activations are (batch, height, width, channels), paddings are torch's. Taps: `stage1`, `stage2` and
`stage3`, the outputs of the stages, each half as high and wide as what comes in: 14x14 from 112x112 pixels.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from aujax.models.batch_norm import BatchNorm
from aujax.models.taps import tap

Layer = Callable[..., Any]


class PReLU(nn.Module):
    """Rectifier with one learned slope per channel for what is negative (He et al. 2015); Flax's has one in all."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Returns x where it is positive, and the slope times x elsewhere."""
        slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:]).astype(x.dtype)
        return jnp.where(x > 0, x, x * slope.reshape((1,) * (x.ndim - 1) + slope.shape))


class Unit(nn.Module):
    """BatchNorm, 3x3 convolution, PReLU, 3x3 convolution with the stride, BatchNorm; nothing after the sum."""

    channels: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w out"]:
        """Returns the unit's output, `stride` times smaller."""
        strides = (self.stride, self.stride)
        y = self.conv(self.channels, (3, 3), padding=1, name="conv1")(self.norm(name="bn1")(x))
        y = PReLU(name="prelu")(y)
        y = self.norm(name="bn2")(self.conv(self.channels, (3, 3), strides, padding=1, name="conv2")(y))
        if x.shape[-1] == self.channels:
            return y + x[:, :: self.stride, :: self.stride]
        x = self.conv(self.channels, (1, 1), strides, padding=0, name="shortcut_conv")(x)
        return y + self.norm(name="shortcut_bn")(x)


class IResNet(nn.Module):
    """Input layer at full size and stages that halve it; returns the last stage's output.

    BatchNorm keeps 0.9 of its running statistics at a step (torch's momentum 0.1) and averages the batch's
    over the mesh axis `axis_name`, or over the device's own images where that is None. Parameters and statistics
    are float32; `dtype` is what convolutions compute in. `rematerialize` computes a unit's activations again in the
    backward pass.
    """

    units: tuple[int, ...] = (3, 4, 14)
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: str | None = None
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch h w channels"]:
        """Returns the activation of the last stage, of `width` channels doubled at each stage after the first."""
        _check_size(image.shape[1], image.shape[2], 2 ** len(self.units))
        uniform = nn.initializers.xavier_uniform()
        unit = nn.remat(Unit) if self.rematerialize else Unit
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=uniform)
        norm = functools.partial(BatchNorm, train=train, dtype=self.dtype, axis_name=self.axis_name)
        x = conv(self.width, (3, 3), padding=1, name="input_conv")(image.astype(self.dtype))
        x = PReLU(name="input_prelu")(norm(name="input_bn")(x))
        for stage, size in enumerate(self.units, start=1):
            for index in range(size):
                stride = 2 if index == 0 else 1
                x = unit(self.width * 2 ** (stage - 1), stride, conv, norm, name=f"stage{stage}_unit{index}")(x)
            x = tap(self, f"stage{stage}", x)
        return x


def _check_size(height: int, width: int, stride: int) -> None:
    if height % stride or width % stride:
        nearest = "x".join(str(max(round(length / stride), 1) * stride) for length in (height, width))
        raise ValueError(
            f"image height and width must be multiples of {stride}, got {height}x{width}: resize to {nearest}; "
            "the published model takes 112x112"
        )
