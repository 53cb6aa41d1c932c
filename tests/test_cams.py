"""Maps from 5x5 activations made by hand, Eigen-CAM and Score-CAM; those from gradients are in test_gradient_cams."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import cams

pytestmark = pytest.mark.jax_versions

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


_eigen_cam = jax.jit(cams.eigen_cam)


def _first_component(features):
    matrix = features.reshape(-1, features.shape[-1]).astype(np.float64)
    projected = matrix @ np.linalg.svd(matrix, full_matrices=False)[2][0]
    return (projected * (-1.0 if projected.sum() < 0 else 1.0)).reshape(features.shape[:2])


@pytest.mark.parametrize("shape", [(5, 4, 6), (3, 2, 40), (4, 4, 16)], ids=["more pixels", "more channels", "square"])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_eigen_cam_is_the_first_component_of_the_svd(shape, scale):
    features = scale * np.random.default_rng(0).normal(0.3, size=shape).astype(np.float32)
    expected = _first_component(features)
    np.testing.assert_allclose(_eigen_cam(features), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_eigen_cam_has_a_non_negative_sum():
    sums = [float(_eigen_cam(sign * FEATURES).sum()) for sign in (1.0, -1.0)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert sums[0] > 0


def test_eigen_cam_maps_over_images():
    images = np.random.default_rng(0).normal(0.3, size=(3, 5, 5, 4)).astype(np.float32)
    expected = np.stack([_first_component(image) for image in images])
    np.testing.assert_allclose(jax.jit(jax.vmap(cams.eigen_cam))(images), expected, atol=1e-5)
    np.testing.assert_allclose(_eigen_cam(images), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 4, 6), (3, 2, 40)], ids=["more pixels", "more channels"])
def test_eigen_cam_has_the_derivative_of_small_differences(shape):
    rng = np.random.default_rng(0)
    features, towards, weights = rng.normal(0.3, size=shape), rng.normal(size=shape), rng.normal(size=shape[:2])
    got = jax.jit(jax.grad(lambda a: (cams.eigen_cam(a) * weights.astype(np.float32)).sum()))(jnp.array(features))
    step = 1e-5
    ends = [(_first_component(features + sign * step * towards) * weights).sum() for sign in (1, -1)]
    assert (np.asarray(got) * towards).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("shape", [(5, 5, 4), (2, 2, 9)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_eigen_cam_of_constant_features_is_constant_with_a_finite_derivative(shape, value):
    features = jnp.full(shape, value)
    np.testing.assert_allclose(_eigen_cam(features), np.full(shape[:2], value * shape[-1] ** 0.5), atol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda a: (cams.eigen_cam(a) ** 2).sum()))(features)).all()


def test_eigen_cam_of_nan_is_degenerate():
    assert cams.degenerate(_eigen_cam(jnp.asarray(FEATURES).at[1, 1].set(jnp.nan)))


LINEAR = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def _score(images):
    """A network of two lines: the mean of each colour's square, and a linear layer to 4 classes."""
    return (images**2).mean((1, 2)) @ LINEAR


def _score_cam_by_loop(image, features, expression):
    logits = []
    for k in range(features.shape[-1]):
        mask = cv2.resize(features[..., k].astype(np.float64), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        low, high = mask.min(), mask.max()
        mask = (mask - low) / (high - low) if high > low else np.zeros_like(mask)
        logits.append(_score((image * mask[..., None])[None])[0, expression])
    weights = np.exp(np.array(logits) - max(logits))
    return np.maximum((features * (weights / weights.sum())).sum(-1), 0.0)


def _images(count):
    rng = np.random.default_rng(0)
    images, features = rng.normal(size=(count, 12, 10, 3)), rng.normal(size=(count, 5, 4, 7))
    features[..., 3] = 0.0  # a dead channel
    return 4 * images.astype(np.float32), features.astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_score_cam_weighs_the_channels_by_their_scores_as_masks(batch_size):
    (image,), (features,) = _images(1)
    for expression in (0, 3):
        got = cams.score_cam(_score, image, features, expression, batch_size=batch_size)
        np.testing.assert_allclose(got, _score_cam_by_loop(image, features, expression), atol=1e-5)


@pytest.mark.parametrize(("batch_size", "expected"), [(3, 3), (32, 7)])
def test_score_cam_scores_at_most_batch_size_images_at_once(batch_size, expected):
    sizes = set()
    (image,), (features,) = _images(1)
    cams.score_cam(lambda x: sizes.add(len(x)) or _score(x), image, features, 0, batch_size=batch_size)
    assert sizes == {expected}


def test_score_cam_maps_over_images_and_their_classes():
    images, features = _images(3)
    expression = np.array([2, 0, 3])
    got = jax.jit(jax.vmap(lambda *face: cams.score_cam(_score, *face, batch_size=4)))(images, features, expression)
    expected = [_score_cam_by_loop(*face) for face in zip(images, features, expression, strict=True)]
    np.testing.assert_allclose(got, np.stack(expected), atol=1e-5)


def test_score_cam_of_a_class_that_does_not_exist_is_nan():
    (image,), (features,) = _images(1)
    assert np.isnan(cams.score_cam(_score, image, features, 4)).all()
    assert np.isnan(cams.score_cam(_score, image, features, -1)).all()


def test_score_cam_of_zero_features_is_zero_with_a_finite_derivative():
    image = jnp.zeros((4, 4, 3))
    value, derivative = jax.value_and_grad(lambda a: cams.score_cam(_score, image, a, 1).sum())(jnp.zeros((2, 2, 3)))
    assert value == 0
    assert np.isfinite(derivative).all()


def test_ts_cam_multiplies_attention_and_class_map():
    np.testing.assert_array_equal(cams.ts_cam(RAMP, -BAR)[2], [0.0, -1.0, -2.0, -3.0, -4.0])
    assert not np.any(np.asarray(cams.ts_cam(RAMP, -BAR))[[0, 1, 3, 4]])


def test_acol_cam_is_the_larger_of_the_normalized_maps():
    got = cams.acol_cam(np.stack([BAR, 3 * RAMP]), np.stack([RAMP - 7, -RAMP]))
    np.testing.assert_allclose(got[0, :, 1], [0.25, 0.25, 1.0, 0.25, 0.25])
    np.testing.assert_allclose(got[1, 0], [1.0, 0.75, 0.5, 0.75, 1.0])


def test_acol_cam_with_a_constant_map_is_the_other_map():
    np.testing.assert_allclose(cams.acol_cam(np.full((5, 5), -2.0, np.float32), RAMP), RAMP / 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("branch", [0, 1])
def test_acol_cam_of_a_map_that_is_not_finite_is_nan(value, branch):
    pair = [np.stack([RAMP, BAR]), np.stack([BAR, RAMP])]
    pair[branch][0, 1, 1] = value
    got = cams.acol_cam(*pair)
    assert np.isnan(got[0]).all()
    np.testing.assert_array_equal(cams.degenerate(got), [True, False])


def test_acol_cam_of_zero_maps_is_zero_with_finite_derivatives():
    zero = jnp.zeros((5, 5))
    assert not cams.acol_cam(zero, zero).any()
    for derivative in jax.grad(lambda a, b: cams.acol_cam(a, b).sum(), argnums=(0, 1))(zero, zero):
        assert np.isfinite(derivative).all()


def test_normalized_map_spans_zero_to_one():
    np.testing.assert_allclose(cams.normalize(RAMP - 2)[0], [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)


def test_normalize_removes_scale_and_offset():
    np.testing.assert_allclose(cams.normalize(7 * RAMP - 3), cams.normalize(RAMP), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf, -np.inf])
def test_constant_or_non_finite_map_is_degenerate_and_normalized_to_zeros(value):
    bad = RAMP.copy()
    bad[1, 1] = value
    bad = bad if not np.isfinite(value) else np.full((5, 5), value, np.float32)
    maps = jnp.stack([bad, RAMP])
    np.testing.assert_array_equal(cams.degenerate(maps), [True, False])
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
