"""Layers of the networks: attention dropout by hand, the others against Flax's."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from aujax.models import layers
from aujax.models.layers import AttentionDropout, BatchNorm, StemConv

pytestmark = pytest.mark.jax_versions

# Two images of one channel; the second is twice as bright.
FEATURES = jnp.array([[[0.0, 1.0], [5.0, 10.0]], [[0.0, 2.0], [10.0, 20.0]]])[..., None]


def dropped(rate, threshold=0.5, *, train=True, seed=0, x=FEATURES):
    return AttentionDropout(rate, threshold).apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)})


def test_positions_that_reach_the_threshold_are_dropped_in_every_image():
    np.testing.assert_array_equal(dropped(1.0)[..., 0], [[[0, 1], [0, 0]], [[0, 2], [0, 0]]])


def test_otherwise_all_positions_are_weighted_by_their_attention():
    np.testing.assert_allclose(dropped(0.0), FEATURES / (1 + np.exp(-np.asarray(FEATURES))), rtol=1e-6)


def test_attention_is_the_mean_over_channels():
    two = jnp.concatenate([FEATURES, 3 * FEATURES], axis=-1)
    np.testing.assert_allclose(dropped(0.0, x=two), two / (1 + np.exp(-2 * np.asarray(FEATURES))), rtol=1e-6)


def test_outside_training_nothing_changes():
    np.testing.assert_array_equal(AttentionDropout(1.0, 0.5).apply({}, FEATURES, train=False), FEATURES)


def test_one_sample_decides_for_the_whole_batch_at_its_rate():
    dropped_pixel = [np.asarray(dropped(0.4, seed=seed)[:, 1, 1, 0] == 0) for seed in range(200)]
    assert all(both.all() or not both.any() for both in dropped_pixel)
    assert np.mean(dropped_pixel) == pytest.approx(0.4, abs=0.1)


def test_the_weights_have_a_gradient_and_the_selection_of_positions_has_none():
    gradient = jax.grad(lambda x: dropped(0.0, x=x).sum())(FEATURES)
    weight = 1 / (1 + np.exp(-np.asarray(FEATURES, np.float64)))
    np.testing.assert_allclose(gradient, weight + FEATURES * weight * (1 - weight), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(
        jax.grad(lambda x: dropped(1.0, x=x).sum())(FEATURES) != 0, dropped(1.0) + (FEATURES == 0) > 0
    )


def test_half_precision_is_kept():
    assert dropped(0.0, x=FEATURES.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(12, 10), (11, 9), (10, 13)])
def test_stem_convolution_is_that_of_flax(size):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    plain = nn.Conv(4, (7, 7), strides=(2, 2), padding=3, use_bias=False)
    variables = plain.init(jax.random.key(0), image)
    np.testing.assert_allclose(
        StemConv(4, jnp.float32).apply(variables, image), plain.apply(variables, image), atol=1e-5
    )


# ---- Forms for CPUs --------------------------------------------------------------------------------------------------


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def with_gradients(function, *arguments):
    """The output, and the gradients by all arguments of the output's product with random numbers."""
    weights = random(*jax.eval_shape(function, *arguments).shape, seed=1)

    @jax.jit
    def both(*arguments):
        output, pull = jax.vjp(function, *arguments)
        return output, *pull(weights)

    return both(*arguments)


def assert_close(actual, expected):
    assert len(actual) == len(expected)
    for array, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(array, other, atol=2e-5 * np.abs(other).max())


def flax_convolution(kernel, stride, padding, **options):
    layer = nn.Conv(kernel.shape[-1], kernel.shape[:2], stride, padding, use_bias=False, **options)
    return lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x)


@pytest.mark.parametrize(
    ("kernel", "size", "stride"),
    [
        ((1, 1, 5, 7), (6, 5), 1),
        ((1, 1, 5, 7), (5, 8), 2),
        ((3, 3, 64, 66), (11, 10), 1),
    ],
)
def test_convolution_for_cpus_and_its_gradients_are_those_of_flax(kernel, size, stride):
    x, kernel = random(2, *size, kernel[2]), random(*kernel)
    padding = kernel.shape[0] // 2
    ours = flax_convolution(kernel, stride, padding, conv_general_dilated=layers.convolution)
    text = str(jax.make_jaxpr(ours)(x, kernel))
    assert "conv_general_dilated" not in text
    assert_close(with_gradients(ours, x, kernel), with_gradients(flax_convolution(kernel, stride, padding), x, kernel))


@pytest.mark.parametrize("size", [(12, 10), (7, 9)])
def test_max_pooling_for_cpus_gives_the_gradient_to_the_first_maximum_as_in_flax(size):
    x = jnp.maximum(jnp.round(random(2, *size, 3)), 0.0)  # many ties
    plain = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    assert_close(with_gradients(layers.max_pool, x), with_gradients(plain, x))


def test_matrix_product_is_the_sum_over_the_last_axis():
    x, matrix = random(2, 3, 4), random(4, 5)
    expected = with_gradients(lambda x, matrix: jnp.einsum("btc,co->bto", x, matrix), x, matrix)
    assert_close(with_gradients(layers.matrix_product, x, matrix), expected)


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 5, 2), 1), ((1, 3, 5, 2), 0)])
def test_convolution_to_few_channels_and_its_gradients_are_those_of_flax(kernel, padding):
    x, kernel = random(2, 6, 5, 5), random(*kernel)
    ours = flax_convolution(kernel, 1, padding, conv_general_dilated=layers.to_few_channels)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, kernel))
    assert_close(with_gradients(ours, x, kernel), with_gradients(flax_convolution(kernel, 1, padding), x, kernel))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_and_its_gradients_are_those_of_flax(dtype):
    x = (random(2, 3, 16) + 3.0).astype(dtype)
    params = {"scale": random(16), "bias": random(16)}

    def loss(layer, params, x):
        y = layer.apply({"params": params}, x)
        return (y.astype(jnp.float32) * random(2, 3, 16)).sum(), y

    plain = nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False)
    actual, expected = (
        jax.value_and_grad(functools.partial(loss, layer), argnums=(0, 1), has_aux=True)(params, x)
        for layer in (layers.LayerNorm(dtype), plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), actual, expected)
    atol = 1e-5 if dtype == jnp.float32 else 0.05
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), atol=atol), actual, expected)


def test_programs_for_other_devices_are_those_of_flax():
    x, kernel = random(2, 12, 12, 64), random(3, 3, 64, 64)
    fields = [field.name for field in dataclasses.fields(jax.sharding.AbstractDevice)]  # more in newer versions
    device = jax.sharding.AbstractDevice(**dict.fromkeys(fields, None) | {"device_kind": "NVIDIA H100"})
    mesh = jax.sharding.AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=device)
    ours = flax_convolution(kernel, 1, 1, conv_general_dilated=layers.convolution)

    def network(convolution, pool):
        return lambda x, kernel: pool(convolution(x, kernel))

    plain = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    with jax.sharding.use_abstract_mesh(mesh):
        assert not layers.for_cpu()
        programs = [
            str(jax.make_jaxpr(network(*parts))(x, kernel))
            for parts in ((ours, layers.max_pool), (flax_convolution(kernel, 1, 1), plain))
        ]
    assert programs[0] == programs[1]


CHANNELS = 5


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(1.0, 3.0, (8, 3, 4, CHANNELS)), rng.normal(size=(8, 3, 4, CHANNELS))
    params = {"scale": np.linspace(0.5, 2.0, CHANNELS), "bias": np.linspace(-1.0, 1.0, CHANNELS)}
    statistics = {"mean": rng.normal(size=CHANNELS), "var": rng.uniform(0.5, 2.0, CHANNELS)}
    return jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), (x, weights, {"params": params, "batch_stats": statistics})
    )


def ours(variables, x, *, relu=False, **options):
    return BatchNorm(train=True, relu=relu, **options).apply(variables, x, mutable=["batch_stats"])


def flax(variables, x, *, relu=False, **options):
    layer = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, **options)
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    return (nn.relu(y) if relu else y), updates


def trained(layer, variables, x, weights):
    """The output, the statistics, and the gradients of a weighted sum of the output by parameters and input."""

    def loss(params, x):
        y, updates = layer({**variables, "params": params}, x)
        return (y.astype(jnp.float32) * weights).sum(), (y, updates)

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return outputs, gradients


@pytest.mark.parametrize("relu", [False, True])
def test_training_and_its_gradients_are_those_of_flax(batch, relu):
    x, weights, variables = batch
    expected, actual = (
        jax.jit(functools.partial(trained, functools.partial(layer, relu=relu)))(variables, x, weights)
        for layer in (flax, ours)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), actual, expected)


def test_half_precision_keeps_float32_statistics_and_parameter_gradients(batch):
    x, weights, variables = batch
    half = functools.partial(ours, dtype=jnp.bfloat16)
    ((y, updates), (params, _)) = trained(half, variables, x.astype(jnp.bfloat16), weights)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, params))} == {jnp.dtype(jnp.float32)}


def test_evaluation_uses_the_running_statistics(batch):
    x, _, variables = batch
    expected = nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(variables, x)
    np.testing.assert_allclose(BatchNorm(train=False).apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    rectified = BatchNorm(train=False, relu=True).apply(variables, x)
    np.testing.assert_allclose(rectified, np.maximum(expected, 0.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("axis_name", "same"), [("data", True), (None, False)])
def test_statistics_and_gradients_span_devices_only_along_the_named_axis(batch, axis_name, same):
    x, weights, variables = batch
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    whole, divided = PartitionSpec(), PartitionSpec("data")

    def device(variables, x, weights):
        variables = jax.lax.pcast(variables, "data", to="varying")
        (y, _), (params, d_x) = trained(functools.partial(ours, axis_name=axis_name), variables, x, weights)
        return y, d_x, jax.lax.psum(params, "data")

    mapped = jax.shard_map(device, mesh=mesh, in_specs=(whole, divided, divided), out_specs=(divided, divided, whole))
    y, d_x, params = jax.jit(mapped)(variables, x, weights)
    (expected, _), (d_params, d_inputs) = trained(flax, variables, x, weights)
    close = functools.partial(np.allclose, rtol=1e-4, atol=1e-4)
    assert close(y, expected) == close(d_x, d_inputs) == close(params["scale"], d_params["scale"]) == same


def test_a_constant_channel_is_finite(batch):
    _, weights, variables = batch
    _, (params, d_x) = trained(ours, variables, jnp.ones_like(weights), weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, d_x)))


def test_a_new_layer_changes_nothing_but_the_scale_of_its_input(batch):
    fresh = BatchNorm(train=True).init(jax.random.key(0), batch[0])
    expected = {"params": {"scale": 1.0, "bias": 0.0}, "batch_stats": {"mean": 0.0, "var": 1.0}}
    jax.tree.map(lambda leaf, value: np.testing.assert_array_equal(leaf, np.full(CHANNELS, value)), fresh, expected)
