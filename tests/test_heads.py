"""Heads against sums made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax.models import heads, taps
from aujax.models.heads import LinearHead, TokenHead

FEATURES = jnp.arange(2 * 3 * 3 * 2, dtype=jnp.float32).reshape(2, 3, 3, 2)


def test_linear_head_is_the_pooled_features_times_its_weights():
    kernel, bias = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]), jnp.array([0.0, 10.0, 0.0])
    got = LinearHead(3).apply({"params": {"fc": {"kernel": kernel, "bias": bias}}}, FEATURES)
    # Channel means of the two images: (8, 9) and (26, 27).
    np.testing.assert_allclose(got, [[8, 19, 7], [26, 37, 25]], rtol=1e-6)


def test_linear_head_starts_xavier_uniform_with_zero_bias():
    params = LinearHead(7).init(jax.random.key(0), jnp.zeros((1, 2, 2, 512)))["params"]["fc"]
    bound = np.sqrt(6 / (512 + 7))
    assert 0.98 * bound < np.abs(params["kernel"]).max() <= bound
    assert not params["bias"].any()


def test_token_head_sums_each_neighbourhood_and_averages():
    kernel = jnp.ones((3, 3, 1, 2)) * jnp.array([1.0, -2.0]).reshape(1, 1, 1, 2)
    variables = {"params": {"conv": {"kernel": kernel, "bias": jnp.array([0.0, 1.0])}}}
    logits, updates = TokenHead(2).apply(variables, jnp.ones((1, 3, 3, 1)), mutable=["intermediates"])
    maps = taps.read(updates["intermediates"])["class_maps"]
    # Ones seen through a 3x3 window padded with zeros: 4 in a corner, 6 at an edge, 9 in the middle.
    np.testing.assert_array_equal(maps[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_allclose(logits, [[49 / 9, 1 - 98 / 9]], rtol=1e-6)


def test_token_head_starts_within_torchs_bound():
    params = TokenHead(7).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))["params"]["conv"]
    bound = 1 / np.sqrt(9 * 48)
    assert 0.98 * bound < np.abs(params["kernel"]).max() <= bound


@pytest.mark.parametrize("head", [LinearHead(7), TokenHead(7)])
def test_logits_are_float32_whatever_came_in(head):
    features = jnp.zeros((2, 4, 4, 8), jnp.bfloat16)
    logits, _ = jax.eval_shape(head.init_with_output, jax.random.key(0), features)
    assert logits.dtype == jnp.float32
    assert logits.shape == (2, 7)


@pytest.fixture
def waves():
    """T1 of the published numbers: sin(0.3 y) + cos(0.2 x) + 2 on 28 x 28 pixels."""
    y, x = np.mgrid[:28, :28]
    return jnp.asarray(np.sin(0.3 * y) + np.cos(0.2 * x) + 2, jnp.float32)[None, :, :, None]


def test_wildcat_score_of_the_release(waves):
    np.testing.assert_allclose(heads.wildcat_pool_reference(waves), [[2.839053]], rtol=5e-6)


def test_peak_score_of_the_release(waves):
    np.testing.assert_allclose(heads.peak_pool(waves), [[2.279057]], rtol=5e-6)


def test_erasing_keeps_the_pixels_that_the_release_keeps(waves):
    assert int(heads.unerased(waves[..., 0], threshold=0.1).sum()) == 44
