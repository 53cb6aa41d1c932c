import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import T1, T2, T3, reference_maps
from jax.sharding import AxisType, Mesh, PartitionSpec

from aujax import losses, resize
from aujax.losses import Term

pytestmark = pytest.mark.jax_versions

GOLDEN_FEATURES = np.stack([T1, T2, T3])[..., None]
HAS_MAP = np.array([True, True, False])


def _golden_maps():
    maps = reference_maps()
    return np.stack([maps["Happiness"], maps["Anger"], maps["Neutral"]])


def _random(shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_alignment_has_the_golden_values():
    values = losses.au_alignment(GOLDEN_FEATURES, _golden_maps(), where=HAS_MAP)
    np.testing.assert_allclose(values, [0.8517642, 1.3566890, 0.0], atol=1e-3)


def test_weighted_batch_has_the_golden_loss():
    values = losses.au_alignment(GOLDEN_FEATURES, _golden_maps(), where=HAS_MAP)
    total, _ = losses.composite({"alignment": Term(values, 4.0, HAS_MAP)})
    assert float(total) == pytest.approx(4.4169064, abs=5e-3)


@pytest.mark.parametrize(
    ("expression", "total", "highest", "inner", "mouth", "coarse_total"),
    [
        ("Happiness", 79.649864, 0.988022, 0.0, 0.668531, 18.467606),
        ("Anger", 87.979736, 0.969218, 0.424447, 0.893902, 20.407637),
    ],
)
def test_map_at_the_size_of_the_features_has_the_golden_values(expression, total, highest, inner, mouth, coarse_total):
    drawn = jnp.array(reference_maps()[expression])
    small, smaller = resize.torch_aligned(drawn, (28, 28)), resize.torch_aligned(drawn, (14, 14))
    assert float(small.sum()) == pytest.approx(total, rel=0.01)
    assert float(smaller.sum()) == pytest.approx(coarse_total, rel=0.01)
    np.testing.assert_allclose([small.max(), small[9, 9], small[20, 14]], [highest, inner, mouth], atol=0.01)


def test_alignment_by_hand():
    features = jnp.array([[[1.0, 3.0], [0.0, 2.0]], [[4.0, 0.0], [2.0, 0.0]]])  # channel means 2 1 / 2 1
    au_map = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    value = losses.au_alignment(features, au_map)
    assert float(value) == pytest.approx(1 - 4 / (np.sqrt(10) * np.sqrt(2)), abs=1e-6)


def test_alignment_does_not_depend_on_the_scale_of_the_features():
    features, au_map = _random((5, 6, 3)), jnp.abs(_random((20, 24), 1))
    weak, strong = (losses.au_alignment(scale * features, au_map) for scale in (1e-3, 1e3))
    np.testing.assert_allclose(weak, strong, rtol=1e-5)


def test_opposite_features_have_the_opposite_cosine():
    features, au_map = _random((5, 6, 3)), jnp.abs(_random((20, 24), 1))
    both = losses.au_alignment(features, au_map) + losses.au_alignment(-features, au_map)
    assert float(both) == pytest.approx(2.0, abs=1e-5)


def test_masked_example_has_no_loss_and_no_gradient():
    features, au_map = _random((2, 5, 5, 3)), jnp.abs(_random((2, 20, 20), 1))
    where = jnp.array([True, False])
    gradient = jax.grad(lambda x: losses.au_alignment(x, au_map, where=where).sum())(features)
    assert losses.au_alignment(features, au_map, where=where)[1] == 0
    assert not gradient[1].any()
    assert gradient[0].any()


def test_masked_map_may_be_infinite():
    features, au_map = _random((2, 5, 5, 3)), jnp.ones((2, 20, 20)).at[1].set(jnp.inf)
    where = jnp.array([True, False])
    value, gradient = jax.value_and_grad(lambda x: losses.au_alignment(x, au_map, where=where).sum())(features)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("empty", ["features", "map", "both"])
def test_all_zero_input_has_loss_1_and_finite_gradients(empty):
    features = jnp.zeros((5, 5, 3)) if empty != "map" else _random((5, 5, 3))
    au_map = jnp.zeros((20, 20)) if empty != "features" else jnp.ones((20, 20))
    value, gradients = jax.value_and_grad(losses.au_alignment, argnums=(0, 1))(features, au_map)
    assert value == 1
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_features_are_computed_in_float32():
    features, au_map = _random((14, 14, 64)).astype(jnp.bfloat16), jnp.abs(_random((56, 56), 1))
    value = losses.au_alignment(features, au_map)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, losses.au_alignment(features.astype(jnp.float32), au_map), rtol=1e-6)


def test_alignment_keeps_leading_axes():
    features, au_map = _random((2, 3, 5, 5, 4)), jnp.abs(_random((2, 3, 20, 20), 1))
    values = losses.au_alignment(features, au_map)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values, jax.vmap(jax.vmap(losses.au_alignment))(features, au_map), atol=1e-6)


def test_alignment_refuses_other_leading_axes():
    unchecked = inspect.unwrap(losses.au_alignment)  # the tests' own shape checker would answer first
    with pytest.raises(ValueError, match=r"features \(2, 5, 5, 3\) and au_map \(3, 9, 9\) must share their leading"):
        unchecked(_random((2, 5, 5, 3)), _random((3, 9, 9)))


def test_a_mask_of_another_shape_is_refused():
    unchecked = inspect.unwrap(losses.au_alignment)
    with pytest.raises(ValueError, match=r"where must have one value per AU map, shape \(2,\), got \(2, 1\)"):
        unchecked(_random((2, 5, 5, 3)), _random((2, 9, 9)), where=jnp.ones((2, 1), bool))


def test_a_label_beyond_the_classes_has_no_loss():
    # Labels of eight classes on a head of seven: 0 would train on the others and go unnoticed.
    values = losses.cross_entropy(jnp.zeros((3, 7)), jnp.array([6, 7, -1]))
    np.testing.assert_allclose(values, [np.log(7), np.nan, np.nan], rtol=1e-6)


def test_cross_entropy_by_hand():
    logits = jnp.array([[np.log(1.0), np.log(2.0), np.log(5.0)]] * 2, jnp.float32)  # probabilities 1/8 2/8 5/8
    values = losses.cross_entropy(logits, jnp.array([0, 2]))
    np.testing.assert_allclose(values, [np.log(8), np.log(8 / 5)], rtol=1e-6)


def test_smoothed_cross_entropy_by_hand():
    logits = jnp.array([[0.0, np.log(3.0)]], jnp.float32)  # probabilities 1/4 3/4
    value = losses.cross_entropy(logits, jnp.array([1]), label_smoothing=0.2)  # target 0.1 0.9
    np.testing.assert_allclose(value, [0.1 * np.log(4) + 0.9 * np.log(4 / 3)], rtol=1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    np.testing.assert_allclose(losses.cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1])), [1e4])


def test_composite_is_the_weighted_sum_of_masked_means_by_name():
    terms = {
        "cross_entropy": Term(jnp.array([1.0, 2.0, 9.0]), where=jnp.array([True, True, False])),
        "alignment": Term(jnp.array([4.0, 8.0, 9.0]), 0.5, jnp.array([False, True, False])),
    }
    total, means = losses.composite(terms)
    assert float(total) == 1.5 + 0.5 * 8.0
    assert {name: (float(mean.total), float(mean.count)) for name, mean in means.items()} == {
        "cross_entropy": (3.0, 2.0),
        "alignment": (8.0, 1.0),
    }


def test_term_without_a_counted_example_adds_nothing():
    def loss(values):
        return losses.composite({"a": Term(values, 3.0, jnp.zeros(2, bool))})[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array([1.0, 2.0]))
    assert value == 0
    assert not gradient.any()


def test_layers_are_averaged_or_summed():
    layers = [jnp.array([1.0, 2.0]), jnp.array([3.0, 6.0])]
    np.testing.assert_array_equal(losses.over_layers(layers), [2.0, 4.0])
    np.testing.assert_array_equal(losses.over_layers(layers, "sum"), [4.0, 8.0])


def _total(values, where, axis_name=None):
    return losses.composite({"a": Term(values, 2.0, where)}, axis_name=axis_name)[0]


def test_composite_over_devices_equals_the_whole_batch():
    values, where = jnp.arange(8.0), jnp.arange(8) < 3  # the counted examples are not spread evenly
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",), axis_types=(AxisType.Auto,))
    shard, whole = PartitionSpec("data"), PartitionSpec()
    over_devices = jax.shard_map(lambda v, w: _total(v, w, "data"), mesh=mesh, in_specs=(shard, shard), out_specs=whole)
    assert float(jax.jit(over_devices)(values, where)) == float(_total(values, where)) == 2.0


def test_composite_over_a_mapped_axis_equals_the_whole_batch():
    values, where = jnp.arange(8.0), jnp.arange(8) < 3
    parts = jax.vmap(lambda v, w: _total(v, w, "parts"), axis_name="parts")(values.reshape(4, 2), where.reshape(4, 2))
    np.testing.assert_array_equal(parts, jnp.full(4, 2.0))


def test_losses_do_not_import_flax():
    command = "import sys, aujax.losses; print('flax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_mixed_labels_weigh_the_cross_entropies_of_both():
    logits, lam = _random((3, 7)), 0.3
    first, second = jnp.array([0, 3, 6]), jnp.array([2, 2, 1])
    target = lam * jax.nn.one_hot(first, 7) + (1 - lam) * jax.nn.one_hot(second, 7)
    expected = lam * losses.cross_entropy(logits, first) + (1 - lam) * losses.cross_entropy(logits, second)
    np.testing.assert_allclose(losses.soft_cross_entropy(logits, target), expected, rtol=1e-5)
