"""One pass through a network: gradients at named activations, and what ACoL and ADL do with labels and keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import methods
from aujax.models import forward, taps
from aujax.models.heads import AcolBranch

IMAGES = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
CLASSES = np.array([2, 0, 6])
SMALL = {"TS-CAM": {"backbone": "vit_tiny"}, "ACoL": {"backbone": "resnet_tiny", "options": {"channels": 16}}}
TAP = {"CAM": "layer5", "TS-CAM": "tokens"}


@functools.cache
def small(name):
    model = methods.build_model(name, **SMALL.get(name, {"backbone": "resnet_tiny"}))
    return model, methods.init(model, jax.random.key(0), IMAGES)


def stretched(maps):
    return (maps - maps.min()) / (maps.max() - maps.min())


@pytest.mark.parametrize("name", ["CAM", "TS-CAM"])
def test_gradient_at_the_aligned_tap_reaches_the_logits(name):
    model, variables = small(name)
    zeros = taps.zeros(model, variables, jnp.asarray(IMAGES))
    wanted = taps.select(zeros, (TAP[name],))

    @jax.jit
    def score(perturbations):
        return model.apply({**variables, "perturbations": perturbations}, jnp.asarray(IMAGES))[:, 4].sum()

    gradient = jax.grad(score)(wanted)
    length = sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda g: 0.01 * g, gradient)
    # Both heads are linear in their tap: a step along the gradient moves the score by its squared length.
    np.testing.assert_allclose(score(moved) - score(zeros), 0.01 * length, rtol=0.02)


def test_gradients_of_an_inner_layer_are_those_of_the_logit():
    model, variables = small("CAM")
    read, gradients = methods.gradients_at_taps(model, variables, jnp.asarray(IMAGES), CLASSES, at=("layer4", "layer5"))
    np.testing.assert_allclose(read.logits, methods.forward(model, variables, IMAGES).logits, atol=1e-5)
    # At the last layer, by hand: the weight of the class over the number of places.
    by_hand = np.asarray(variables["params"]["head"]["fc"]["kernel"]).T[CLASSES][:, None, None, :] / 64
    np.testing.assert_allclose(gradients["layer5"], np.broadcast_to(by_hand, gradients["layer5"].shape), rtol=1e-5)

    def logit(step):
        zeros = taps.select(taps.zeros(model, variables, jnp.asarray(IMAGES)), ("layer4",))
        moved = jax.tree.map(lambda z: z + step * gradients["layer4"], zeros)
        logits = model.apply({**variables, "perturbations": moved}, jnp.asarray(IMAGES))
        return np.take_along_axis(np.asarray(logits), CLASSES[:, None], axis=1)[:, 0]

    step = 1e-2
    slope = (logit(step) - logit(-step)) / (2 * step)
    np.testing.assert_allclose(slope, (np.asarray(gradients["layer4"]) ** 2).sum(axis=(1, 2, 3)), rtol=0.02)


def test_gradients_at_a_tap_that_does_not_exist_are_refused_with_those_that_do():
    model, variables = small("CAM")
    with pytest.raises(ValueError, match=r"must be some of layer1, .*layer5.*, got layer9"):
        methods.gradients_at_taps(model, variables, jnp.asarray(IMAGES), CLASSES, at=("layer9",))


def test_acol_erases_by_the_expression_that_is_given():
    model, variables = small("ACoL")
    given = methods.apply_with_taps(model, variables, IMAGES, expression=CLASSES)
    maps = np.asarray(given.activations["class_maps"])
    seen = np.stack([stretched(maps[i, ..., k]) < 0.1 for i, k in enumerate(CLASSES)])
    features = np.where(seen[..., None], given.activations["layer5"], 0)
    branch = {"params": variables["params"]["head"]["branch_b"]}
    expected = AcolBranch(7, 16).apply(branch, jnp.asarray(features))
    np.testing.assert_allclose(given.activations["erased_maps"], expected, atol=1e-4)
    np.testing.assert_allclose(given.activations["erased_logits"], expected.mean(axis=(1, 2)), atol=1e-4)


def test_gradients_of_an_expression_that_does_not_exist_are_nan():
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


def test_adl_drops_by_its_key_in_training_alone():
    model, variables = small("ADL")

    @jax.jit
    def train(key):
        return methods.apply_with_taps(model, variables, jnp.asarray(IMAGES), train=True, key=key).logits

    same, again, *others = (train(jax.random.key(seed)) for seed in (0, 0, 1, 2, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert any(not np.allclose(same, other) for other in others)
    np.testing.assert_allclose(
        jax.jit(methods.build_model("CAM", backbone="resnet_tiny").apply)(variables, jnp.asarray(IMAGES)),
        methods.forward(model, variables, IMAGES).logits,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("image", "expression", "message"),
    [
        (IMAGES[0], None, r"image must be \(batch, height, width, 3\) .*, got float32 \(64, 64, 3\)"),
        (IMAGES.transpose(0, 3, 1, 2), None, r"image must be .*, got float32 \(3, 3, 64, 64\)"),
        (np.zeros((1, 64, 64, 3), np.uint8), None, "normalised floats, got uint8"),
        (IMAGES, 3, r"expression must be 3 integers, one per image, got int32 \(\)"),
        (IMAGES, CLASSES[:1], r"got int32 \(1,\)"),
        (IMAGES, np.zeros(3), "got float32"),
    ],
)
def test_what_is_no_batch_is_refused_in_words(image, expression, message):
    with pytest.raises(ValueError, match=message):
        forward.check_batch(image, expression)


@pytest.mark.parametrize("at", ["layer5", ["layer5"]])
def test_one_tap_or_a_list_of_them_may_be_named(at):
    model, variables = small("CAM")
    assert set(methods.gradients_at_taps(model, variables, IMAGES, CLASSES, at=at)[1]) == {"layer5"}
