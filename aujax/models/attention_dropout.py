"""Dropping what a network attends to, so that it looks further (Choe & Shim 2019: attention-based dropout layer)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AttentionDropout(nn.Module):
    """Hides the most attended places of all pictures, or weighs every place by its attention; at random, by batch.

    Attention is the mean over channels. With probability `rate` the places that reach `threshold` times the picture's
    largest attention are set to zero, else all are multiplied by its sigmoid. One draw from the stream "dropout"
    decides for the whole batch. Outside training it is the identity.
    """

    rate: float
    threshold: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w channels"], *, train: bool) -> Float[Array, "batch h w channels"]:
        """Returns the activations that are left."""
        if not train:
            return x
        attention = x.astype(jnp.float32).mean(axis=-1, keepdims=True)
        kept = attention < self.threshold * attention.max(axis=(1, 2), keepdims=True)
        drop = jax.random.bernoulli(self.make_rng("dropout"), self.rate)
        return x * jnp.where(drop, kept.astype(jnp.float32), nn.sigmoid(attention)).astype(x.dtype)
