import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import T1, T2, T3, reference_maps

from aujax import metrics, resize
from aujax.metrics import Mean

LEFT = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)


def _golden_columns():
    low_resolution = T1[::2, ::2]
    cam = (low_resolution - low_resolution.min()) / (low_resolution.max() - low_resolution.min())
    return [np.full((28, 28), 0.5, np.float32), T1, T2, T3, resize.bilinear(jnp.array(cam), (224, 224))]


@pytest.mark.parametrize(
    ("expression", "golden"),
    [
        ("Happiness", (0.401287, 0.153468, 0.152811, 0.042478, 0.162440)),
        ("Anger", (0.446799, 0.245381, 0.244818, 0.063408, 0.254331)),
    ],
)
def test_map_cosine_has_the_golden_values(expression, golden):
    au_map = reference_maps()[expression]
    cosines = [float(metrics.map_cosine(column, au_map)) for column in _golden_columns()]
    np.testing.assert_allclose(cosines, golden, atol=2e-3)


def test_map_cosine_by_hand():
    assert float(metrics.map_cosine(np.float32([[3, 4], [0, 0]]), LEFT)) == pytest.approx(
        3 / (5 * np.sqrt(2)), abs=1e-6
    )


def test_map_with_negative_values_is_shifted_up_by_its_minimum():
    signed = np.float32([[2, -1], [0, -1]])  # shifted: 3 0 / 1 0
    assert float(metrics.map_cosine(signed, LEFT)) == pytest.approx(4 / np.sqrt(20), abs=1e-6)


def test_positive_map_is_not_shifted():
    assert float(metrics.map_cosine(np.float32([[2, 1], [2, 1]]), LEFT)) == pytest.approx(4 / np.sqrt(20), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_map_that_says_nothing_scores_zero(value):
    assert float(metrics.map_cosine(np.full((2, 2), value, np.float32), LEFT)) == 0


def test_empty_au_map_scores_zero():
    assert float(metrics.map_cosine(LEFT, np.zeros((2, 2), np.float32))) == 0


def test_map_cosine_keeps_leading_axes():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    au_map = np.abs(np.random.default_rng(1).normal(size=(2, 3, 9, 9)).astype(np.float32))
    cosines = metrics.map_cosine(maps, au_map)
    assert cosines.shape == (2, 3)
    np.testing.assert_allclose(cosines[1, 2], metrics.map_cosine(maps[1, 2], au_map[1, 2]), atol=1e-6)


def test_mean_of_a_map_is_the_golden_global_average():
    assert float(Mean.of(T1).compute()) == pytest.approx(2.055906, abs=1e-5)


def test_mean_counts_what_the_mask_lets_through():
    mean = Mean.of(jnp.array([1.0, 2.0, jnp.nan]), where=jnp.array([True, True, False]))
    assert (float(mean.total), float(mean.count), float(mean.compute())) == (3.0, 2.0, 1.5)


def test_merged_mean_is_that_of_all_examples():
    merged = Mean.of(jnp.array([1.0])).merge(Mean.of(jnp.array([2.0, 6.0])))
    assert float(merged.compute()) == 3.0


def test_mean_of_nothing_is_zero():
    assert float(Mean.of(jnp.array([5.0]), where=jnp.array([False])).compute()) == 0


def test_correct_compares_the_largest_logit_with_the_label():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert metrics.correct(logits, jnp.array([1, 2])).tolist() == [True, False]


def test_mean_per_class_and_its_count():
    means, counts = metrics.per_class_mean(np.array([1.0, 2.0, 6.0]), np.array([0, 2, 2]), 3)
    assert means.tolist() == [1.0, 0.0, 4.0]
    assert counts.tolist() == [1, 0, 2]


def test_mean_map_per_class():
    maps = np.stack([LEFT, 3 * LEFT, 1 - LEFT])
    means, _ = metrics.per_class_mean(maps, np.array([1, 1, 0]), 2)
    np.testing.assert_array_equal(means, [1 - LEFT, 2 * LEFT])


def test_confusion_matrix_has_a_row_per_true_class():
    matrix = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
