"""The table of methods: every row is built, read and compared with what is known of it."""

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


def stretched(maps):
    return (maps - maps.min()) / (maps.max() - maps.min())


def fc(variables, k):
    """The weights of class k in the linear head."""
    return np.asarray(variables["params"]["head"]["fc"]["kernel"], np.float64)[:, k]


def grad_cam_pp(w, a):
    g = w / a[..., 0].size
    positive = np.maximum(g, 0) * a[..., 0].size / (2 + g * a.sum(axis=(0, 1)))
    return np.maximum(a @ positive, 0)


class Expected(NamedTuple):
    """What is known of a row; `cam` gives one face's map from variables, its activations and its class."""

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
        23_579_747, lambda v, a, k: a["class_maps"][..., k], options=WILDCAT | {"kmin": 0.1, "alpha": 0.6}
    ),
    "WILDCAT/reference": Expected(23_579_747, lambda v, a, k: a["class_maps"][..., k], options=WILDCAT),
    "GradCAM": Expected(23_522_375, lambda v, a, k: np.maximum(a["layer5"] @ fc(v, k) / 64, 0)),
    "GradCAM++": Expected(23_522_375, lambda v, a, k: grad_cam_pp(fc(v, k), a["layer5"])),
    "GradCAM++/reference": Expected(23_522_375, lambda v, a, k: a["layer5"] @ (np.maximum(fc(v, k) / 64, 0) ** 3 * 64)),
    "ACoL": Expected(
        80_149_582,
        lambda v, a, k: np.maximum(stretched(a["class_maps"][..., k]), stretched(a["erased_maps"][..., k])),
        options={"threshold": 0.1, "channels": 1024},
        small={"channels": 16},
        supervised=("erased_logits",),
    ),
    "PRM": Expected(23_522_375, lambda v, a, k: a["class_maps"][..., k]),
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
# One row for each different network.
every_network = pytest.mark.parametrize("name", ["CAM", "WILDCAT", "ACoL", "PRM", "ADL", "TS-CAM", "APViT"])
IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
CLASSES = np.array([2, 0, 6])


def small_model(name, **given):
    return methods.build_model(name, backbone=EXPECTED[name].backbone, options=EXPECTED[name].small, **given)


@functools.cache
def small(name):
    model = small_model(name)
    return model, methods.init(model, jax.random.key(0), IMAGES)


@functools.cache
def outputs(name):
    """The forward and the activations for `CLASSES`."""
    model, variables = small(name)

    @jax.jit
    def read(variables, image, expression):
        return methods.apply_with_taps(model, variables, image, expression=expression)

    return methods.forward(model, variables, IMAGES, CLASSES), read(variables, jnp.asarray(IMAGES), CLASSES)


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
    assert [name for name, row in methods.METHODS.items() if row.mix is not augment.unmixed] == ["CutMix"]
    assert methods.METHODS["CutMix"].mix is augment.cutmix


@every_row
def test_default_model_has_the_published_number_of_parameters(name):
    model = methods.build_model(name)
    image = jnp.zeros((1, model.method.image_size, model.method.image_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == EXPECTED[name].parameters


@every_row
def test_forward_reports_logits_attention_and_cam(name):
    result, _ = outputs(name)
    sizes = EXPECTED[name].sizes
    assert result.logits.shape == (3, 7)
    assert {layer: x.shape for layer, x in result.attention.items()} == {k: (3, n, n) for k, n in sizes.items()}
    assert {x.dtype.name for x in jax.tree.leaves(result)} == {"float32"}


@every_row
def test_cam_is_what_the_methods_formula_gives(name):
    result, reading = outputs(name)
    formula, variables = EXPECTED[name].cam, small(name)[1]
    if formula is None:
        assert result.cam is None
        return
    for i, k in enumerate(CLASSES):
        activations = {layer: np.asarray(x[i], np.float64) for layer, x in reading.activations.items()}
        expected = formula(variables, activations, k)
        np.testing.assert_allclose(result.cam[i], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@every_row
def test_attention_is_the_channel_mean_of_the_tap(name):
    result, reading = outputs(name)
    for layer, attention in result.attention.items():
        np.testing.assert_allclose(attention, np.mean(reading.activations[layer], axis=-1), atol=1e-5)


@every_network
def test_forward_gives_the_logits_of_apply(name):
    model, variables = small(name)
    logits = jax.jit(model.apply)(variables, jnp.asarray(IMAGES))
    np.testing.assert_allclose(outputs(name)[0].logits, logits, atol=1e-5)


@pytest.mark.parametrize("name", ["CAM", "GradCAM", "ACoL", "TS-CAM"])
def test_cam_is_of_the_predicted_expression_unless_one_is_named(name):
    model, variables = small(name)
    predicted = methods.forward(model, variables, IMAGES)
    same = methods.forward(model, variables, IMAGES, np.argmax(predicted.logits, axis=-1))
    np.testing.assert_allclose(same.cam, predicted.cam, atol=1e-6)
    assert not np.allclose(outputs(name)[0].cam, predicted.cam, atol=1e-3 * np.abs(predicted.cam).max())


def test_the_released_adl_reads_its_cam_one_block_early():
    row = methods.METHODS["ADL/reference"]
    # Three blocks in the last stage, as the published network has.
    backbone = resnet.ResNet(stage_sizes=(1, 1, 1, 3), block=resnet.BasicBlock, width=4)
    model = methods.Classifier(row, backbone, LinearHead(7))
    variables = methods.init(model, jax.random.key(0), IMAGES)
    cam = methods.forward(model, variables, IMAGES, CLASSES).cam
    activations = methods.apply_with_taps(model, variables, IMAGES).activations
    for layer, same in (("layer5_block2", True), ("layer5", False)):
        expected = [x @ fc(variables, k) for x, k in zip(np.asarray(activations[layer]), CLASSES, strict=True)]
        assert np.allclose(cam, expected, atol=1e-4) == same


def test_average_of_the_linear_cam_is_the_logit_less_its_bias():
    result, variables = outputs("CAM")[0], small("CAM")[1]
    logit = np.take_along_axis(np.asarray(result.logits), CLASSES[:, None], axis=1)[:, 0]
    bias = np.asarray(variables["params"]["head"]["fc"]["bias"])[CLASSES]
    np.testing.assert_allclose(result.cam.mean(axis=(1, 2)), logit - bias, rtol=1e-4, atol=1e-5)


@with_cam
def test_an_expression_that_does_not_exist_has_a_cam_of_nan(name):
    model, variables = small(name)
    result = methods.forward(model, variables, IMAGES, np.array([0, 7, -1]))
    assert np.isnan(result.cam).all(axis=(1, 2)).tolist() == [False, True, True]


@every_row
def test_equal_models_are_compiled_once(name):
    _model, variables = small(name)
    outputs(name)
    count = methods._forward._cache_size()
    methods.forward(small_model(name), variables, IMAGES, CLASSES)
    assert methods._forward._cache_size() == count


@every_row
def test_init_gives_parameters_and_statistics_only(name):
    model, variables = small(name)
    assert set(variables) == {"params", "batch_stats"}
    assert set(jax.eval_shape(model.init, jax.random.key(0), IMAGES)) <= {"params", "batch_stats"}


def test_training_pass_updates_statistics_and_evaluation_keeps_them():
    model, variables = small("CAM")
    train = jax.jit(functools.partial(methods.apply_with_taps, model, train=True))(variables, jnp.asarray(IMAGES))
    kept = outputs("CAM")[1].batch_stats["backbone"]["stem_bn"]["mean"]
    np.testing.assert_array_equal(kept, variables["batch_stats"]["backbone"]["stem_bn"]["mean"])
    assert not np.allclose(train.batch_stats["backbone"]["stem_bn"]["mean"], kept)
    assert set(train.activations) == {*STAGES, "layer5_block2"}


def test_a_network_without_statistics_trains_with_an_empty_tree():
    model, variables = small("TS-CAM")
    assert methods.apply_with_taps(model, variables, jnp.asarray(IMAGES), train=True).batch_stats == {}


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
        reading = jax.eval_shape(functools.partial(methods.apply_with_taps, model), small(name)[1], jnp.asarray(IMAGES))
        assert reading.activations[model.method.tap].dtype == jnp.bfloat16
        assert reading.logits.dtype == jnp.float32


# One row for each family of networks.
every_family = pytest.mark.parametrize("name", ["CAM", "TS-CAM", "APViT"])


@every_family
def test_rematerialisation_keeps_less_than_half_of_the_activations(name):
    def kept_bytes(rematerialize):
        model = small_model(name, rematerialize=rematerialize)

        def pullback(variables):
            def logits(params):
                return methods.apply_with_taps(model, {**variables, "params": params}, IMAGES, train=True).logits

            return jax.vjp(logits, variables["params"])[1]

        variables = {"batch_stats": {}, **jax.eval_shape(model.init, jax.random.key(0), IMAGES)}
        # What the backward pass is given: activations, and the parameters, which are there either way.
        given, parameters = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
            for tree in (jax.eval_shape(pullback, variables), variables["params"])
        )
        return given - parameters

    assert 0 < kept_bytes(True) < kept_bytes(False) / 2


@every_family
def test_rematerialisation_leaves_the_tree_of_parameters(name):
    plain, again = (
        jax.eval_shape(small_model(name, rematerialize=choice).init, jax.random.key(0), IMAGES)
        for choice in (False, True)
    )
    assert plain == again


@pytest.mark.parametrize("rematerialize", [False, True])
def test_a_run_builds_the_backbone_that_its_configuration_asks_for(rematerialize):
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


@pytest.mark.parametrize(
    ("name", "options", "read"),
    [
        ("WILDCAT", {"modalities": 2, "alpha": 0.0}, lambda model: (model.head.modalities, model.head.alpha)),
        ("ACoL", {"threshold": 0.7, "channels": 8}, lambda model: (model.head.threshold, model.head.channels)),
        ("ADL", {"rate": 0.2}, lambda model: (model.backbone.attention_dropout.rate,)),
        ("APViT", {"tokens": 100, "keep": 0.5}, lambda model: (model.backbone.tokens, model.backbone.keep)),
    ],
)
def test_an_option_reaches_its_module(name, options, read):
    assert read(methods.build_model(name, options=options)) == tuple(options.values())


def test_an_option_is_part_of_what_the_model_says_of_itself():
    model = methods.build_model("WILDCAT", options={"kmax": 0.3})
    assert {option.name: option.value for option in model.method.options}["kmax"] == 0.3
    assert model != methods.build_model("WILDCAT")
