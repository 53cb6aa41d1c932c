"""The face recognition network: its unit against NumPy (channels last), sizes, statistics, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.lib.stride_tricks import sliding_window_view

from aujax.models import iresnet, taps
from aujax.models.layers import BatchNorm


@functools.cache
def tiny(axis_name=None, dtype=jnp.float32):
    return iresnet.IResNet(units=(1, 2, 1), width=8, dtype=dtype, axis_name=axis_name)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(tiny().init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.fixture(scope="module")
def images():
    # Each image of its own brightness, so that statistics of a part differ from those of the whole.
    pixels = np.random.default_rng(0).normal(size=(8, 16, 16, 3)) + np.arange(8).reshape(8, 1, 1, 1)
    return jnp.asarray(pixels, jnp.float32)


def conv(x, kernel, stride):
    x = np.pad(x, ((0, 0), *[(kernel.shape[0] // 2,) * 2] * 2, (0, 0)))
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwiyx,yxio->bhwo", windows, kernel)


def batch_norm(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def numpy_unit(x, params, stats, stride):
    y = conv(batch_norm(x, params["bn1"], stats["bn1"]), params["conv1"]["kernel"], 1)
    y = np.maximum(y, 0) + params["prelu"]["slope"] * np.minimum(y, 0)
    y = batch_norm(conv(y, params["conv2"]["kernel"], stride), params["bn2"], stats["bn2"])
    if "shortcut_conv" not in params:
        return y + x[:, ::stride, ::stride]
    return y + batch_norm(
        conv(x, params["shortcut_conv"]["kernel"], stride), params["shortcut_bn"], stats["shortcut_bn"]
    )


def random_variables(model, image):
    """Doubles of either sign, and variances down to a thousandth, so that another epsilon would show."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    filled = jax.tree.map(lambda leaf: np.exp(rng.uniform(-7, 0, leaf.shape)), shapes)
    filled["params"] = jax.tree.map(lambda leaf: leaf * rng.choice([-1, 1], leaf.shape), filled["params"])
    return filled


def assert_near(computed, expected):
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (4, 2), (6, 2)])
def test_unit_computes_what_numpy_does(channels, stride):
    x = np.random.default_rng(1).normal(size=(2, 6, 8, 4))
    conv_layer = functools.partial(nn.Conv, use_bias=False)
    unit = iresnet.Unit(channels, stride, conv_layer, functools.partial(BatchNorm, train=False))
    filled = random_variables(unit, jnp.float32(x))
    computed = jax.jit(unit.apply)(jax.tree.map(jnp.float32, filled), jnp.float32(x))
    assert_near(computed, numpy_unit(x, filled["params"], filled["batch_stats"], stride))


def test_network_computes_what_numpy_does():
    image = np.random.default_rng(1).normal(size=(2, 8, 12, 3))
    model = iresnet.IResNet(units=(1, 2), width=4)
    filled = random_variables(model, jnp.float32(image))
    params, stats = filled["params"], filled["batch_stats"]
    x = batch_norm(conv(image, params["input_conv"]["kernel"], 1), params["input_bn"], stats["input_bn"])
    x = np.maximum(x, 0) + params["input_prelu"]["slope"] * np.minimum(x, 0)
    for name, stride in (("stage1_unit0", 2), ("stage2_unit0", 2), ("stage2_unit1", 1)):
        x = numpy_unit(x, params[name], stats[name], stride)
    assert_near(jax.jit(model.apply)(jax.tree.map(jnp.float32, filled), jnp.float32(image)), x)


def test_each_channel_has_its_own_slope_below_zero():
    x = jnp.array([[2.0, 2.0], [-2.0, -2.0]])
    out = iresnet.PReLU().apply({"params": {"slope": jnp.array([0.5, -1.0])}}, x)
    np.testing.assert_array_equal(out, [[2.0, 2.0], [-1.0, 2.0]])


def test_slopes_start_at_a_quarter(variables):
    np.testing.assert_array_equal(variables["params"]["stage2_unit0"]["prelu"]["slope"], np.full(16, 0.25))


def test_convolutions_start_xavier_uniform(variables):
    bound = np.sqrt(6 / (9 * (32 + 32)))
    largest = np.abs(variables["params"]["stage3_unit0"]["conv2"]["kernel"]).max()
    assert 0.99 * bound < largest <= bound


def test_only_units_that_change_the_channels_convolve_their_shortcut(variables):
    with_shortcut = {name for name, unit in variables["params"].items() if "shortcut_conv" in unit}
    assert with_shortcut == {"stage2_unit0", "stage3_unit0"}


def test_stages_of_ir50_halve_112_pixels_to_14():
    image = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    make = functools.partial(iresnet.IResNet().init_with_output, mutable=["params", "batch_stats", "intermediates"])
    output, updates = jax.eval_shape(make, jax.random.key(0), image)
    shapes = {name: leaf.shape[1:] for name, leaf in taps.read(updates["intermediates"]).items()}
    assert shapes == {"stage1": (56, 56, 64), "stage2": (28, 28, 128), "stage3": (14, 14, 256)}
    assert output.shape == (1, 14, 14, 256)


def test_an_image_that_does_not_halve_three_times_is_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 100x64: resize to 96x64"):
        jax.eval_shape(tiny().init, jax.random.key(0), jnp.zeros((1, 100, 64, 3)))


def test_training_moves_running_statistics_by_a_tenth(variables, images):
    train = jax.jit(functools.partial(tiny().apply, train=True, mutable=["batch_stats"]))
    _, updates = train(variables, images)
    before = conv(np.asarray(images, np.float64), np.asarray(variables["params"]["input_conv"]["kernel"]), 1)
    statistics = updates["batch_stats"]["input_bn"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * before.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * before.var(axis=(0, 1, 2)), rtol=1e-4)


def test_bfloat16_is_for_computing_and_not_for_storing():
    make = functools.partial(tiny(dtype=jnp.bfloat16).init_with_output, train=True)
    output, variables = jax.eval_shape(make, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
