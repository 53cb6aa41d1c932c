"""The Grad-CAM family: formulas of the papers spelled out, closed forms of a linear head, and cases by hand."""

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
OF_GRADIENTS = {
    "grad_cam": jax.jit(cams.grad_cam),
    "grad_cam_pp": jax.jit(cams.grad_cam_pp),
    "grad_cam_pp_reference": jax.jit(cams.grad_cam_pp_reference),
    "layer_cam": jax.jit(cams.layer_cam),
    "hires_cam": jax.jit(cams.hires_cam),
    "xgrad_cam": jax.jit(cams.xgrad_cam),
}
each_of_gradients = pytest.mark.parametrize("formula", OF_GRADIENTS.values(), ids=OF_GRADIENTS)


def _expected(name, a, g):
    """Returns the map by the papers' formulas, pixel by pixel and channel by channel, in double precision."""
    a, g = np.asarray(a, np.float64), np.asarray(g, np.float64)
    total, positive = np.zeros(a.shape[:2]), np.maximum(g, 0.0)
    for k in range(a.shape[-1]):
        weight = np.zeros(a.shape[:2])
        for i, j in np.ndindex(*a.shape[:2]):
            square, cube = g[i, j, k] ** 2, g[i, j, k] ** 3
            alpha = square / (2 * square + cube * a[..., k].sum()) if square else 0.0
            weight += {
                "grad_cam": g[i, j, k] / total.size,
                "grad_cam_pp": alpha * positive[i, j, k],
                "grad_cam_pp_reference": square * positive[i, j, k],
                "layer_cam": 0.0,
                "hires_cam": 0.0,
                "xgrad_cam": g[i, j, k] * a[i, j, k] / a[..., k].sum(),
            }[name]
        weight += {"layer_cam": positive[..., k], "hires_cam": g[..., k]}.get(name, 0.0)
        total += weight * a[..., k]
    return total if name in ("hires_cam", "xgrad_cam") else np.maximum(total, 0.0)


def _random(*shape, seed=0):
    """Returns activations of a ReLU and gradients, both with zeros among them."""
    draw = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    return np.maximum(draw[0], 0.0), np.where(np.abs(draw[1]) < 0.2, 0.0, draw[1]).astype(np.float32)


@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_map_follows_the_formula_of_its_paper(name):
    features, gradients = _random(5, 4, 6)
    expected = _expected(name, features, gradients)
    np.testing.assert_allclose(OF_GRADIENTS[name](features, gradients), expected, atol=1e-6 * np.abs(expected).max())


def test_maps_by_hand():
    # 1 on the bar's left half and beyond, -1 on the ramp's last column.
    gradients = np.zeros((5, 5, 2), np.float32)
    gradients[:, :2, 0], gradients[:, 4, 1] = 1.0, -1.0
    middle = {name: np.asarray(formula(FEATURES, gradients)[2]) for name, formula in OF_GRADIENTS.items()}
    np.testing.assert_allclose(middle["grad_cam"], [0.4, 0.2, 0.0, 0.0, 0.0], atol=1e-6)  # 10 / 25 and -5 / 25
    np.testing.assert_allclose(middle["grad_cam_pp"], np.full(5, 10 / 7), rtol=1e-6)  # each 1 / (2 + 5)
    np.testing.assert_allclose(middle["grad_cam_pp_reference"], np.full(5, 10.0), rtol=1e-6)
    np.testing.assert_array_equal(middle["layer_cam"], [1.0, 1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(middle["hires_cam"], [1.0, 1.0, 0.0, 0.0, -4.0])
    # 2 of the bar's 5; -5 * 4 of the ramp's 50.
    np.testing.assert_allclose(middle["xgrad_cam"], [0.4, 0.0, -0.4, -0.8, -1.2], atol=1e-6)


def test_gradients_of_a_linear_head_give_the_closed_forms():
    features, _ = _random(7, 6, 16)
    kernel = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    gradients = jnp.moveaxis(jax.jacrev(lambda a: a.mean((0, 1)) @ kernel + 0.5)(features), 0, -1)
    for k, weights in enumerate(kernel.T.astype(np.float64)):
        got = {name: formula(features, gradients[..., k]) for name, formula in OF_GRADIENTS.items()}
        cam, positive = features @ weights, np.maximum(weights, 0.0)
        true_weights = positive / (2.0 + positive * features.mean((0, 1)))
        expected = {
            "grad_cam": np.maximum(cam, 0.0) / 42,
            "grad_cam_pp": features @ true_weights,
            "grad_cam_pp_reference": features @ positive**3 / 42**2,
            "layer_cam": features @ positive / 42,
            "hires_cam": cam / 42,
            "xgrad_cam": cam / 42,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, atol=2e-6 * np.abs(value).max(), err_msg=name)


@each_of_gradients
def test_maps_of_gradients_map_over_images_and_classes(formula):
    features, gradients = _random(2, 5, 5, 4)[0], _random(2, 3, 5, 5, 4)[1]
    one_by_one = np.array([[formula(a, g) for g in classes] for a, classes in zip(features, gradients, strict=True)])
    rounding = 1e-6 * one_by_one.max()
    mapped = jax.vmap(jax.vmap(formula, in_axes=(None, 0)))(features, gradients)
    np.testing.assert_allclose(mapped, one_by_one, atol=rounding)
    leading = formula(np.repeat(features[:, None], 3, axis=1), gradients)
    np.testing.assert_allclose(leading, one_by_one, atol=rounding)


@each_of_gradients
def test_maps_of_half_precision_gradients_are_computed_in_float32(formula):
    features, gradients = (jnp.asarray(part, jnp.bfloat16) for part in _random(5, 5, 64))
    got = formula(features, gradients)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, formula(features.astype(jnp.float32), gradients.astype(jnp.float32)))


@each_of_gradients
@pytest.mark.parametrize("zero", ["features", "gradients", "both"])
def test_maps_of_zero_inputs_are_zero_and_have_finite_derivatives(formula, zero):
    features, gradients = _random(5, 5, 4)
    features = np.zeros_like(features) if zero != "gradients" else features
    gradients = np.zeros_like(gradients) if zero != "features" else gradients
    np.testing.assert_array_equal(formula(features, gradients), np.zeros((5, 5)))
    for derivative in jax.grad(lambda a, g: formula(a, g).sum(), argnums=(0, 1))(features, gradients):
        assert np.isfinite(derivative).all()


@each_of_gradients
@pytest.mark.parametrize("where", [0, 1])
def test_nan_in_the_input_makes_a_degenerate_map(formula, where):
    inputs = [part.copy() for part in _random(5, 5, 4)]
    inputs[where][1, 2, 3] = np.nan
    assert cams.degenerate(formula(*inputs))


def test_channels_that_add_up_to_zero_have_no_weight_in_xgrad_cam():
    features = np.stack([BAR, RAMP - 2], axis=-1)
    np.testing.assert_allclose(cams.xgrad_cam(features, np.ones((5, 5, 2), np.float32)), BAR, atol=1e-6)


def test_grad_cam_pp_of_gradients_whose_square_underflows_float32():
    gradients = np.full((5, 5, 2), 1e-25, np.float32)
    np.testing.assert_allclose(cams.grad_cam_pp(FEATURES, gradients), 12.5e-25 * (BAR + RAMP), rtol=1e-5)


def test_grad_cam_pp_whose_divisor_is_zero_stays_finite():
    features = np.array([[[-2.0], [1.0]]])  # 2 + 2 (-2 + 1) = 0
    assert np.isfinite(cams.grad_cam_pp(features, np.full((1, 2, 1), 2.0))).all()


def test_channels_that_add_up_to_rounding_have_no_weight_in_xgrad_cam():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(28, 28, 64)).astype(np.float32)
    features -= features.mean(axis=(0, 1))
    got = cams.xgrad_cam(features, rng.normal(size=features.shape).astype(np.float32))
    assert np.abs(got).max() < 1
