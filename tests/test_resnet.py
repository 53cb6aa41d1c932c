"""Residual networks: sizes, statistics, precision. Their values are checked in test_pretrained.py."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from aujax import methods
from aujax.models import resnet, taps
from aujax.models.layers import AttentionDropout, BatchNorm


@functools.cache
def tiny(**options):
    return resnet.resnet_tiny(**options)


@pytest.fixture(scope="module")
def variables():
    return methods.init(tiny(), jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def images():
    # Each image of its own brightness, so that statistics of a part differ from those of the whole.
    pixels = np.random.default_rng(0).normal(size=(8, 32, 32, 3)) + np.arange(8).reshape(8, 1, 1, 1)
    return jnp.asarray(pixels, jnp.float32)


def activation_shapes(model, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    make = functools.partial(model.init_with_output, mutable=["params", "batch_stats", "intermediates"])
    _, updates = jax.eval_shape(make, jax.random.key(0), image)
    return {name: leaf.shape[1:] for name, leaf in taps.read(updates["intermediates"]).items()}


@pytest.mark.parametrize(("output_stride", "last"), [(8, (28, 28)), (16, (14, 14)), (32, (14, 7))])
def test_output_stride_sets_the_size_of_the_last_two_maps(output_stride, last):
    shapes = activation_shapes(resnet.resnet50(output_stride=output_stride), 224)
    assert shapes == {
        "layer1": (112, 112, 64),
        "layer2": (56, 56, 256),
        "layer3": (28, 28, 512),
        "layer4": (last[0], last[0], 1024),
        "layer5": (last[1], last[1], 2048),
        "layer5_block2": (last[1], last[1], 2048),
    }


def test_tiny_network_has_14x14_maps_at_112_pixels():
    assert activation_shapes(tiny(), 112)["layer5"] == (14, 14, 128)


def test_another_output_stride_is_refused():
    with pytest.raises(ValueError, match="output_stride must be one of 8, 16, 32, got 4"):
        resnet.resnet_tiny(output_stride=4)


@pytest.mark.parametrize(
    ("create", "count"),
    # torchvision's counts less the 1000-class layer: 11,689,512 - 513,000 and so on.
    [(resnet.resnet18, 11_176_512), (resnet.resnet34, 21_284_672), (resnet.resnet50, 23_508_032)],
)
def test_parameter_count_is_torchvisions(create, count):
    shapes = jax.eval_shape(create().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_convolutions_start_kaiming_normal_by_fan_out(variables):
    kernel = variables["params"]["stage4_block0"]["conv2"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.01)


def test_training_moves_running_statistics_by_a_tenth(variables, images):
    train = jax.jit(functools.partial(tiny().apply, train=True, mutable=["batch_stats"]))
    _, updates = train(variables, images)
    before = jax.lax.conv_general_dilated(
        images,
        variables["params"]["stem_conv"]["kernel"],
        window_strides=(2, 2),
        padding=((3, 3), (3, 3)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    stem = updates["batch_stats"]["stem_bn"]
    np.testing.assert_allclose(stem["mean"], 0.1 * before.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stem["var"], 0.9 + 0.1 * before.var(axis=(0, 1, 2)), rtol=1e-4)


def test_evaluation_of_one_image_ignores_the_others(variables, images):
    changed = images.at[jnp.array([0, 1, 2, 4, 5, 6, 7])].set(1.0)
    apply = jax.jit(tiny().apply)
    np.testing.assert_allclose(apply(variables, images)[3], apply(variables, changed)[3], atol=1e-5)


def test_rematerialisation_over_two_devices_changes_no_number(variables, images):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    everywhere, data = PartitionSpec(), PartitionSpec("data")

    def train(rematerialize):
        model = tiny(axis_name="data", rematerialize=rematerialize)

        def loss(params, image):
            given = {**variables, "params": params}
            _, updates = model.apply(given, image, train=True, mutable=["batch_stats", "intermediates"])
            means = jax.tree.map(lambda x: jax.lax.pmean((x**2).mean(), "data"), updates["intermediates"])
            return sum(means.values()), (means, updates["batch_stats"])

        step = jax.value_and_grad(loss, has_aux=True)
        mapped = jax.shard_map(step, mesh=mesh, in_specs=(everywhere, data), out_specs=everywhere)
        return jax.jit(mapped)(variables["params"], images)

    chex.assert_trees_all_close(train(True), train(False), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_for_computing_and_not_for_storing():
    model, image = tiny(dtype=jnp.bfloat16), jnp.zeros((1, 32, 32, 3))
    make = functools.partial(model.init_with_output, train=True)
    output, variables = jax.eval_shape(make, jax.random.key(0), image)
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize(
    ("build", "after"),
    [
        (resnet.resnet50, {1: (), 2: (), 3: (0,), 4: (0, 2)}),
        (resnet.resnet18, {1: (), 2: (), 3: (0,), 4: (0, 1)}),
        (resnet.resnet_tiny, {1: (), 2: (), 3: (0,), 4: (0,)}),
    ],
)
def test_attention_is_dropped_where_the_released_adl_drops_it(build, after):
    model = build(attention_dropout=AttentionDropout(0.4, 0.1))
    assert {stage: model.dropout_follows(stage) for stage in range(1, 5)} == after
    assert not any(build().dropout_follows(stage) for stage in range(1, 5))


def test_dropout_acts_after_its_blocks_and_before_the_last_tap(variables, images):
    # At a rate of 1 and a threshold of 0 every output of a ReLU is dropped.
    model = resnet.resnet_tiny(attention_dropout=AttentionDropout(1.0, 0.0))
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["intermediates", "batch_stats"]))
    _, updates = train(variables, images, rngs={"dropout": jax.random.key(0)})
    left = {name: bool(x.any()) for name, x in taps.read(updates["intermediates"]).items()}
    # The input of the block between the two dropouts is zero, and stays zero in its BatchNorm, whose bias is zero.
    assert left == {
        "layer1": True,
        "layer2": True,
        "layer3": True,
        "layer4": False,
        "layer5_block2": False,
        "layer5": False,
    }


def test_second_block_of_the_last_stage_is_tapped_before_the_third():
    model = resnet.ResNet(stage_sizes=(1, 1, 1, 3), block=resnet.BasicBlock, width=4)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    variables = methods.init(model, jax.random.key(0), image)
    third = resnet.BasicBlock(
        32,
        1,
        functools.partial(nn.Conv, use_bias=False),
        functools.partial(BatchNorm, train=False),
    )

    @jax.jit
    def run(variables):
        _, updates = model.apply(variables, image, mutable=["intermediates"])
        activations = taps.read(updates["intermediates"])
        inner = {kind: tree["stage4_block2"] for kind, tree in variables.items()}
        return third.apply(inner, activations["layer5_block2"]), activations["layer5"]

    np.testing.assert_allclose(*run(variables), atol=1e-5)
