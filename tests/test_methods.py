"""The table of methods: every row is built, read and compared with what is known of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import methods
from aujax.models import taps

# Row -> parameters with seven classes (the published models'), the aligned tap, and a small backbone with the
# sizes of its attention at 64x64 pixels.
EXPECTED = {
    "CAM": (
        23_522_375,
        "layer5",
        "resnet_tiny",
        {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 8, "layer5": 8},
    ),
    "TS-CAM": (21_689_863, "tokens", "vit_tiny", {"tokens": 4, "attention": 4}),
}
every_row = pytest.mark.parametrize("name", list(EXPECTED))
IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)


@functools.cache
def small(name):
    model = methods.build_model(name, backbone=EXPECTED[name][2])
    return model, methods.init(model, jax.random.key(0), IMAGES)


@functools.cache
def outputs(name):
    model, variables = small(name)
    read = jax.jit(functools.partial(methods.read, model))
    return methods.forward(model, variables, IMAGES), read(variables, jnp.asarray(IMAGES))


def test_every_row_has_an_expectation():
    assert set(methods.METHODS) == set(EXPECTED)


@every_row
def test_default_model_has_the_published_number_of_parameters(name):
    model = methods.build_model(name)
    image = jnp.zeros((1, model.method.image_size, model.method.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == EXPECTED[name][0]


@every_row
def test_forward_reports_logits_attention_and_cam(name):
    result, _ = outputs(name)
    sizes = EXPECTED[name][3]
    assert result.logits.shape == (3, 7)
    assert {layer: x.shape for layer, x in result.attention.items()} == {k: (3, n, n) for k, n in sizes.items()}
    assert result.cam.shape == (3, sizes[methods.METHODS[name].tap], sizes[methods.METHODS[name].tap])
    assert {x.dtype.name for x in jax.tree.leaves(result)} == {"float32"}


@every_row
def test_row_aligns_its_published_tap_and_reports_it(name):
    row = methods.METHODS[name]
    assert row.tap == EXPECTED[name][1]
    assert row.tap in row.layers


@every_row
def test_attention_is_the_channel_mean_of_the_tap(name):
    result, reading = outputs(name)
    for layer, attention in result.attention.items():
        np.testing.assert_allclose(attention, np.mean(reading.activations[layer], axis=-1), atol=1e-5)


@every_row
def test_forward_gives_the_logits_of_apply(name):
    model, variables = small(name)
    logits = jax.jit(model.apply)(variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(outputs(name)[0].logits, logits, atol=1e-5)


@every_row
def test_cam_is_of_the_predicted_expression_unless_one_is_named(name):
    model, variables = small(name)
    predicted, _ = outputs(name)
    same = methods.forward(model, variables, IMAGES, np.argmax(predicted.logits, axis=-1))
    other = methods.forward(model, variables, IMAGES, np.argmin(predicted.logits, axis=-1))
    np.testing.assert_allclose(same.cam, predicted.cam, atol=1e-6)
    assert not np.allclose(other.cam, predicted.cam, atol=1e-3 * np.abs(predicted.cam).max())


def test_average_of_the_linear_cam_is_the_logit_less_its_bias():
    model, variables = small("CAM")
    expression = np.array([2, 0, 6])
    result = methods.forward(model, variables, IMAGES, expression)
    logit = np.take_along_axis(np.asarray(result.logits), expression[:, None], axis=1)[:, 0]
    bias = np.asarray(variables["params"]["head"]["fc"]["bias"])[expression]
    np.testing.assert_allclose(result.cam.mean(axis=(1, 2)), logit - bias, rtol=1e-4, atol=1e-5)


def test_token_cam_is_attention_times_the_class_map():
    model, variables = small("TS-CAM")
    expression = np.array([2, 0, 6])
    result = methods.forward(model, variables, IMAGES, expression)
    maps = np.asarray(outputs("TS-CAM")[1].activations["class_maps"])
    for i, k in enumerate(expression):
        np.testing.assert_allclose(result.cam[i], result.attention["attention"][i] * maps[i, ..., k], atol=1e-6)


@every_row
def test_an_expression_that_does_not_exist_has_a_cam_of_nan(name):
    model, variables = small(name)
    result = methods.forward(model, variables, IMAGES, np.array([0, 7, 1]))
    assert np.isnan(result.cam).all(axis=(1, 2)).tolist() == [False, True, False]


@every_row
def test_equal_models_are_compiled_once(name):
    _model, variables = small(name)
    outputs(name)
    count = methods._forward._cache_size()
    methods.forward(methods.build_model(name, backbone=EXPECTED[name][2]), variables, IMAGES)
    assert methods._forward._cache_size() == count


@every_row
def test_init_gives_parameters_and_statistics_only(name):
    model, variables = small(name)
    assert set(variables) == {"params", "batch_stats"}
    assert set(jax.eval_shape(model.init, jax.random.key(0), IMAGES)) <= {"params", "batch_stats"}


@every_row
def test_gradient_at_the_aligned_tap_reaches_the_logits(name):
    model, variables = small(name)
    zeros = taps.zeros(model, variables, jnp.asarray(IMAGES))
    wanted = {"backbone": {EXPECTED[name][1]: zeros["backbone"][EXPECTED[name][1]]}}

    @jax.jit
    def score(perturbations):
        return model.apply({**variables, "perturbations": perturbations}, jnp.asarray(IMAGES))[:, 4].sum()

    (gradient,) = jax.tree.leaves(jax.grad(score)(wanted))
    moved = jax.tree.map(lambda g: 0.01 * g, {"backbone": {EXPECTED[name][1]: gradient}})
    # Both heads are linear in their tap: a step along the gradient moves the score by its squared length.
    np.testing.assert_allclose(score(moved) - score(zeros), 0.01 * (gradient**2).sum(), rtol=0.02)


def test_training_pass_updates_statistics_and_evaluation_keeps_them():
    model, variables = small("CAM")
    train = jax.jit(functools.partial(methods.read, model, train=True))(variables, jnp.asarray(IMAGES))
    kept = outputs("CAM")[1].batch_stats["backbone"]["stem_bn"]["mean"]
    np.testing.assert_array_equal(kept, variables["batch_stats"]["backbone"]["stem_bn"]["mean"])
    assert not np.allclose(train.batch_stats["backbone"]["stem_bn"]["mean"], kept)
    assert set(train.activations) == set(EXPECTED["CAM"][3])


def test_a_network_without_statistics_trains_with_an_empty_tree():
    model, variables = small("TS-CAM")
    assert methods.read(model, variables, jnp.asarray(IMAGES), train=True).batch_stats == {}


def test_number_of_classes_sets_the_logits():
    shapes = jax.eval_shape(
        methods.build_model("CAM", num_classes=8, backbone="resnet_tiny").init, jax.random.key(0), IMAGES
    )
    assert shapes["params"]["head"]["fc"]["bias"].shape == (8,)


@pytest.mark.parametrize(("output_stride", "size"), [(None, 8), (8, 8), (16, 4), (32, 2)])
def test_output_stride_sets_the_size_of_the_cam(output_stride, size):
    model = methods.build_model("CAM", backbone="resnet_tiny", output_stride=output_stride)
    _, variables = small("CAM")
    assert jax.eval_shape(functools.partial(methods.forward, model), variables, IMAGES).cam.shape == (3, size, size)


def test_bfloat16_reaches_the_backbone_and_leaves_the_outputs_float32():
    for name in EXPECTED:
        model = methods.build_model(name, backbone=EXPECTED[name][2], dtype=jnp.bfloat16)
        reading = jax.eval_shape(functools.partial(methods.read, model), small(name)[1], jnp.asarray(IMAGES))
        assert reading.activations[model.method.tap].dtype == jnp.bfloat16
        assert reading.logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: methods.build_model("Cam"), "method must be one of CAM, TS-CAM, got 'Cam'"),
        (
            lambda: methods.build_model("CAM", backbone="deit_small"),
            "backbone of method CAM must be one of resnet18, .*resnet_tiny, got 'deit_small'",
        ),
        (lambda: methods.build_model("TS-CAM", backbone="vgg"), "must be one of deit_small, vit_tiny, got 'vgg'"),
        (lambda: methods.build_model("CAM", output_stride=4), "output_stride must be one of 8, 16, 32, got 4"),
        (lambda: methods.build_model("TS-CAM", output_stride=8), "must be left out for deit_small, got 8"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_axis_name_reaches_batch_norm_and_changes_nothing_where_there_is_none():
    assert methods.build_model("CAM", axis_name="data").backbone.axis_name == "data"
    assert methods.build_model("TS-CAM", axis_name="data") == methods.build_model("TS-CAM")


def test_models_are_flax_modules_that_know_their_row():
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    assert isinstance(model, nn.Module)
    assert model.method is methods.METHODS["TS-CAM"]


def test_the_methods_own_layer_is_aligned_unless_others_are_chosen():
    row = methods.METHODS["CAM"]
    assert (row.aligned(), row.aligned(("layer5", "layer4"))) == (("layer5",), ("layer5", "layer4"))
