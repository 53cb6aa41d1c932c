"""Vision transformers (Dosovitskiy et al. 2021; DeiT, Touvron et al. 2021), read as TS-CAM reads them.

Images are (batch, height, width, 3) of any size that the patch divides; the learned position embedding belongs to
one size. Taps: `tokens` (batch, h, w, channels), the patch tokens after the last LayerNorm, and `attention`
(batch, h, w, 1), what the class token attends to, summed over blocks and averaged over heads. No logit depends on the
latter through its tap: it is for reading, and for losses on it.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aujax.models.taps import tap

small_normal = nn.initializers.normal(0.02)


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x times the normal distribution's cumulative density at x: the exact GELU, without tanh."""
    return nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # In closed form, because JAX 0.12 cannot differentiate erf in a mapped step whose varying axes are checked.
    (x,), (tangent,) = primals, tangents
    # In float32 at least: `ndtr` takes nothing shorter.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    density = jnp.exp(-0.5 * wide * wide) * (2 * np.pi) ** -0.5
    return gelu(x), tangent * (jax.scipy.special.ndtr(wide) + wide * density).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each added to its input."""

    heads: int
    mlp_ratio: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"]
    ) -> tuple[Float[Array, "batch tokens channels"], Float[Array, "batch tokens"]]:
        """Returns the tokens and the attention of token 0 to each of them, averaged over heads."""
        x, scores = self_attention(x, self.heads, qkv_bias=True, dtype=self.dtype)
        weights = jax.nn.softmax(scores, axis=-1)
        return perceptron(x, self.mlp_ratio * x.shape[-1], dtype=self.dtype), weights.mean(axis=1)


class VisionTransformer(nn.Module):
    """Patches, a class token and blocks; returns the patch tokens on their grid, which is the tap `tokens`.

    Parameters, LayerNorm statistics and softmax are float32; `dtype` is what the rest computes in. `rematerialize`
    computes a block's activations again in the backward pass.
    """

    patch: int
    channels: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    dtype: Any = jnp.float32
    rematerialize: bool = False

    @nn.compact
    def __call__(
        self, image: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch h w channels"]:
        """Returns the patch tokens after the last LayerNorm; training and evaluation are the same here."""
        del train
        grid = patch_grid(image.shape[1], image.shape[2], self.patch)
        x = self._embed(image, grid)
        attention = jnp.zeros(x.shape[:2])
        block = nn.remat(Block) if self.rematerialize else Block
        for index in range(self.depth):
            x, first_row = block(self.heads, self.mlp_ratio, self.dtype, name=f"block{index}")(x)
            attention = attention + first_row
        tap(self, "attention", attention[:, 1:].reshape(-1, *grid, 1))
        tokens = layer_norm("norm", self.dtype)(x)[:, 1:]
        return tap(self, "tokens", tokens.reshape(-1, *grid, self.channels))

    def _embed(self, image: Array, grid: tuple[int, int]) -> Float[Array, "batch tokens channels"]:
        size = (self.patch, self.patch)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        to_patches = nn.Conv(
            self.channels, size, size, "VALID", dtype=self.dtype, kernel_init=uniform, name="patch_embed"
        )
        x = to_patches(image.astype(self.dtype)).reshape(-1, grid[0] * grid[1], self.channels)
        first = self.param("cls_token", small_normal, (1, 1, self.channels))
        first = jnp.broadcast_to(first.astype(self.dtype), (x.shape[0], 1, self.channels))
        x = jnp.concatenate([first, x], axis=1)
        return x + self.param("pos_embed", small_normal, (1, *x.shape[1:])).astype(self.dtype)


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Returns the (rows, columns) of patches in an image of that many pixels."""
    if height % patch or width % patch:
        raise ValueError(
            f"image height and width must be multiples of the patch size {patch}, got {height}x{width}: "
            f"resize to {max(round(height / patch), 1) * patch}x{max(round(width / patch), 1) * patch}"
        )
    return height // patch, width // patch


def self_attention(
    x: Float[Array, "batch tokens channels"], heads: int, *, qkv_bias: bool, dtype: Any
) -> tuple[Float[Array, "batch tokens channels"], Float[Array, "batch heads tokens"]]:
    """Returns the tokens with self-attention added, and token 0's float32 scores before the softmax over keys.

    Called inside a module, which then holds the layers `norm1`, `qkv` and `proj`.
    """
    channels = x.shape[-1]
    packed = _dense(3 * channels, "qkv", dtype, use_bias=qkv_bias)(layer_norm("norm1", dtype)(x))
    # Packed as torch packs it: queries, keys, values, and within each head after head.
    q, k, v = jnp.moveaxis(packed.reshape(*x.shape[:2], 3, heads, channels // heads), 2, 0)
    # Half precision on a GPU: cuDNN keeps no weights, for a third more speed and a third less memory.
    fused = q.dtype == jnp.bfloat16 and jax.default_backend() == "gpu"
    mixed = padded_attention(q, k, v, implementation="cudnn") if fused else jax.nn.dot_product_attention(q, k, v)
    # Apart from the attention, for one query costs little, and nothing where no one reads it.
    scores = jnp.einsum("bhc,bkhc->bhk", q[:, 0], k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return x + _dense(channels, "proj", dtype)(mixed.reshape(x.shape)), scores


def padded_attention(
    q: Float[Array, "batch tokens heads channels"],
    k: Float[Array, "batch tokens heads channels"],
    v: Float[Array, "batch tokens heads channels"],
    *,
    implementation: Literal["xla", "cudnn"],
) -> Float[Array, "batch tokens heads channels"]:
    """Returns scaled dot-product attention, computed over a multiple of 8 tokens, for cuDNN refuses odd numbers."""
    batch, tokens = q.shape[:2]
    q, k, v = (jnp.pad(x, ((0, 0), (0, -tokens % 8), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = jnp.full((batch,), tokens, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation=implementation
    )[:, :tokens]


def perceptron(
    x: Float[Array, "batch tokens channels"], hidden: int, *, dtype: Any
) -> Float[Array, "batch tokens channels"]:
    """Returns the tokens with a two-layer perceptron of them added; the calling module holds `norm2`, `fc1`, `fc2`."""
    y = _dense(hidden, "fc1", dtype)(layer_norm("norm2", dtype)(x))
    return x + _dense(x.shape[-1], "fc2", dtype)(gelu(y))


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """Returns a LayerNorm as the published transformers have it; its statistics are float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def _dense(channels: int, name: str, dtype: Any, *, use_bias: bool = True) -> nn.Dense:
    return nn.Dense(channels, use_bias=use_bias, dtype=dtype, kernel_init=small_normal, name=name)


deit_small = functools.partial(VisionTransformer, patch=16, channels=384, depth=12, heads=6)
# For tests and a first try: 64x64 pixels make a 4x4 grid.
vit_tiny = functools.partial(VisionTransformer, patch=16, channels=48, depth=3, heads=3)
