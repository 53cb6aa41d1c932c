"""Residual networks (He et al. 2016, version 1.5: the 3x3 convolution has the stride), with torch's padding.

Images and activations are (batch, height, width, channels). Taps, numbered as in the paper: `layer1` is the stem before
max pooling (stride 2), `layer2` to `layer5` are the outputs of the four stages. `layer5_block2` is the second block of
the last stage (or its only one), from which the released code of ADL computes its CAM.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from aujax.models.layers import (
    AttentionDropout,
    BatchNorm,
    Features,
    Images,
    StemConv,
    convolution,
    kaiming_normal,
    max_pool,
)
from aujax.models.taps import tap

# Strides of the four stages by output stride. 8 is that of the published models ("large maps"): 28x28 activations from
# 224x224 pixels, by smaller strides and without dilation.
STAGE_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}

Layer = Callable[..., Any]


class Block(nn.Module):
    """The fields of a residual block: the channels of its inner layers, its stride, and the types of its layers."""

    width: int
    stride: int
    conv: Layer
    norm: Layer


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut."""

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h_out w_out out"]:
        """Returns the block's output, `stride` times smaller."""
        y = self.conv(self.width, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = self.norm(relu=True, name="bn1")(y)
        y = self.norm(name="bn2")(self.conv(self.width, (3, 3), padding=1, name="conv2")(y))
        return nn.relu(y + _shortcut(self, self.width, x))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the channels, and a shortcut."""

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h_out w_out out"]:
        """Returns the block's output, `stride` times smaller."""
        y = self.norm(relu=True, name="bn1")(self.conv(self.width, (1, 1), name="conv1")(x))
        y = self.conv(self.width, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = self.norm(relu=True, name="bn2")(y)
        y = self.norm(name="bn3")(self.conv(4 * self.width, (1, 1), name="conv3")(y))
        return nn.relu(y + _shortcut(self, 4 * self.width, x))


class ResNet(nn.Module):
    """Stem and four stages; returns the activation of the last stage, which is also the tap `layer5`.

    BatchNorm averages batch statistics over the mesh axis `axis_name`, or uses those of each device if that is None.
    Parameters and statistics are float32; `dtype` is that of the convolutions. `attention_dropout` follows the blocks
    that `dropout_follows` lists. `rematerialize` recomputes the activations of a block in the backward pass.
    """

    stage_sizes: tuple[int, ...]
    block: type[Block]
    width: int = 64
    output_stride: int = 8
    dtype: Any = jnp.float32
    axis_name: str | None = None
    attention_dropout: AttentionDropout | None = None
    rematerialize: bool = False

    def __post_init__(self):
        if self.output_stride not in STAGE_STRIDES:
            raise ValueError(
                f"output_stride must be one of {', '.join(map(str, STAGE_STRIDES))}, got {self.output_stride}: "
                "8 gives 28x28 maps from 224x224 pixels, 32 gives 7x7"
            )
        super().__post_init__()

    def dropout_follows(self, stage: int) -> tuple[int, ...]:
        """Returns the blocks of a stage (1 to 4) that attention dropout follows, as in the released code of ADL."""
        if self.attention_dropout is None:
            return ()
        return {3: (0,), 4: tuple(sorted({0, self.stage_sizes[3] - 1}))}.get(stage, ())

    @nn.compact
    def __call__(self, image: Images, *, train: bool = False) -> Features:
        """Returns the activation of the last stage."""
        block = nn.remat(self.block) if self.rematerialize else self.block
        # The blocks pad 3x3 convolutions symmetrically, as torch does: for stride 2 the default pads on one side only.
        conv = functools.partial(
            nn.Conv,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kaiming_normal,
            conv_general_dilated=convolution,
        )
        norm = functools.partial(BatchNorm, train=train, dtype=self.dtype, axis_name=self.axis_name)
        x = StemConv(self.width, self.dtype, name="stem_conv")(image)
        x = tap(self, "layer1", norm(relu=True, name="stem_bn")(x))
        x = max_pool(x)
        strides = STAGE_STRIDES[self.output_stride]
        for stage, (size, first_stride) in enumerate(zip(self.stage_sizes, strides, strict=True), start=1):
            for index in range(size):
                stride = first_stride if index == 0 else 1
                x = block(self.width * 2 ** (stage - 1), stride, conv, norm, name=f"stage{stage}_block{index}")(x)
                # Before attention dropout, which follows the last block of stage 4.
                if (stage, index) == (4, min(1, size - 1)):
                    x = tap(self, "layer5_block2", x)
                if self.attention_dropout is not None and index in self.dropout_follows(stage):
                    x = self.attention_dropout(x, train=train)
            x = tap(self, f"layer{stage + 1}", x)
        return x


def _shortcut(block: Block, channels: int, x: Array) -> Array:
    """Returns the input of the block, convolved to the given channels and the stride of the block where they differ."""
    if block.stride == 1 and x.shape[-1] == channels:
        return x
    return block.norm(name="shortcut_bn")(block.conv(channels, (1, 1), block.stride, name="shortcut_conv")(x))


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
resnet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
# One narrow block per stage: for tests, the demo and first trials on a laptop.
resnet_tiny = functools.partial(ResNet, stage_sizes=(1, 1, 1, 1), block=BasicBlock, width=16)
