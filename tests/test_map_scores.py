"""Scores of maps against regions: by hand, at the extremes, and beside scikit-learn and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from aujax import map_scores

REGION = np.float32([[1, 1, 0, 0], [0, 0, 0, 0]])


def _scores(values, au_map=REGION):
    return {name: float(value) for name, value in map_scores.scores(np.float32(values), au_map).items()}


def test_scores_by_hand():
    # Stretched to [0, 1]: 1 0.5 0.75 0 / 0 0 0.25 0. In the region 1.5 of 2.5. Highest two: one in, union three.
    # Of the twelve pairs (in, out), 1 wins six and 0.5 loses one of six.
    found = _scores([[5, 3, 4, 1], [1, 1, 2, 1]])
    deviations = np.float64([5, 3, 4, 1, 1, 1, 2, 1]) - 2.25, REGION.reshape(-1) - 0.25
    pearson = (deviations[0] @ deviations[1]) / np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum())
    # Reached at 0.1 and 0.2 by four cells, both of the region among them; by three from 0.3 on; by the 1 and 0.75 from
    # 0.6 on; by the 1 from 0.8 on.
    mean_iou = (2 * 2 / 4 + 3 * 2 / 3 + 2 * 1 / 3 + 2 * 1 / 2) / 9
    expected = {"pointing": 1, "energy": 1.5 / 2.5, "iou": 1 / 3, "mean_iou": mean_iou, "auc": 11 / 12}
    expected["correlation"] = pearson
    assert found == pytest.approx(expected, abs=1e-6)


def test_perfect_map_scores_one():
    assert _scores(REGION) == pytest.approx(dict.fromkeys(map_scores.SCORES, 1.0), abs=1e-6)


def test_inverted_map_scores_least():
    expected = {"pointing": 0, "energy": 0, "iou": 0, "mean_iou": 0, "auc": 0, "correlation": -1}
    assert _scores(1 - REGION) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0, np.nan, np.inf])
def test_map_that_says_nothing_has_defined_scores(value):
    assert _scores(np.full((2, 4), value)) == map_scores.NOTHING


def test_map_with_one_pixel_that_is_not_finite_says_nothing():
    assert _scores([[1, 2, 3, np.nan], [0, 0, 0, 0]]) == map_scores.NOTHING


def test_empty_au_map_has_defined_scores():
    assert _scores([[1, 2, 3, 4], [0, 0, 0, 0]], np.zeros_like(REGION)) == map_scores.NOTHING


def test_region_everywhere_has_defined_scores():
    found = _scores([[1, 2, 3, 4], [0, 0, 0, 0]], np.ones_like(REGION))
    mean_iou = (2 * 4 / 8 + 3 * 3 / 8 + 2 * 2 / 8 + 2 * 1 / 8) / 9
    expected = {"pointing": 1, "energy": 1, "iou": 1, "mean_iou": mean_iou, "auc": 0.5, "correlation": 0}
    assert found == pytest.approx(expected, abs=1e-6)


def test_au_map_counts_from_its_outline_on():
    values = [[4, 3, 0, 0], [0, 0, 0, 0]]
    assert _scores(values, np.where(REGION > 0, 0.5, 0.49).astype(np.float32))["auc"] == 1
    assert _scores(values, np.where(REGION > 0, 0.49, 0.0).astype(np.float32)) == map_scores.NOTHING


def test_equal_values_at_the_edge_of_the_area_count_in_part():
    # Two cells are taken: the 2, outside, and of seven equal ones, two of them in the region, one seventh each.
    common = 2 / 7
    assert _scores([[1, 1, 2, 1], [1, 1, 1, 1]])["iou"] == pytest.approx(common / (4 - common), abs=1e-6)


def test_highest_places_of_which_one_lies_in_the_region_point_in_part():
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
    np.testing.assert_allclose(map_scores.scores(values, au_map)["auc"], expected, atol=1e-6)


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
    np.testing.assert_allclose(map_scores.scores(values, au_map)["correlation"], expected, atol=1e-5)


def test_scores_do_not_depend_on_scale_and_offset():
    values = np.random.default_rng(3).integers(0, 50, (2, 4)).astype(np.float32)
    assert _scores(7 * values - 100) == pytest.approx(_scores(values), abs=1e-5)


def test_cells_that_do_not_divide_the_map_share_its_pixels():
    # Three pixels on two cells: the middle one is halved.
    found = map_scores.shrunk(jnp.array([[1.0, 4.0, 9.0]] * 2), (2, 2))
    np.testing.assert_allclose(found, [[2.0, 22 / 3]] * 2, rtol=1e-6)


def test_scores_under_jit_and_vmap_are_those_of_each_map():
    rng = np.random.default_rng(4)
    values, au_map = rng.random((2, 3, 4, 4)).astype(np.float32), rng.random((2, 3, 8, 8)).astype(np.float32)
    found = jax.jit(jax.vmap(map_scores.scores))(values, au_map)
    for name, value in _scores(values[1, 2], au_map[1, 2]).items():
        assert float(found[name][1, 2]) == pytest.approx(value, abs=1e-6)
