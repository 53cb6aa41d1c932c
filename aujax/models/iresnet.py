"""The first three stages of the face recognition network IR-50 (ArcFace, Deng et al. 2019).

Images and activations are (batch, height, width, channels), padding is as in torch. Taps: `stage1`, `stage2` and
`stage3`, the outputs of the stages, each of half the height and width of its input: 14x14 from 112x112 pixels.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from aujax.models.layers import BatchNorm
from aujax.models.taps import tap

Layer = Callable[..., Any]


class PReLU(nn.Module):
    """ReLU with a learned slope per channel for negative values (He et al. 2015); Flax's has a single slope."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Returns x where it is positive, and slope * x elsewhere."""
        slope = self.param("slope", nn.initializers.constant(0.25), x.shape[-1:]).astype(x.dtype)
        return jnp.where(x > 0, x, x * slope.reshape((1,) * (x.ndim - 1) + slope.shape))


class Unit(nn.Module):
    """BatchNorm, 3x3 convolution, PReLU, 3x3 convolution with the stride, BatchNorm, and a shortcut without ReLU."""

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
        # The published shortcut, torch's MaxPool2d(1, stride), is plain subsampling.
        if x.shape[-1] == self.channels:
            return y + x[:, :: self.stride, :: self.stride]
        x = self.conv(self.channels, (1, 1), strides, padding=0, name="shortcut_conv")(x)
        return y + self.norm(name="shortcut_bn")(x)


class IResNet(nn.Module):
    """Input layer at full resolution and stages that halve it; returns the output of the last stage.

    BatchNorm averages batch statistics over the mesh axis `axis_name`, or uses those of each device if that is None.
    Parameters and statistics are float32; `dtype` is that of the convolutions. `rematerialize` recomputes the
    activations of a unit in the backward pass.
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
        """Returns the activation of the last stage; stage n has width * 2 ** (n - 1) channels."""
        height, width = image.shape[1:3]
        divisor = 2 ** len(self.units)
        if height % divisor or width % divisor:
            nearest = "x".join(str(max(round(length / divisor), 1) * divisor) for length in (height, width))
            raise ValueError(
                f"image height and width must be multiples of {divisor}, got {height}x{width}: resize to {nearest}; "
                "the published model takes 112x112"
            )
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
