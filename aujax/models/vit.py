"""Vision transformers (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021) with the activations that TS-CAM uses.

Images are (batch, height, width, 3), with sides that are multiples of the patch size; the learned position embedding is
of a fixed size. Taps: `tokens` (batch, h, w, channels), the patch tokens after the last LayerNorm, and `attention`
(batch, h, w, 1), the attention of the class token to the patches, summed over blocks and averaged over heads. The
logits do not depend on the tap `attention`: it is an output, on which a loss can be computed.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax.models.layers import Features, Images, check_divisible, matrix_product, torch_uniform
from aujax.models.taps import tap

Tokens = Float[Array, "batch tokens channels"]
Heads = Float[Array, "batch tokens heads channels"]

small_normal = nn.initializers.normal(0.02)


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x Phi(x), where Phi is the normal cumulative distribution function: GELU without tanh approximation."""
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The closed form Phi(x) + x phi(x), because JAX 0.12 cannot differentiate erf inside `shard_map(check_vma=True)`.
    (x,) = primals
    (tangent,) = tangents
    # `ndtr` does not accept half precision.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = jnp.exp(-0.5 * wide * wide) * (2 * np.pi) ** -0.5
    return gelu(x), tangent * (jax.scipy.special.ndtr(wide) + wide * density).astype(x.dtype)


class Block(nn.Module):
    """Transformer block with pre-normalisation: self-attention and a two-layer MLP, each added to its input."""

    heads: int
    mlp_ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens) -> tuple[Tokens, Float[Array, "batch tokens"]]:
        """Returns the tokens and the attention of token 0 to each of them, averaged over heads."""
        x, scores = self_attention(x, self.heads, qkv_bias=True, dtype=self.dtype)
        weights = jax.nn.softmax(scores, axis=-1)
        return mlp(x, self.mlp_ratio * x.shape[-1], dtype=self.dtype), weights.mean(axis=1)


class VisionTransformer(nn.Module):
    """Patch embedding, class token and blocks; returns the patch tokens on their grid, which is also the tap `tokens`.

    Parameters, LayerNorm statistics and softmax are float32; `dtype` is that of all other computation. `rematerialize`
    recomputes the activations of a block in the backward pass.
    """

    patch: int
    channels: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    dtype: Any = jnp.float32
    rematerialize: bool = False

    @nn.compact
    def __call__(self, image: Images, *, train: bool = False) -> Features:
        """Returns the patch tokens after the last LayerNorm; `train` changes nothing in this network."""
        del train
        check_divisible(image, self.patch)
        size = (self.patch, self.patch)
        to_patches = nn.Conv(
            self.channels, size, size, "VALID", dtype=self.dtype, kernel_init=torch_uniform, name="patch_embed"
        )
        patches = to_patches(image.astype(self.dtype))
        grid = patches.shape[1:3]
        x = patches.reshape(len(patches), -1, self.channels)
        x = with_class_token(x, self.param("cls_token", small_normal, (1, 1, self.channels)))
        x = x + self.param("pos_embed", small_normal, (1, *x.shape[1:])).astype(self.dtype)
        # Row 0 of each block's attention matrix: the class token's attention to all tokens, itself included.
        attention = jnp.zeros(x.shape[:2])
        block = nn.remat(Block) if self.rematerialize else Block
        for index in range(self.depth):
            x, first_row = block(self.heads, self.mlp_ratio, self.dtype, name=f"block{index}")(x)
            attention = attention + first_row
        tap(self, "attention", attention[:, 1:].reshape(-1, *grid, 1))
        tokens = layer_norm("norm", self.dtype)(x)[:, 1:]
        return tap(self, "tokens", tokens.reshape(-1, *grid, self.channels))


def with_class_token(x: Tokens, class_token: Array) -> Float[Array, "batch one_more channels"]:
    """Returns the tokens of each image after the class token, which is the same for all images."""
    class_token = jnp.broadcast_to(class_token.astype(x.dtype), (len(x), 1, x.shape[-1]))
    return jnp.concatenate([class_token, x], axis=1)


def self_attention(
    x: Tokens, heads: int, *, qkv_bias: bool, dtype: Any
) -> tuple[Tokens, Float[Array, "batch heads tokens"]]:
    """Returns the tokens plus their self-attention, and the scores of token 0 before the softmax, in float32.

    To be called in a compact module, to which it adds the layers `norm1`, `qkv` and `proj`.
    """
    channels = x.shape[-1]
    packed = _dense(3 * channels, "qkv", dtype, use_bias=qkv_bias)(layer_norm("norm1", dtype)(x))
    # Channels are ordered as in torch: queries, keys and values; in each of them head by head.
    q, k, v = jnp.moveaxis(packed.reshape(*x.shape[:2], 3, heads, channels // heads), 2, 0)
    # In half precision on a GPU, cuDNN's fused attention stores no attention matrix: TS-CAM trains a third faster in a
    # third less memory.
    fused = q.dtype == jnp.bfloat16 and jax.default_backend() == "gpu"
    mixed = padded_attention(q, k, v, implementation="cudnn") if fused else jax.nn.dot_product_attention(q, k, v)
    # Fused attention does not return its scores. Computing those of one query again is cheap, and XLA removes the
    # computation where they are not used.
    scores = jnp.einsum("bhc,bkhc->bhk", q[:, 0], k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return x + _dense(channels, "proj", dtype)(mixed.reshape(x.shape)), scores


def padded_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    *,
    implementation: Literal["xla", "cudnn"],
) -> Heads:
    """Returns scaled dot-product attention, padded to a multiple of 8 tokens because cuDNN rejects odd numbers."""
    batch, tokens = q.shape[:2]
    q, k, v = (jnp.pad(x, ((0, 0), (0, -tokens % 8), (0, 0), (0, 0))) for x in (q, k, v))
    # The lengths mask the padding out of the softmax.
    lengths = jnp.full((batch,), tokens, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation=implementation
    )[:, :tokens]


def mlp(x: Tokens, hidden: int, *, dtype: Any) -> Tokens:
    """Returns the tokens plus their two-layer MLP; adds `norm2`, `fc1` and `fc2` to the calling compact module."""
    y = _dense(hidden, "fc1", dtype)(layer_norm("norm2", dtype)(x))
    return x + _dense(x.shape[-1], "fc2", dtype)(gelu(y))


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """Returns the LayerNorm of the published transformers (epsilon 1e-6), with float32 statistics."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def _dense(channels: int, name: str, dtype: Any, *, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(
        channels, use_bias=use_bias, dtype=dtype, kernel_init=small_normal, dot_general=matrix_product, name=name
    )


deit_small = functools.partial(VisionTransformer, patch=16, channels=384, depth=12, heads=6)
# For tests and first trials: 64x64 pixels give a 4x4 grid.
vit_tiny = functools.partial(VisionTransformer, patch=16, channels=48, depth=3, heads=3)
