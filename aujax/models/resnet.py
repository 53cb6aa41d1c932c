"""Residual networks (He et al. 2016, version 1.5: the stride sits on the 3x3 convolution), with torch's paddings.

Images and activations are (batch, height, width, channels). Taps, as the paper numbers its layers:
`layer1` is the stem before max-pooling (stride 2), `layer2` to `layer5` the outputs of the four stages. `layer5_block2`
is the second block of the last stage (or its only one), where the released ADL reads its CAM.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from aujax.models.attention_dropout import AttentionDropout
from aujax.models.batch_norm import BatchNorm
from aujax.models.stem import StemConv, kaiming_normal
from aujax.models.taps import tap

# Strides of the four stages. 8 is the published models' "large maps": 28x28 from 224x224, without dilation.
STAGE_STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}

# Flax's annotation knows only the words "SAME" and "VALID".
_POOL_PADDING: Any = ((1, 1), (1, 1))

Layer = Callable[..., Any]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.width

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w out"]:
        """Returns the block's output, `stride` times smaller."""
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = self.norm(relu=True, name="bn1")(y)
        y = self.norm(name="bn2")(self.conv(self.width, 3, 1, name="conv2")(y))
        return nn.relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, and a shortcut."""

    width: int
    stride: int
    conv: Layer
    norm: Layer

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return 4 * self.width

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w out"]:
        """Returns the block's output, `stride` times smaller."""
        y = self.norm(relu=True, name="bn1")(self.conv(self.width, 1, 1, name="conv1")(x))
        y = self.norm(relu=True, name="bn2")(self.conv(self.width, 3, self.stride, name="conv2")(y))
        y = self.norm(name="bn3")(self.conv(self.channels, 1, 1, name="conv3")(y))
        return nn.relu(y + _shortcut(self, x))


class ResNet(nn.Module):
    """Stem and four stages; returns the last stage's activation, which is the tap `layer5`.

    BatchNorm keeps 0.9 of its running statistics at a step (torch's momentum 0.1) and averages the batch's
    over the mesh axis `axis_name`, or over the device's own images where that is None. Parameters and statistics
    are float32; `dtype` is what convolutions compute in. `attention_dropout` is applied after the blocks that
    `dropout_follows` lists. `rematerialize` computes a block's activations again in the backward pass.
    """

    stage_sizes: tuple[int, ...]
    block: type[BasicBlock] | type[Bottleneck]
    width: int = 64
    output_stride: int = 8
    dtype: Any = jnp.float32
    axis_name: str | None = None
    attention_dropout: AttentionDropout | None = None
    rematerialize: bool = False

    def __post_init__(self):
        stage_strides(self.output_stride)
        super().__post_init__()

    def dropout_follows(self, stage: int) -> tuple[int, ...]:
        """Returns after which blocks of a stage (1 to 4) attention is dropped, as in the released ADL."""
        if self.attention_dropout is None:
            return ()
        return {3: (0,), 4: tuple(sorted({0, self.stage_sizes[3] - 1}))}.get(stage, ())

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch h w channels"]:
        """Returns the activation of the last stage."""
        strides = stage_strides(self.output_stride)
        block = nn.remat(self.block) if self.rematerialize else self.block
        conv = functools.partial(_conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, train=train, dtype=self.dtype, axis_name=self.axis_name)
        x = StemConv(self.width, self.dtype, name="stem_conv")(image)
        x = tap(self, "layer1", norm(relu=True, name="stem_bn")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=_POOL_PADDING)
        for stage, (size, stride) in enumerate(zip(self.stage_sizes, strides, strict=True), start=1):
            for index in range(size):
                first = stride if index == 0 else 1
                x = block(self.width * 2 ** (stage - 1), first, conv, norm, name=f"stage{stage}_block{index}")(x)
                if (stage, index) == (4, min(1, size - 1)):
                    x = tap(self, "layer5_block2", x)
                if self.attention_dropout is not None and index in self.dropout_follows(stage):
                    x = self.attention_dropout(x, train=train)
            x = tap(self, f"layer{stage + 1}", x)
        return x


def stage_strides(output_stride: int) -> tuple[int, ...]:
    """Returns the strides of the four stages that make the last maps `output_stride` times smaller."""
    if output_stride not in STAGE_STRIDES:
        raise ValueError(
            f"output_stride must be one of {', '.join(map(str, STAGE_STRIDES))}, got {output_stride}: "
            "8 gives 28x28 maps from 224x224 pixels, 32 gives 7x7"
        )
    return STAGE_STRIDES[output_stride]


def _conv(channels: int, kernel: int, stride: int, *, dtype: Any, name: str) -> nn.Conv:
    # Symmetric as in torch: "SAME" pads a stride-2 convolution on one side only.
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal,
        name=name,
    )


def _shortcut(block: BasicBlock | Bottleneck, x: Float[Array, "batch height width channels"]) -> Array:
    if block.stride == 1 and x.shape[-1] == block.channels:
        return x
    y = block.conv(block.channels, 1, block.stride, name="shortcut_conv")(x)
    return block.norm(name="shortcut_bn")(y)


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
resnet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
# One thin block a stage: for tests, for the demo, and for a first try on a laptop.
resnet_tiny = functools.partial(ResNet, stage_sizes=(1, 1, 1, 1), block=BasicBlock, width=16)
