"""The table of methods: each row is built, run and compared with its published properties and its formula."""

import functools
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import augment, methods, runs
from aujax.config import Config
from aujax.models import resnet
from aujax.models.heads import LinearHead

STAGES = {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 8, "layer5": 8}


def min_max_normalize(maps):
    return (maps - maps.min()) / (maps.max() - maps.min())


def fc(variables, k):
    """The weights of class k in the linear head."""
    return np.asarray(variables["params"]["head"]["fc"]["kernel"], np.float64)[:, k]


def class_map(head, a, k):
    """The map of class k by a head's 1x1 convolution, whose channels are `modalities` for each class in turn."""
    of_channels = a @ np.asarray(head["kernel"], np.float64)[0, 0] + np.asarray(head["bias"])
    return of_channels.reshape(*a.shape[:2], 7, -1)[:, :, k].mean(-1)


def grad_cam_pp(w, a):
    g = w / a[..., 0].size
    positive = np.maximum(g, 0) * a[..., 0].size / (2 + g * a.sum(axis=(0, 1)))
    return np.maximum(a @ positive, 0)


class Expected(NamedTuple):
    """Expected properties of a row; `cam` computes one image's map from variables, its activations and its class."""

    parameters: int  # of the published model with seven classes
    cam: object
    tap: str = "layer5"
    backbone: str = "resnet_tiny"
    sizes: dict = STAGES  # of the attention at 64x64 pixels on the small backbone
    options: dict = MappingProxyType({})  # published values
    small: dict = MappingProxyType({})  # options of the small model
    supervised: tuple = ()
    image_size: int = 224


WILDCAT = {"modalities": 5, "kmax": 0.5}
ADL = {"rate": 0.4, "threshold": 0.1}
EXPECTED = {
    "CAM": Expected(23_522_375, lambda v, a, k: a["layer5"] @ fc(v, k)),
    "WILDCAT": Expected(
        23_579_747,
        lambda v, a, k: class_map(v["params"]["head"]["to_modalities"], a["layer5"], k),
        options=WILDCAT | {"kmin": 0.1, "alpha": 0.6},
    ),
    "WILDCAT/reference": Expected(
        23_579_747, lambda v, a, k: class_map(v["params"]["head"]["to_modalities"], a["layer5"], k), options=WILDCAT
    ),
    "GradCAM": Expected(23_522_375, lambda v, a, k: np.maximum(a["layer5"] @ fc(v, k) / 64, 0)),
    "GradCAM++": Expected(23_522_375, lambda v, a, k: grad_cam_pp(fc(v, k), a["layer5"])),
    "GradCAM++/reference": Expected(23_522_375, lambda v, a, k: a["layer5"] @ (np.maximum(fc(v, k) / 64, 0) ** 3 * 64)),
    "ACoL": Expected(
        80_149_582,
        lambda v, a, k: np.maximum(
            min_max_normalize(a["class_maps"][..., k]), min_max_normalize(a["erased_maps"][..., k])
        ),
        options={"threshold": 0.1, "channels": 1024},
        small={"channels": 16},
        supervised=("erased_logits",),
    ),
    "PRM": Expected(23_522_375, lambda v, a, k: class_map(v["params"]["head"]["conv"], a["layer5"], k)),
    "ADL": Expected(23_522_375, lambda v, a, k: a["layer5"] @ fc(v, k), options=ADL),
    "ADL/reference": Expected(23_522_375, lambda v, a, k: a["layer5_block2"] @ fc(v, k), options=ADL),
    "CutMix": Expected(23_522_375, lambda v, a, k: a["layer5"] @ fc(v, k), tap="layer4"),
    "LayerCAM": Expected(23_522_375, lambda v, a, k: a["layer5"] @ np.maximum(fc(v, k) / 64, 0)),
    "TS-CAM": Expected(
        21_689_863,
        lambda v, a, k: a["attention"][..., 0] * a["class_maps"][..., k],
        tap="tokens",
        backbone="vit_tiny",
        sizes={"tokens": 4, "attention": 4},
    ),
    "APViT": Expected(
        65_209_543,
        None,
        tap="stage3",
        backbone="apvit_tiny",
        sizes={"stage1": 32, "stage2": 16, "stage3": 8, "attention": 8},
        options={"tokens": 160, "keep": 0.9},
        image_size=112,
    ),
}
every_row = pytest.mark.parametrize("name", list(EXPECTED))
with_cam = pytest.mark.parametrize("name", [name for name, row in EXPECTED.items() if row.cam])
IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
CLASSES = np.array([2, 0, 6])


def small_model(name, **given):
    return methods.build_model(name, backbone=EXPECTED[name].backbone, options=EXPECTED[name].small, **given)


@functools.cache
def new_variables(head):
    """Variables of the small model of the first row with that head; rows with the same head share their tree."""
    name = next(name for name, row in methods.METHODS.items() if row.head is head)
    return methods.init(small_model(name), jax.random.key(0), IMAGES)


def small(name):
    return small_model(name), new_variables(methods.METHODS[name].head)


class Outputs(NamedTuple):
    """All results of a model that the tests compare, from one compiled program."""

    forward: methods.Forward
    predicted: methods.Forward  # without an expression
    activations: methods.Activations
    logits: jax.Array  # of a plain apply


@functools.cache
def program(name):
    model = small_model(name)

    @jax.jit
    def run(variables, image, expression):
        return Outputs(
            methods.forward(model, variables, image, expression),
            methods.forward(model, variables, image),
            methods.apply_with_taps(model, variables, image, expression=expression),
            model.apply(variables, image),
        )

    return run


@functools.cache
def outputs(name):
    return program(name)(small(name)[1], IMAGES, CLASSES)


def test_every_row_has_an_expectation():
    assert set(methods.METHODS) == set(EXPECTED)


@every_row
def test_row_is_the_published_one(name):
    row, expected = methods.METHODS[name], EXPECTED[name]
    assert row.tap == expected.tap
    assert row.tap in row.layers
    assert {option.name: option.value for option in row.options} == expected.options
    assert (row.supervised, row.image_size) == (expected.supervised, expected.image_size)


def test_cutmix_alone_mixes():
    assert [name for name, row in methods.METHODS.items() if row.mix] == ["CutMix"]
    assert methods.METHODS["CutMix"].mix is augment.cutmix


@functools.cache
def number_of_parameters(backbone, head, size):
    model = methods.Classifier(methods.METHODS["CAM"], backbone, head)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@every_row
def test_default_model_has_the_published_number_of_parameters(name):
    model = methods.build_model(name)
    assert number_of_parameters(model.backbone, model.head, model.method.image_size) == EXPECTED[name].parameters


@every_row
def test_forward_reports_logits_attention_and_cam(name):
    result = outputs(name).forward
    sizes = EXPECTED[name].sizes
    assert result.logits.shape == (3, 7)
    assert {layer: x.shape for layer, x in result.attention.items()} == {k: (3, n, n) for k, n in sizes.items()}
    assert {x.dtype.name for x in jax.tree.leaves(result)} == {"float32"}


@every_row
def test_cam_is_that_of_the_methods_formula(name):
    result, _, outs, _ = outputs(name)
    formula, variables = EXPECTED[name].cam, small(name)[1]
    if formula is None:
        assert result.cam is None
        return
    for i, k in enumerate(CLASSES):
        activations = {layer: np.asarray(x[i], np.float64) for layer, x in outs.activations.items()}
        expected = formula(variables, activations, k)
        np.testing.assert_allclose(result.cam[i], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@every_row
def test_attention_is_the_channel_mean_of_the_tap(name):
    result = outputs(name)
    for layer, attention in result.forward.attention.items():
        np.testing.assert_allclose(attention, np.mean(result.activations.activations[layer], axis=-1), atol=1e-5)


@every_row
def test_forward_gives_the_logits_of_apply(name):
    np.testing.assert_allclose(outputs(name).forward.logits, outputs(name).logits, atol=1e-5)


@with_cam
def test_cam_is_of_the_predicted_expression_by_default(name):
    predicted = outputs(name).predicted
    same = program(name)(small(name)[1], IMAGES, jnp.argmax(predicted.logits, axis=-1)).forward
    np.testing.assert_allclose(same.cam, predicted.cam, atol=1e-6 * np.abs(predicted.cam).max())
    assert not np.allclose(outputs(name).forward.cam, predicted.cam, atol=1e-3 * np.abs(predicted.cam).max())


def test_adl_as_released_computes_its_cam_one_block_early():
    row, images = methods.METHODS["ADL/reference"], IMAGES[:, :32, :32]
    # Three blocks in the last stage, as in the published network.
    backbone = resnet.ResNet(stage_sizes=(1, 1, 1, 3), block=resnet.BasicBlock, width=4)
    model = methods.Classifier(row, backbone, LinearHead(7))
    variables = methods.init(model, jax.random.key(0), images)
    run = jax.jit(lambda v, x, k: (methods.forward(model, v, x, k).cam, methods.apply_with_taps(model, v, x)))
    cam, outs = run(variables, images, CLASSES)
    for layer, same in (("layer5_block2", True), ("layer5", False)):
        expected = [x @ fc(variables, k) for x, k in zip(np.asarray(outs.activations[layer]), CLASSES, strict=True)]
        assert np.allclose(cam, expected, atol=1e-4) == same


def test_average_of_the_linear_cam_is_the_logit_less_its_bias():
    result, variables = outputs("CAM").forward, small("CAM")[1]
    logit = np.take_along_axis(np.asarray(result.logits), CLASSES[:, None], axis=1)[:, 0]
    bias = np.asarray(variables["params"]["head"]["fc"]["bias"])[CLASSES]
    np.testing.assert_allclose(result.cam.mean(axis=(1, 2)), logit - bias, rtol=1e-4, atol=1e-5)


@with_cam
def test_a_number_that_is_not_a_class_has_a_cam_of_nan(name):
    result = program(name)(small(name)[1], IMAGES, np.array([0, 7, -1]))
    assert np.isnan(result.forward.cam).all(axis=(1, 2)).tolist() == [False, True, True]


@every_row
def test_equal_models_are_compiled_once(name):
    assert small_model(name) == small_model(name)
    assert hash(small_model(name)) == hash(small_model(name))
    if name == "ADL/reference":  # has options, fields of the backbone and a read-out with a closure
        _, variables = small(name)
        methods.forward(small_model(name), variables, IMAGES, CLASSES)
        count = methods._forward._cache_size()
        methods.forward(small_model(name), variables, IMAGES, CLASSES)
        assert methods._forward._cache_size() == count


@every_row
def test_init_gives_parameters_and_statistics_only(name):
    model, variables = small(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert set(variables) == {"params", "batch_stats"}
    assert set(shapes) <= {"params", "batch_stats"}
    assert jax.tree.map(jnp.shape, {"batch_stats": {}, **shapes}) == jax.tree.map(jnp.shape, variables)


def test_training_pass_updates_statistics_and_evaluation_keeps_them():
    model, variables = small("CAM")
    train = jax.jit(functools.partial(methods.apply_with_taps, model, train=True))(variables, jnp.asarray(IMAGES))
    kept = outputs("CAM").activations.batch_stats["backbone"]["stem_bn"]["mean"]
    np.testing.assert_array_equal(kept, variables["batch_stats"]["backbone"]["stem_bn"]["mean"])
    assert not np.allclose(train.batch_stats["backbone"]["stem_bn"]["mean"], kept)
    assert set(train.activations) == {*STAGES, "layer5_block2"}


def test_a_network_without_statistics_trains_with_an_empty_tree():
    model, variables = small("TS-CAM")
    trained = jax.eval_shape(functools.partial(methods.apply_with_taps, model, train=True), variables, IMAGES)
    assert trained.batch_stats == {}


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
        model = small_model(name, dtype=jnp.bfloat16)
        outs = jax.eval_shape(functools.partial(methods.apply_with_taps, model), small(name)[1], jnp.asarray(IMAGES))
        assert outs.activations[model.method.tap].dtype == jnp.bfloat16
        assert outs.logits.dtype == jnp.float32


# One row per family of networks.
every_family = pytest.mark.parametrize("name", ["CAM", "TS-CAM", "APViT"])


@every_family
def test_rematerialisation_stores_less_than_half_of_the_activations(name):
    def stored_bytes(rematerialize):
        model = small_model(name, rematerialize=rematerialize)

        def pullback(variables):
            def logits(params):
                return methods.apply_with_taps(model, {**variables, "params": params}, IMAGES, train=True).logits

            return jax.vjp(logits, variables["params"])[1]

        variables = {"batch_stats": {}, **jax.eval_shape(model.init, jax.random.key(0), IMAGES)}
        # Inputs of the backward pass: stored activations, and the parameters in both cases.
        stored, parameters = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
            for tree in (jax.eval_shape(pullback, variables), variables["params"])
        )
        return stored - parameters

    assert 0 < stored_bytes(True) < stored_bytes(False) / 2


@every_family
def test_rematerialisation_leaves_the_tree_of_parameters(name):
    plain, again = (
        jax.eval_shape(small_model(name, rematerialize=choice).init, jax.random.key(0), IMAGES)
        for choice in (False, True)
    )
    assert plain == again


@pytest.mark.parametrize("rematerialize", [False, True])
def test_a_run_builds_the_backbone_of_its_configuration(rematerialize):
    assert runs.build_model(Config(rematerialize=rematerialize), 7).backbone.rematerialize == rematerialize


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: methods.build_model("Cam"), "method must be one of CAM, .*, APViT, got 'Cam'"),
        (
            lambda: methods.build_model("CAM", backbone="deit_small"),
            "backbone of method CAM must be one of resnet18, .*resnet_tiny, got 'deit_small'",
        ),
        (lambda: methods.build_model("TS-CAM", backbone="vgg"), "must be one of deit_small, vit_tiny, got 'vgg'"),
        (lambda: methods.build_model("CAM", output_stride=4), "output_stride must be one of 8, 16, 32, got 4"),
        (lambda: methods.build_model("TS-CAM", output_stride=8), "must be left out for deit_small, got 8"),
        (lambda: methods.build_model("APViT", backbone="deit_small"), "must be one of apvit, apvit_tiny"),
        (lambda: methods.build_model("CAM", options={"kmax": 0.3}), "CAM has no option kmax; its options: none"),
        (
            lambda: methods.build_model("WILDCAT/reference", options={"kmin": 0.3}),
            "WILDCAT/reference has no option kmin; its options: modalities, kmax",
        ),
        (
            lambda: methods.build_model("WILDCAT", options={"modalities": 2.5}),
            "option modalities must be an integer from 1 to 64, got 2.5",
        ),
        (lambda: methods.build_model("ADL", options={"rate": 2}), "option rate must be a number from 0 to 1, got 2"),
        (
            lambda: methods.build_model("APViT", options={"keep": 0}),
            "option keep must be a number above 0, up to 1, got 0",
        ),
        (
            lambda: methods.build_model("APViT", options={"keep": 90}),
            "option keep must be a number above 0, up to 1, got 90",
        ),
        (
            lambda: methods.build_model("APViT", options={"tokens": 197}),
            "option tokens must be an integer from 1 to 196, got 197",
        ),
        (
            lambda: methods.build_model("APViT", options={"tokens": 0}),
            "option tokens must be an integer from 1 to 196, got 0",
        ),
    ],
)
def test_an_invalid_choice_is_refused_with_the_valid_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_axis_name_is_that_of_batch_norm_and_is_ignored_without_batch_norm():
    assert methods.build_model("CAM", axis_name="data").backbone.axis_name == "data"
    assert methods.build_model("TS-CAM", axis_name="data") == methods.build_model("TS-CAM")


def test_models_are_flax_modules_that_know_their_row():
    model = methods.build_model("TS-CAM", backbone="vit_tiny")
    assert isinstance(model, nn.Module)
    assert model.method is methods.METHODS["TS-CAM"]


def test_the_methods_own_layer_is_aligned_by_default():
    row = methods.METHODS["CAM"]
    assert (row.aligned(), row.aligned(("layer5", "layer4"))) == (("layer5",), ("layer5", "layer4"))


def test_the_last_aligned_layer_is_reported():
    row = methods.METHODS["CAM"]
    assert (row.reported_layer(), row.reported_layer(("layer5", "layer4"))) == ("layer5", "layer4")


@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("WILDCAT", {"modalities": 2, "alpha": 0.0}, lambda model: (model.head.modalities, model.head.alpha)),
        ("ACoL", {"threshold": 0.7, "channels": 8}, lambda model: (model.head.threshold, model.head.channels)),
        ("ADL", {"rate": 0.2}, lambda model: (model.backbone.attention_dropout.rate,)),
        ("APViT", {"tokens": 100, "keep": 0.5}, lambda model: (model.backbone.tokens, model.backbone.keep)),
    ],
)
def test_an_option_reaches_its_module(name, options, fields):
    assert fields(methods.build_model(name, options=options)) == tuple(options.values())


def test_an_option_is_stored_in_the_row_of_the_model():
    model = methods.build_model("WILDCAT", options={"kmax": 0.3})
    assert {option.name: option.value for option in model.method.options}["kmax"] == 0.3
    assert model != methods.build_model("WILDCAT")
