"""Metrics: by hand, golden values, at the extremes, and against scikit-learn and SciPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from golden_face import T1, T2, T3, reference_maps
from sklearn import metrics as sklearn_metrics

from aujax import metrics, resize
from aujax.metrics import Mean

pytestmark = pytest.mark.jax_versions

REGION = np.float32([[1, 1, 0, 0], [0, 0, 0, 0]])
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
def test_cosine_of_a_zero_or_non_finite_map_is_zero(value):
    assert float(metrics.map_cosine(np.full((2, 2), value, np.float32), LEFT)) == 0


def test_cosine_with_an_empty_au_map_is_zero():
    assert float(metrics.map_cosine(LEFT, np.zeros((2, 2), np.float32))) == 0


def test_map_cosine_keeps_leading_axes():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    au_map = np.abs(np.random.default_rng(1).normal(size=(2, 3, 9, 9)).astype(np.float32))
    cosines = metrics.map_cosine(maps, au_map)
    assert cosines.shape == (2, 3)
    np.testing.assert_allclose(cosines[1, 2], metrics.map_cosine(maps[1, 2], au_map[1, 2]), atol=1e-6)


def _scores(values, au_map=REGION):
    return {name: float(value) for name, value in metrics.scores(np.float32(values), au_map).items()}


def test_scores_by_hand():
    # Scaled to [0, 1]: 1 0.5 0.75 0 / 0 0 0.25 0. In the region 1.5 of 2.5. Highest two: one in, union three.
    # Of the twelve pairs (in, out), 1 wins six and 0.5 loses one of six.
    found = _scores([[5, 3, 4, 1], [1, 1, 2, 1]])
    deviations = np.float64([5, 3, 4, 1, 1, 1, 2, 1]) - 2.25, REGION.reshape(-1) - 0.25
    pearson = (deviations[0] @ deviations[1]) / np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    # Four cells reach 0.1 and 0.2, among them both of the region; three reach 0.3 to 0.5; two, 1 and 0.75, reach 0.6
    # and 0.7; one reaches 0.8 and 0.9.
    mean_iou = (2 * 2 / 4 + 3 * 2 / 3 + 2 * 1 / 3 + 2 * 1 / 2) / 9
    expected = {"pointing": 1, "energy": 1.5 / 2.5, "iou": 1 / 3, "mean_iou": mean_iou, "auc": 11 / 12}
    expected["correlation"] = pearson
    assert found == pytest.approx(expected, abs=1e-6)


def test_perfect_map_scores_one():
    assert _scores(REGION) == pytest.approx(dict.fromkeys(metrics.SCORES, 1.0), abs=1e-6)


def test_inverted_map_has_the_lowest_scores():
    expected = {"pointing": 0, "energy": 0, "iou": 0, "mean_iou": 0, "auc": 0, "correlation": -1}
    assert _scores(1 - REGION) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0, np.nan, np.inf])
def test_constant_or_non_finite_map_has_the_degenerate_scores(value):
    assert _scores(np.full((2, 4), value)) == metrics.DEGENERATE_SCORES


def test_map_with_one_non_finite_pixel_has_the_degenerate_scores():
    assert _scores([[1, 2, 3, np.nan], [0, 0, 0, 0]]) == metrics.DEGENERATE_SCORES


def test_empty_au_map_has_the_degenerate_scores():
    assert _scores([[1, 2, 3, 4], [0, 0, 0, 0]], np.zeros_like(REGION)) == metrics.DEGENERATE_SCORES


def test_region_everywhere_has_defined_scores():
    found = _scores([[1, 2, 3, 4], [0, 0, 0, 0]], np.ones_like(REGION))
    mean_iou = (2 * 4 / 8 + 3 * 3 / 8 + 2 * 2 / 8 + 2 * 1 / 8) / 9
    expected = {"pointing": 1, "energy": 1, "iou": 1, "mean_iou": mean_iou, "auc": 0.5, "correlation": 0}
    assert found == pytest.approx(expected, abs=1e-6)


def test_region_begins_at_the_outline_of_the_au_map():
    values = [[4, 3, 0, 0], [0, 0, 0, 0]]
    assert _scores(values, np.where(REGION > 0, 0.5, 0.49).astype(np.float32))["auc"] == 1
    assert _scores(values, np.where(REGION > 0, 0.49, 0.0).astype(np.float32)) == metrics.DEGENERATE_SCORES


def test_equal_values_at_the_edge_of_the_area_count_in_part():
    # Two cells are taken: the 2, outside, and of seven equal ones, two of them in the region, one seventh each.
    common = 2 / 7
    assert _scores([[1, 1, 2, 1], [1, 1, 1, 1]])["iou"] == pytest.approx(common / (4 - common), abs=1e-6)


def test_pointing_is_the_fraction_of_equal_maxima_in_the_region():
    values = [[4, 0, 0, 4], [0, 0, 0, 0]]
    assert _scores(values)["pointing"] == 0.5
    assert _scores(np.flip(values, 1), np.flip(REGION, 1))["pointing"] == 0.5


def test_iou_of_thresholds_is_that_of_scikit_learn():
    values, inside = np.random.default_rng(3).random((2, 9, 9)).astype(np.float32)
    heights = (values - values.min()) / (values.max() - values.min())
    expected = [
        sklearn_metrics.jaccard_score((inside >= 0.5).ravel(), (heights >= threshold).ravel())
        for threshold in np.arange(1, 10) / 10
    ]
    assert _scores(values, inside)["mean_iou"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, (3, 7, 7)).astype(np.float32)  # with ties
    au_map = np.repeat(np.repeat(rng.random((3, 7, 7)), 2, axis=1), 2, axis=2).astype(np.float32)
    expected = [
        sklearn_metrics.roc_auc_score(au.reshape(-1) >= 0.5, np.kron(value, np.ones((2, 2))).reshape(-1))
        for value, au in zip(values, au_map, strict=True)
    ]
    np.testing.assert_allclose(metrics.scores(values, au_map)["auc"], expected, atol=1e-6)


def test_auc_of_cells_partly_in_the_region_is_the_weighted_one_of_scikit_learn():
    rng = np.random.default_rng(1)
    values, au_map = rng.random((5, 5)).astype(np.float32), (rng.random((15, 15)) > 0.6).astype(np.float32)
    share = au_map.reshape(5, 3, 5, 3).mean((1, 3)).reshape(-1)
    weights, labels = np.concatenate([share, 1 - share]), np.repeat([1, 0], 25)
    expected = sklearn_metrics.roc_auc_score(labels, np.tile(values.reshape(-1), 2), sample_weight=weights)
    assert _scores(values, au_map)["auc"] == pytest.approx(expected, abs=1e-6)


def test_correlation_is_that_of_scipy():
    rng = np.random.default_rng(2)
    values, au_map = rng.random((2, 6, 6)).astype(np.float32), rng.random((2, 18, 18)).astype(np.float32)
    cells = au_map.reshape(2, 6, 3, 6, 3).mean((2, 4))
    expected = [
        scipy.stats.pearsonr(a.reshape(-1), b.reshape(-1)).statistic for a, b in zip(values, cells, strict=True)
    ]
    np.testing.assert_allclose(metrics.scores(values, au_map)["correlation"], expected, atol=1e-5)


def test_scores_do_not_depend_on_scale_and_offset():
    values = np.random.default_rng(3).integers(0, 50, (2, 4)).astype(np.float32)
    assert _scores(7 * values - 100) == pytest.approx(_scores(values), abs=1e-5)


def test_scores_under_jit_and_vmap_are_those_of_each_map():
    rng = np.random.default_rng(4)
    values, au_map = rng.random((2, 3, 4, 4)).astype(np.float32), rng.random((2, 3, 8, 8)).astype(np.float32)
    found = jax.jit(jax.vmap(metrics.scores))(values, au_map)
    for name, value in _scores(values[1, 2], au_map[1, 2]).items():
        assert float(found[name][1, 2]) == pytest.approx(value, abs=1e-6)


def test_mean_of_a_map_is_the_golden_global_average():
    assert float(Mean.of(T1).compute()) == pytest.approx(2.055906, abs=1e-5)


def test_mean_counts_values_where_the_mask_is_true():
    mean = Mean.of(jnp.array([1.0, 2.0, jnp.nan]), where=jnp.array([True, True, False]))
    assert (float(mean.total), float(mean.count), float(mean.compute())) == (3.0, 2.0, 1.5)


def test_mean_without_counted_values_is_zero():
    assert float(Mean.of(jnp.array([5.0]), where=jnp.array([False])).compute()) == 0


def test_correct_compares_the_largest_logit_with_the_label():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert metrics.correct(logits, jnp.array([1, 2])).tolist() == [True, False]


def test_a_mask_of_another_shape_than_the_values_is_refused():
    with pytest.raises(ValueError, match=r"where must have the shape of the values, \(2,\), got \(1,\)"):
        inspect.unwrap(Mean.of.__func__)(Mean, jnp.ones(2), where=jnp.ones(1, bool))
