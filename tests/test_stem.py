"""The first convolution of a residual network against the plain one it stands for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax.models.stem import StemConv


@pytest.mark.parametrize("size", [(12, 10), (11, 9), (10, 13)])
def test_the_convolution_is_the_plain_one(size):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    plain = nn.Conv(4, (7, 7), strides=(2, 2), padding=3, use_bias=False)
    variables = plain.init(jax.random.key(0), image)
    np.testing.assert_allclose(
        StemConv(4, jnp.float32).apply(variables, image), plain.apply(variables, image), atol=1e-5
    )
