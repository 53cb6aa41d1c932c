"""APViT (Xue et al. 2022): a vision transformer on a face recognition network that looks at ever fewer places.

Images are (batch, height, width, 3) with sides that are multiples of 8; the learned position embedding belongs to one
size, 14x14 places from 112x112 pixels in the published model. Taps: those of `iresnet` and `attention`
(batch, h, w, 1), float32, by which the first places are chosen. No logit has a gradient through `attention`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from aujax.models import vit
from aujax.models.iresnet import IResNet
from aujax.models.taps import tap

# Places in the published 14x14 grid, of which `tokens` counts.
_PLACES = 196
# The name of a block's chosen tokens to rematerialisation.
_CHOICE = "choice"


class PoolingBlock(nn.Module):
    """A transformer block that drops the patch tokens to which the class token attends least before its perceptron."""

    heads: int
    mlp_ratio: int
    keep: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens channels"]) -> Float[Array, "batch kept channels"]:
        """Returns the class token and the share `keep` of the patch tokens, rounded down but at least one."""
        x, scores = vit.self_attention(x, self.heads, qkv_bias=False, dtype=self.dtype)
        patches = x.shape[1] - 1
        kept = max(int(patches * self.keep), 1)
        # The heads' scores are summed as they are, before any softmax, so that they may cancel.
        best = checkpoint_name(largest(scores[:, :, 1:].sum(axis=1), kept), _CHOICE)
        x = jnp.concatenate([x[:, :1], take(x[:, 1:], best)], axis=1)
        return vit.perceptron(x, self.mlp_ratio * x.shape[-1], dtype=self.dtype)


class APViT(nn.Module):
    """Extractor, 1x1 projection, choice of places, class token and blocks; returns the class token.

    The choice of places keeps `tokens` of 196 and the same share of another grid; blocks from number `pooled_from` on
    (counted from 0) keep the share `keep` of the tokens that reach them. Parameters, scores, softmax and the statistics
    of BatchNorm (over the mesh axis `axis_name`) and LayerNorm are float32; `dtype` is what the rest computes in.
    `rematerialize` computes the activations of units and blocks again in the backward pass.
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

    def __post_init__(self):
        if not 1 <= self.tokens <= _PLACES:
            raise ValueError(f"tokens must be from 1 to {_PLACES}, got {self.tokens}: the published model keeps 160")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be a share above 0 and up to 1, got {self.keep}: the published model's is 0.9")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch channels"]:
        """Returns the class token after the last LayerNorm; `train` concerns BatchNorm alone."""
        extractor = IResNet(self.units, self.width, self.dtype, self.axis_name, self.rematerialize, name="extractor")
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        project = nn.Conv(self.channels, (1, 1), dtype=self.dtype, kernel_init=uniform, name="projection")
        x = project(extractor(image, train=train))
        attention = tap(self, "attention", jnp.abs(x.astype(jnp.float32)).sum(axis=-1, keepdims=True))
        x = self._embed(x, attention)
        # All but the choice, which in another rounding could fall otherwise: gradients would be of other tokens.
        policy = jax.checkpoint_policies.save_only_these_names(_CHOICE)
        block = nn.remat(PoolingBlock, policy=policy) if self.rematerialize else PoolingBlock
        for index in range(self.depth):
            keep = self.keep if index >= self.pooled_from else 1.0
            x = block(self.heads, self.mlp_ratio, keep, self.dtype, name=f"block{index}")(x)
        return vit.layer_norm("norm", self.dtype)(x[:, 0])

    def _embed(
        self, x: Float[Array, "batch h w channels"], attention: Float[Array, "batch h w 1"]
    ) -> Float[Array, "batch tokens channels"]:
        batch, height, width, channels = x.shape
        places = height * width
        position = self.param("patch_pos_embed", vit.small_normal, (1, places, channels))
        x = x.reshape(batch, places, channels) + position.astype(self.dtype)
        kept = max(round(places * self.tokens / _PLACES), 1)
        x = take(x, largest(attention.reshape(batch, places), kept))
        first = self.param("cls_token", vit.small_normal, (1, 1, channels))
        first = first + self.param("cls_pos_embed", nn.initializers.zeros, (1, 1, channels))
        first = jnp.broadcast_to(first.astype(self.dtype), (batch, 1, channels))
        return jnp.concatenate([first, x], axis=1)


def largest(scores: Float[Array, "*batch tokens"], count: int) -> Int[Array, "*batch count"]:
    """Returns where the `count` largest scores are, in ascending order; of equal scores the first count.

    >>> print(largest(jnp.array([0.1, 0.9, 0.3, 0.5]), 2))
    [1 3]
    """
    _, index = jax.lax.top_k(jax.lax.stop_gradient(scores), count)
    return jnp.sort(index, axis=-1)


def take(
    x: Float[Array, "batch tokens channels"], index: Int[Array, "batch kept"]
) -> Float[Array, "batch kept channels"]:
    """Returns the tokens at `index`, which differs from example to example; all of them as they are."""
    if index.shape[1] == x.shape[1]:
        return x
    return jnp.take_along_axis(x, index[:, :, None], axis=1, mode="clip")


apvit = functools.partial(APViT, units=(3, 4, 14), width=64, channels=768, depth=8, heads=8, mlp_ratio=3, pooled_from=4)
# For tests and a first try: 64x64 pixels make an 8x8 grid.
apvit_tiny = functools.partial(
    APViT, units=(1, 1, 1), width=16, channels=48, depth=3, heads=3, mlp_ratio=3, pooled_from=1
)
