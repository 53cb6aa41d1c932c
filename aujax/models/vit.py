"""Vision transformers (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021) with the activations that TS-CAM uses.

Images are (batch, height, width, 3), with sides that are multiples of the patch size; the learned position embedding is
of a fixed size. Taps: `tokens` (batch, h, w, channels), the patch tokens after the last LayerNorm, and `attention`
(batch, h, w, 1), the attention of the class token to the patches, summed over blocks and averaged over heads. The
logits do not depend on the tap `attention`: it is an output, on which a loss can be computed.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax.models.layers import Features, Images, LayerNorm, check_divisible, for_cpu, matrix_product, torch_uniform
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
    # `ndtr` would compute erf and erfc, and select.
    (x,) = primals
    (tangent,) = tangents
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    distribution = 0.5 * (1.0 + jax.lax.erf(wide * 2**-0.5))
    density = jnp.exp(-0.5 * wide * wide) * (2 * np.pi) ** -0.5
    return gelu(x), tangent * (distribution + wide * density).astype(x.dtype)


class Block(nn.Module):
    """Transformer block with pre-normalisation: self-attention and a two-layer MLP, each added to its input."""

    heads: int
    mlp_ratio: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens, count: int) -> tuple[Tokens, Float[Array, "batch count"]]:
        """Returns the tokens and the attention of token 0 to the first `count`, averaged over heads."""
        x, scores = self_attention(x, self.heads, count=count, qkv_bias=True, dtype=self.dtype)
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
        count = x.shape[1]
        x = padded(x)
        block = nn.remat(Block, static_argnums=2) if self.rematerialize else Block
        for index in range(self.depth):
            x, first_row = block(self.heads, self.mlp_ratio, self.dtype, name=f"block{index}")(x, count)
            attention = attention + first_row
        tap(self, "attention", attention[:, 1:].reshape(-1, *grid, 1))
        tokens = LayerNorm(self.dtype, name="norm")(x)[:, 1:count]
        return tap(self, "tokens", tokens.reshape(-1, *grid, self.channels))


def with_class_token(x: Tokens, class_token: Array) -> Float[Array, "batch one_more channels"]:
    """Returns the tokens of each image after the class token, which is the same for all images."""
    class_token = jnp.broadcast_to(class_token.astype(x.dtype), (len(x), 1, x.shape[-1]))
    return jnp.concatenate([class_token, x], axis=1)


def padded(x: Float[Array, "batch tokens *rest"]) -> Float[Array, "batch padded *rest"]:
    """Returns the tokens followed by zeros to a multiple of 8, to which matrix units and cuDNN's attention are aligned.

    On a CPU, which gains nothing by it, the tokens themselves.
    """
    missing = 0 if for_cpu() else -x.shape[1] % 8
    return jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2))) if missing else x


def self_attention(
    x: Tokens, heads: int, *, count: int, qkv_bias: bool, dtype: Any
) -> tuple[Tokens, Float[Array, "batch heads count"]]:
    """Returns the tokens plus their self-attention, and the scores of token 0 before the softmax, in float32.

    Attention is to the first `count` tokens; the others are padding. To be called in a compact module, to which it adds
    the layers `norm1`, `qkv` and `proj`.
    """
    channels = x.shape[-1]
    packed = _dense(3 * channels, "qkv", dtype, use_bias=qkv_bias)(LayerNorm(dtype, name="norm1")(x))
    # Channels are ordered as in torch: queries, keys and values; in each of them head by head.
    parts = jnp.split(packed, 3, axis=-1)
    q, k, v = (part.reshape(*x.shape[:2], heads, channels // heads) for part in parts)
    # Fused attention does not return its scores. Computing those of one query again is cheap, and XLA removes the
    # computation where they are not used.
    scores = jnp.einsum("bhc,bkhc->bhk", q[:, 0], k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return x + _dense(channels, "proj", dtype)(attention(q, k, v, count).reshape(x.shape)), scores[..., :count]


def attention(q: Heads, k: Heads, v: Heads, count: int) -> Heads:
    """Returns scaled dot-product attention to the first `count` tokens."""
    tokens = q.shape[1]
    # In half precision on a GPU, cuDNN's fused attention stores no attention matrix: TS-CAM trains a third faster in a
    # third less memory. It rejects odd numbers of tokens.
    fused = q.dtype == jnp.bfloat16 and jax.default_backend() == "gpu"
    if fused:
        q, k, v = padded(q), padded(k), padded(v)
    # The lengths mask the padding out of the softmax.
    lengths = jnp.full(len(q), count, jnp.int32) if count < q.shape[1] else None
    mixed = jax.nn.dot_product_attention(
        q,
        k,
        v,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn" if fused else None,
    )
    return mixed[:, :tokens]


def mlp(x: Tokens, hidden: int, *, dtype: Any) -> Tokens:
    """Returns the tokens plus their two-layer MLP; adds `norm2`, `fc1` and `fc2` to the calling compact module."""
    y = _dense(hidden, "fc1", dtype)(LayerNorm(dtype, name="norm2")(x))
    return x + _dense(x.shape[-1], "fc2", dtype)(gelu(y))


def _dense(channels: int, name: str, dtype: Any, *, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(
        channels, use_bias=use_bias, dtype=dtype, kernel_init=small_normal, dot_general=matrix_product, name=name
    )


deit_small = functools.partial(VisionTransformer, patch=16, channels=384, depth=12, heads=6)
# For tests and first trials: 64x64 pixels give a 4x4 grid.
vit_tiny = functools.partial(VisionTransformer, patch=16, channels=48, depth=3, heads=3)
