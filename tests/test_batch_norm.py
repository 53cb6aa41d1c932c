"""BatchNorm against Flax's, whose gradients automatic differentiation finds."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from aujax.models.batch_norm import BatchNorm

CHANNELS = 5


@pytest.fixture(scope="module")
def drawn():
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
def test_training_and_its_gradients_are_those_of_flax(drawn, relu):
    x, weights, variables = drawn
    expected, found = (
        jax.jit(functools.partial(trained, functools.partial(layer, relu=relu)))(variables, x, weights)
        for layer in (flax, ours)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), found, expected)


def test_half_precision_keeps_float32_statistics_and_parameter_gradients(drawn):
    x, weights, variables = drawn
    half = functools.partial(ours, dtype=jnp.bfloat16)
    ((y, updates), (params, _)) = trained(half, variables, x.astype(jnp.bfloat16), weights)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, params))} == {jnp.dtype(jnp.float32)}


def test_evaluation_uses_the_running_statistics(drawn):
    x, _, variables = drawn
    expected = nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(variables, x)
    np.testing.assert_allclose(BatchNorm(train=False).apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    rectified = BatchNorm(train=False, relu=True).apply(variables, x)
    np.testing.assert_allclose(rectified, np.maximum(expected, 0.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("axis_name", "same"), [("data", True), (None, False)])
def test_statistics_and_gradients_span_devices_only_along_the_named_axis(drawn, axis_name, same):
    x, weights, variables = drawn
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


def test_a_constant_channel_is_finite(drawn):
    _, weights, variables = drawn
    _, (params, d_x) = trained(ours, variables, jnp.ones_like(weights), weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, d_x)))


def test_a_new_layer_changes_nothing_but_the_scale_of_its_input(drawn):
    fresh = BatchNorm(train=True).init(jax.random.key(0), drawn[0])
    expected = {"params": {"scale": 1.0, "bias": 0.0}, "batch_stats": {"mean": 0.0, "var": 1.0}}
    jax.tree.map(lambda leaf, value: np.testing.assert_array_equal(leaf, np.full(CHANNELS, value)), fresh, expected)
