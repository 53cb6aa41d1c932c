"""Named activations: returned and differentiated by name, without effect otherwise."""

import doctest

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax.models import taps

pytestmark = pytest.mark.jax_versions


class Squares(nn.Module):
    """x -> tap `x` -> x * x -> tap `square` -> 3 * square."""

    @nn.compact
    def __call__(self, x):
        x = taps.tap(self, "x", x)
        return 3 * taps.tap(self, "square", x * x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return taps.tap(self, "sum", Squares(name="inner")(x).sum())


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 3)), jnp.float32)


def test_plain_apply_returns_the_value_alone(image):
    np.testing.assert_allclose(Squares().apply({}, image), 3 * image**2, rtol=1e-6)


def test_init_stores_no_activation_and_no_perturbation(image):
    assert Squares().init(jax.random.key(0), image) == {}


def test_activations_are_returned_by_name_across_sub_modules(image):
    _, updates = Nested().apply({}, image, mutable=["intermediates"])
    activations = taps.read(updates["intermediates"])
    assert set(activations) == {"x", "square", "sum"}
    np.testing.assert_array_equal(activations["square"], image**2)


def test_a_name_used_twice_is_refused():
    with pytest.raises(ValueError, match="must be unique within a network, got twice: layer5"):
        taps.read({"a": {"layer5": 1.0}, "b": {"layer5": 2.0}})


def test_a_perturbation_is_added_to_its_activation(image):
    moved = Squares().apply({"perturbations": {"square": jnp.ones_like(image)}}, image)
    np.testing.assert_allclose(moved, 3 * (image**2 + 1), rtol=1e-6)


def test_gradients_at_taps_are_the_derivatives_by_hand(image):
    model, zeros = Nested(), taps.zeros(Nested(), {}, image)
    gradients = jax.grad(lambda p: model.apply({"perturbations": p}, image))(zeros)
    np.testing.assert_allclose(gradients["inner"]["x"], 6 * image, rtol=1e-6)
    np.testing.assert_allclose(gradients["inner"]["square"], jnp.full_like(image, 3.0))
    assert gradients["sum"] == 1


def test_docstring_examples_run():
    assert doctest.testmod(taps).failed == 0
