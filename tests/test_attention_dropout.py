"""Attention dropout against what its paper says, on maps made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax.models.attention_dropout import AttentionDropout

# Two pictures of one channel; the second is twice as bright.
FEATURES = jnp.array([[[0.0, 1.0], [5.0, 10.0]], [[0.0, 2.0], [10.0, 20.0]]])[..., None]


def dropped(rate, threshold=0.5, *, train=True, seed=0, x=FEATURES):
    return AttentionDropout(rate, threshold).apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)})


def test_places_that_reach_the_threshold_are_hidden_in_every_picture():
    np.testing.assert_array_equal(dropped(1.0)[..., 0], [[[0, 1], [0, 0]], [[0, 2], [0, 0]]])


def test_otherwise_all_places_are_weighed_by_their_attention():
    np.testing.assert_allclose(dropped(0.0), FEATURES / (1 + np.exp(-np.asarray(FEATURES))), rtol=1e-6)


def test_attention_is_the_mean_over_channels():
    two = jnp.concatenate([FEATURES, 3 * FEATURES], axis=-1)
    np.testing.assert_allclose(dropped(0.0, x=two), two / (1 + np.exp(-2 * np.asarray(FEATURES))), rtol=1e-6)


def test_outside_training_nothing_changes():
    np.testing.assert_array_equal(AttentionDropout(1.0, 0.5).apply({}, FEATURES, train=False), FEATURES)


def test_one_draw_decides_for_the_whole_batch_at_its_rate():
    hidden = [np.asarray(dropped(0.4, seed=seed)[:, 1, 1, 0] == 0) for seed in range(200)]
    assert all(both.all() or not both.any() for both in hidden)
    assert np.mean(hidden) == pytest.approx(0.4, abs=0.1)


def test_the_weights_have_a_gradient_and_the_choice_of_places_has_none():
    gradient = jax.grad(lambda x: dropped(0.0, x=x).sum())(FEATURES)
    weight = 1 / (1 + np.exp(-np.asarray(FEATURES, np.float64)))
    np.testing.assert_allclose(gradient, weight + FEATURES * weight * (1 - weight), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        jax.grad(lambda x: dropped(1.0, x=x).sum())(FEATURES) != 0, dropped(1.0) + (FEATURES == 0) > 0
    )


def test_half_precision_stays():
    assert dropped(0.0, x=FEATURES.astype(jnp.bfloat16)).dtype == jnp.bfloat16
