"""Maps from 5x5 activations made by hand."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import cams

# Two channels: a bar in the middle row, a ramp over the columns.
BAR = np.zeros((5, 5), np.float32)
BAR[2] = 1.0
RAMP = np.broadcast_to(np.arange(5, dtype=np.float32), (5, 5))
FEATURES = np.stack([BAR, RAMP], axis=-1)


def test_layer_attention_is_the_channel_mean():
    np.testing.assert_array_equal(cams.layer_attention(FEATURES)[2], [0.5, 1.0, 1.5, 2.0, 2.5])
    np.testing.assert_array_equal(cams.layer_attention(FEATURES)[0], [0.0, 0.5, 1.0, 1.5, 2.0])


def test_layer_attention_of_half_precision_features_is_summed_in_float32():
    features = jnp.full((5, 5, 1024), 0.1, jnp.bfloat16)
    assert cams.layer_attention(features).dtype == jnp.float32
    np.testing.assert_allclose(cams.layer_attention(features), float(jnp.bfloat16(0.1)), rtol=1e-6)


def test_cam_weighs_the_channels_and_keeps_the_sign():
    got = cams.cam(FEATURES, np.array([3.0, -1.0], np.float32))
    np.testing.assert_array_equal(got[2], [3.0, 2.0, 1.0, 0.0, -1.0])
    np.testing.assert_array_equal(got[0], [0.0, -1.0, -2.0, -3.0, -4.0])


def test_cam_of_a_batch_equals_the_cams_one_by_one():
    batch = jnp.stack([FEATURES, FEATURES[::-1] * 2])
    weights = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    one_by_one = [cams.cam(f, w) for f, w in zip(batch, weights, strict=True)]
    np.testing.assert_array_equal(cams.cam(batch, weights), jnp.stack(one_by_one))


def test_cam_maps_over_classes():
    weights = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    got = jax.vmap(cams.cam, in_axes=(None, 0))(FEATURES, weights)
    np.testing.assert_array_equal(got, np.stack([BAR, RAMP, BAR + RAMP]))


def test_ts_cam_multiplies_attention_and_class_map():
    np.testing.assert_array_equal(cams.ts_cam(RAMP, -BAR)[2], [0.0, -1.0, -2.0, -3.0, -4.0])
    assert not np.any(np.asarray(cams.ts_cam(RAMP, -BAR))[[0, 1, 3, 4]])


def test_normalized_map_spans_zero_to_one():
    np.testing.assert_allclose(cams.normalize(RAMP - 2)[0], [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)


def test_normalize_forgets_scale_and_offset():
    np.testing.assert_allclose(cams.normalize(7 * RAMP - 3), cams.normalize(RAMP), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf, -np.inf])
def test_a_flat_or_non_finite_map_is_uninformative_and_becomes_zeros(value):
    bad = RAMP.copy()
    bad[1, 1] = value
    bad = bad if not np.isfinite(value) else np.full((5, 5), value, np.float32)
    maps = jnp.stack([bad, RAMP])
    np.testing.assert_array_equal(cams.informative(maps), [False, True])
    np.testing.assert_array_equal(cams.normalize(maps)[0], np.zeros((5, 5)))
    np.testing.assert_allclose(cams.normalize(maps)[1].max(), 1.0)


@pytest.mark.parametrize("maps", [np.zeros((5, 5), np.float32), np.full((5, 5), np.nan, np.float32), RAMP])
def test_normalize_has_a_finite_gradient(maps):
    gradient = jax.grad(lambda m: (cams.normalize(m) ** 2).sum())(jnp.asarray(maps))
    assert np.isfinite(gradient).all()


def test_upsample_interpolates_at_half_pixels_and_keeps_the_edge():
    row = cams.upsample(RAMP / 4, (10, 10))[0] * 4
    np.testing.assert_allclose(row, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4], atol=1e-5)


def test_upsample_stays_within_zero_and_one():
    maps = jnp.array([[-1.0, 2.0], [2.0, -1.0]])
    got = cams.upsample(maps, (6, 6))
    assert got.min() == 0
    assert got.max() == 1


def test_docstring_examples_run():
    result = doctest.testmod(cams)
    assert result.attempted >= 12
    assert result.failed == 0
