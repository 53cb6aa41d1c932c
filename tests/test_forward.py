"""Forward passes with taps: gradients at named activations, and the effect of labels (ACoL) and random keys (ADL)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import methods
from aujax.models import forward, taps
from aujax.models.heads import AcolBranch

pytestmark = pytest.mark.jax_versions

IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
CLASSES = np.array([2, 0, 6])
SMALL = {"TS-CAM": {"backbone": "vit_tiny"}, "ACoL": {"backbone": "resnet_tiny", "options": {"channels": 16}}}
TAP = {"CAM": "layer5", "TS-CAM": "tokens"}


@functools.cache
def small(name):
    model = methods.build_model(name, **SMALL.get(name, {"backbone": "resnet_tiny"}))
    return model, methods.init(model, jax.random.key(0), IMAGES)


@functools.cache
def perturbed(name):
    """The jitted logits of the small model as a function of its perturbations."""
    model, variables = small(name)
    return jax.jit(
        lambda perturbations: model.apply({**variables, "perturbations": perturbations}, jnp.asarray(IMAGES))
    )


def logit(name, perturbations):
    """The logit of each image's class."""
    return np.take_along_axis(np.asarray(perturbed(name)(perturbations)), CLASSES[:, None], axis=1)[:, 0]


def min_max_normalize(maps):
    return (maps - maps.min()) / (maps.max() - maps.min())


@pytest.mark.parametrize("name", ["CAM", "TS-CAM"])
def test_gradient_at_the_aligned_tap_reaches_the_logits(name):
    model, variables = small(name)
    zeros = taps.zeros(model, variables, IMAGES)
    _, gradients = methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=TAP[name])
    squared_length = (np.asarray(gradients[TAP[name]]) ** 2).sum(axis=(1, 2, 3))
    moved = jax.tree.map(jnp.copy, zeros)
    moved["backbone"][TAP[name]] = 0.01 * gradients[TAP[name]]
    # Both heads are linear in their tap: a step along the gradient changes the logit by its squared length.
    np.testing.assert_allclose(logit(name, moved) - logit(name, zeros), 0.01 * squared_length, rtol=0.02)


def test_gradients_at_an_inner_layer_are_those_of_the_logit():
    model, variables = small("CAM")
    outs, gradients = methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=("layer4", "layer5"))
    zeros = taps.zeros(model, variables, IMAGES)
    np.testing.assert_allclose(outs.logits, perturbed("CAM")(zeros), atol=1e-5)
    # At the last layer, by hand: the weight of the class over the number of pixels.
    by_hand = np.asarray(variables["params"]["head"]["fc"]["kernel"]).T[CLASSES][:, None, None, :] / 16
    np.testing.assert_allclose(gradients["layer5"], np.broadcast_to(by_hand, gradients["layer5"].shape), rtol=1e-5)

    def moved(step):
        backbone = {**zeros["backbone"], "layer4": step * gradients["layer4"]}
        return logit("CAM", {**zeros, "backbone": backbone})

    step = 1e-2
    slope = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(slope, (np.asarray(gradients["layer4"]) ** 2).sum(axis=(1, 2, 3)), rtol=0.02)


def test_gradients_at_an_unknown_tap_are_refused_with_the_known_ones():
    model, variables = small("CAM")
    with pytest.raises(ValueError, match=r"must be some of layer1, .*layer5.*, got layer9"):
        methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=("layer9",))


def test_acol_erases_by_the_given_expression():
    model, variables = small("ACoL")
    outs = jax.jit(functools.partial(methods.apply_with_taps, model))(variables, IMAGES, expression=CLASSES)
    maps = np.asarray(outs.activations["class_maps"])
    kept = np.stack([min_max_normalize(maps[i, ..., k]) < 0.1 for i, k in enumerate(CLASSES)])
    features = np.where(kept[..., None], outs.activations["layer5"], 0)
    branch = {"params": variables["params"]["head"]["branch_b"]}
    expected = jax.jit(AcolBranch(7, 16).apply)(branch, features)
    np.testing.assert_allclose(outs.activations["erased_maps"], expected, atol=1e-4)
    np.testing.assert_allclose(outs.activations["erased_logits"], expected.mean(axis=(1, 2)), atol=1e-4)


def test_gradients_of_a_number_that_is_not_a_class_are_nan():
    model, variables = small("CAM")
    _, gradients = methods.gradients_at_taps(model, variables, IMAGES, np.array([0, 7, -1]), at=("layer5",))
    assert np.isnan(gradients["layer5"]).all(axis=(1, 2, 3)).tolist() == [False, True, True]


def test_gradients_of_equal_models_are_compiled_once():
    model, variables = small("CAM")
    methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=("layer5",))
    count = forward._gradients_at_taps._cache_size()
    again = methods.build_model("CAM", backbone="resnet_tiny")
    methods.gradients_at_taps(again, variables, IMAGES, CLASSES, at=("layer5",))
    assert forward._gradients_at_taps._cache_size() == count


def test_adl_drops_by_its_key_and_only_in_training():
    model, variables = small("ADL")
    # Parameters of ADL and CAM have the same tree.
    plain = methods.build_model("CAM", backbone="resnet_tiny")

    @jax.jit
    def run(key):
        trained = methods.apply_with_taps(model, variables, IMAGES, train=True, key=key).logits
        return trained, methods.forward(model, variables, IMAGES).logits, plain.apply(variables, jnp.asarray(IMAGES))

    same, again, *others = (run(jax.random.key(seed))[0] for seed in (0, 0, 1, 2, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert any(not np.allclose(same, other) for other in others)
    _, evaluated, expected = run(jax.random.key(0))
    np.testing.assert_allclose(evaluated, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "expression", "message"),
    [
        (IMAGES[0], None, r"image must be \(batch, height, width, 3\) .*, got float32 \(32, 32, 3\)"),
        (IMAGES.transpose(0, 3, 1, 2), None, r"image must be .*, got float32 \(3, 3, 32, 32\)"),
        (np.zeros((1, 64, 64, 3), np.uint8), None, "normalised floats, got uint8"),
        (IMAGES, 3, r"expression must be 3 integers, one per image, got int32 \(\)"),
        (IMAGES, CLASSES[:1], r"got int32 \(1,\)"),
        (IMAGES, np.zeros(3), "got float32"),
    ],
)
def test_an_invalid_batch_is_refused_with_the_expected_shape_and_dtype(image, expression, message):
    with pytest.raises(ValueError, match=message):
        forward.check_batch(image, expression)


@pytest.mark.parametrize("at", ["layer5", ["layer5"]])
def test_taps_are_given_by_one_name_or_a_list(at):
    model, variables = small("CAM")
    assert set(methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=at)[1]) == {"layer5"}
