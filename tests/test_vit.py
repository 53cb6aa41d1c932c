"""Vision transformers: grids, attention, precision. Their values are checked in test_pretrained.py."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import methods
from aujax.models import taps, vit

pytestmark = pytest.mark.jax_versions


@pytest.fixture(scope="module")
def variables():
    return methods.init(vit.vit_tiny(), jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)


@functools.cache
def apply(dtype):
    return jax.jit(functools.partial(vit.vit_tiny(dtype=dtype).apply, mutable=["intermediates"]))


def read(variables, images, dtype=jnp.float32):
    _, updates = apply(dtype)(variables, images)
    return taps.read(updates["intermediates"])


def test_tokens_and_attention_lie_on_the_patch_grid(variables, images):
    shapes = {name: x.shape for name, x in read(variables, images).items()}
    assert shapes == {"tokens": (2, 4, 4, 48), "attention": (2, 4, 4, 1)}


def test_backbone_returns_its_tokens(variables, images):
    output, updates = apply(jnp.float32)(variables, images)
    np.testing.assert_array_equal(output, taps.read(updates["intermediates"])["tokens"])


def test_equal_scores_give_each_patch_an_equal_share_in_every_block(variables, images):
    def zero_qkv(path, leaf):
        return jnp.zeros_like(leaf) if any(key.key == "qkv" for key in path) else leaf

    attention = read(jax.tree_util.tree_map_with_path(zero_qkv, variables), images)["attention"]
    # 16 patches and the class token share 1 in each of 3 blocks.
    np.testing.assert_allclose(attention, np.full((2, 4, 4, 1), 3 / 17), rtol=1e-6)


def test_without_position_embedding_shifted_patches_give_shifted_tokens(variables, images):
    params = variables["params"] | {"pos_embed": jnp.zeros_like(variables["params"]["pos_embed"])}
    still, moved = (read({"params": params}, x) for x in (images, jnp.roll(images, 16, axis=2)))
    for name in ("tokens", "attention"):
        np.testing.assert_allclose(moved[name], jnp.roll(still[name], 1, axis=2), atol=1e-5)


def test_position_embedding_fits_the_image_size():
    shapes = jax.eval_shape(vit.vit_tiny().init, jax.random.key(0), jnp.zeros((1, 32, 96, 3)))
    assert shapes["params"]["pos_embed"].shape == (1, 1 + 2 * 6, 48)


def test_an_image_that_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="multiples of 16, got 100x64: resize to 96x64"):
        jax.eval_shape(vit.vit_tiny().init, jax.random.key(0), jnp.zeros((1, 100, 64, 3)))


def test_bfloat16_tokens_are_near_the_float32_ones_with_float32_attention(variables, images):
    half, full = read(variables, images, jnp.bfloat16), read(variables, images)
    assert half["tokens"].dtype == jnp.bfloat16
    assert half["attention"].dtype == jnp.float32
    np.testing.assert_allclose(half["tokens"].astype(jnp.float32), full["tokens"], atol=0.1)
    np.testing.assert_allclose(half["attention"], full["attention"], rtol=0.05)


def test_rematerialisation_changes_no_number(images):
    small = functools.partial(vit.VisionTransformer, patch=16, channels=12, depth=1, heads=3)
    variables = methods.init(small(), jax.random.key(0), images)

    def outputs_and_gradients(rematerialize):
        model = small(rematerialize=rematerialize)

        def loss(params):
            _, updates = model.apply({"params": params}, images, mutable=["intermediates"])
            activations = taps.read(updates["intermediates"])
            return sum((x**2).sum() for x in activations.values()), activations

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    chex.assert_trees_all_close(outputs_and_gradients(True), outputs_and_gradients(False), rtol=1e-4, atol=1e-5)


def test_deit_small_has_timms_parameter_count():
    shapes = jax.eval_shape(vit.deit_small().init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    # timm's 22,050,664 less the 1000-class layer of 385,000.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 22_050_664 - 385_000


def test_gelu_has_the_derivative_of_its_definition():
    x = np.linspace(-5, 5, 41)
    # d/dx x Phi(x), by central differences of the definition in double precision.
    exact = [(t * 0.5 * (1 + math.erf(t / math.sqrt(2)))) for t in np.concatenate([x + 1e-5, x - 1e-5])]
    expected = (np.array(exact[:41]) - np.array(exact[41:])) / 2e-5
    np.testing.assert_allclose(jax.vmap(jax.grad(vit.gelu))(jnp.asarray(x, jnp.float32)), expected, atol=2e-6)


def test_gelu_can_be_differentiated_in_bfloat16():
    x = jnp.linspace(-4, 4, 17)
    slopes = jax.vmap(jax.grad(vit.gelu))(x.astype(jnp.bfloat16))
    assert slopes.dtype == jnp.bfloat16
    np.testing.assert_allclose(slopes.astype(jnp.float32), jax.vmap(jax.grad(vit.gelu))(x), atol=0.005)


def test_attention_is_to_the_first_tokens():
    q, k, v = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(3, 2, 16, 3, 8)))
    expected = jax.nn.dot_product_attention(q[:, :13], k[:, :13], v[:, :13])
    np.testing.assert_allclose(vit.attention(q, k, v, 13)[:, :13], expected, atol=1e-6)


def test_tokens_are_padded_to_a_multiple_of_eight_but_for_a_cpu(monkeypatch):
    x = jnp.ones((2, 17, 3))
    assert vit.padded(x) is x
    monkeypatch.setattr(vit, "for_cpu", lambda: False)
    np.testing.assert_array_equal(vit.padded(x)[..., 0], [[1.0] * 17 + [0.0] * 7] * 2)
    assert vit.padded(x[:, :16]).shape == (2, 16, 3)
