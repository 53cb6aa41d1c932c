"""APViT (Xue et al. 2022): a vision transformer with attentive pooling on the features of a face recognition network.

Pooling is hard selection: first of the extractor's feature positions ("attentive patch pooling"), then, in the later
blocks, of tokens ("attentive token pooling"). Images are (batch, height, width, 3) with sides that are multiples of 8;
the learned position embedding is of a fixed size, 14x14 from 112x112 pixels in the published model. Taps: `stage1`,
`stage2` and `stage3`, the outputs of the extractor's stages, each of half the height and width of its input, and
`attention` (batch, h, w, 1), float32, by which the positions are selected. Selection is not differentiable: the logits
have no gradient with respect to `attention`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from aujax.models import vit
from aujax.models.layers import BatchNorm, Features, Images, LayerNorm, check_divisible, convolution, torch_uniform
from aujax.models.taps import tap

# Positions in the published 14x14 grid; `tokens` is a number out of these.
_POSITIONS = 196
# Name under which rematerialisation keeps the selected tokens of a block.
_SELECTION = "selection"

Layer = Callable[..., Any]

# ---- Extractor: the first three stages of the face recognition network IR-50 (ArcFace, Deng et al. 2019) ------------


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
    def __call__(self, x: Features) -> Float[Array, "batch h_out w_out out"]:
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
    """Input layer at full resolution, and stages that halve it, with padding as in torch; returns the last stage.

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
    def __call__(self, image: Images, *, train: bool = False) -> Features:
        """Returns the activation of the last stage; stage n has width * 2 ** (n - 1) channels."""
        check_divisible(image, 2 ** len(self.units))
        uniform = nn.initializers.xavier_uniform()
        unit = nn.remat(Unit) if self.rematerialize else Unit
        conv = functools.partial(
            nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=uniform, conv_general_dilated=convolution
        )
        norm = functools.partial(BatchNorm, train=train, dtype=self.dtype, axis_name=self.axis_name)
        x = conv(self.width, (3, 3), padding=1, name="input_conv")(image.astype(self.dtype))
        x = PReLU(name="input_prelu")(norm(name="input_bn")(x))
        for stage, size in enumerate(self.units, start=1):
            for index in range(size):
                stride = 2 if index == 0 else 1
                x = unit(self.width * 2 ** (stage - 1), stride, conv, norm, name=f"stage{stage}_unit{index}")(x)
            x = tap(self, f"stage{stage}", x)
        return x


# ---- Transformer -----------------------------------------------------------------------------------------------------


class PoolingBlock(nn.Module):
    """Transformer block that drops, before its MLP, the patch tokens to which the class token attends least."""

    heads: int
    mlp_ratio: int
    keep: float
    dtype: Any

    @nn.compact
    def __call__(self, x: vit.Tokens) -> Float[Array, "batch kept channels"]:
        """Returns the class token and the fraction `keep` of the patch tokens, rounded down, at least one."""
        x, scores = vit.self_attention(x, self.heads, count=x.shape[1], qkv_bias=False, dtype=self.dtype)
        patches = x.shape[1] - 1
        kept = max(int(patches * self.keep), 1)
        # As in the released code, the heads' scores are summed before the softmax: scores of opposite sign cancel.
        selected = checkpoint_name(largest(scores[:, :, 1:].sum(axis=1), kept), _SELECTION)
        x = jnp.concatenate([x[:, :1], take(x[:, 1:], selected)], axis=1)
        return vit.mlp(x, self.mlp_ratio * x.shape[-1], dtype=self.dtype)


class APViT(nn.Module):
    """Extractor, 1x1 projection, selection of positions, class token and blocks; returns the class token.

    `tokens` of 196 positions are kept, and the same fraction of another grid. Blocks from index `pooled_from` on keep
    the fraction `keep` of their input tokens. Parameters, scores, softmax and the statistics of BatchNorm (over the
    mesh axis `axis_name`) and LayerNorm are float32; `dtype` is that of all other computation. `rematerialize`
    recomputes the activations of units and blocks in the backward pass.
    """

    units: tuple[int, ...]
    width: int
    channels: int
    depth: int
    heads: int
    mlp_ratio: int
    pooled_from: int
    tokens: int = 160
    keep: float = 0.9
    dtype: Any = jnp.float32
    axis_name: str | None = None
    rematerialize: bool = False

    @nn.compact
    def __call__(self, image: Images, *, train: bool = False) -> Float[Array, "batch channels"]:
        """Returns the class token after the last LayerNorm; `train` affects BatchNorm only."""
        extractor = IResNet(self.units, self.width, self.dtype, self.axis_name, self.rematerialize, name="extractor")
        project = nn.Conv(
            self.channels,
            (1, 1),
            dtype=self.dtype,
            kernel_init=torch_uniform,
            conv_general_dilated=convolution,
            name="projection",
        )
        x = project(extractor(image, train=train))
        # L1 norm of the features at each position.
        attention = tap(self, "attention", jnp.abs(x.astype(jnp.float32)).sum(axis=-1, keepdims=True))

        # Positions are embedded before the selection, so each kept token carries its own position.
        batch, height, width, channels = x.shape
        positions = height * width
        position_embedding = self.param("patch_pos_embed", vit.small_normal, (1, positions, channels))
        x = x.reshape(batch, positions, channels) + position_embedding.astype(self.dtype)
        kept = max(round(positions * self.tokens / _POSITIONS), 1)
        x = take(x, largest(attention.reshape(batch, positions), kept))
        class_token = self.param("cls_token", vit.small_normal, (1, 1, channels))
        class_token = class_token + self.param("cls_pos_embed", nn.initializers.zeros, (1, 1, channels))
        x = vit.with_class_token(x, class_token)

        # The selection is stored, not recomputed: other rounding in the backward pass could select other tokens than
        # the forward pass, and the gradients would be wrong.
        policy = jax.checkpoint_policies.save_only_these_names(_SELECTION)
        block = nn.remat(PoolingBlock, policy=policy) if self.rematerialize else PoolingBlock
        for index in range(self.depth):
            keep = self.keep if index >= self.pooled_from else 1.0
            x = block(self.heads, self.mlp_ratio, keep, self.dtype, name=f"block{index}")(x)
        return LayerNorm(self.dtype, name="norm")(x[:, 0])


def largest(scores: Float[Array, "*batch tokens"], count: int) -> Int[Array, "*batch count"]:
    """Returns the indices of the `count` largest scores, in ascending order; ties go to the smaller index.

    >>> print(largest(jnp.array([0.1, 0.9, 0.3, 0.5]), 2))
    [1 3]
    """
    _, index = jax.lax.top_k(jax.lax.stop_gradient(scores), count)
    return jnp.sort(index, axis=-1)


def take(x: vit.Tokens, index: Int[Array, "batch kept"]) -> Float[Array, "batch kept channels"]:
    """Returns the tokens of each example at its own indices; the input itself if all are kept."""
    if index.shape[1] == x.shape[1]:
        return x
    return jnp.take_along_axis(x, index[:, :, None], axis=1, mode="clip")


apvit = functools.partial(APViT, units=(3, 4, 14), width=64, channels=768, depth=8, heads=8, mlp_ratio=3, pooled_from=4)
# For tests and first trials: 64x64 pixels give an 8x8 grid.
apvit_tiny = functools.partial(
    APViT, units=(1, 1, 1), width=16, channels=48, depth=3, heads=3, mlp_ratio=3, pooled_from=1
)
