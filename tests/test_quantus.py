"""Scores of maps beside those of Quantus, which aujax does not need: its package asks for a second OpenCV.

To run it: pip install --no-deps quantus==0.6.0 pandas scikit-image lazy-loader imageio tifffile networkx cachetools
"""

import warnings

import numpy as np
import pytest

from aujax import metrics


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus", reason="needs Quantus; see the head of this file")


@pytest.fixture(scope="module")
def faces():
    """Twenty maps from 0 to 1 without equal values, and their regions of whole cells."""
    rng = np.random.default_rng(0)
    maps = rng.random((20, 7, 9)).astype(np.float32)
    maps = (maps - maps.min((1, 2), keepdims=True)) / np.ptp(maps, axis=(1, 2), keepdims=True)
    return maps, (rng.random(maps.shape) > rng.uniform(0.2, 0.9, (20, 1, 1))).astype(np.float32)


@pytest.mark.parametrize(
    ("score", "metric", "ours"),
    [
        ("pointing", "PointingGame", lambda theirs: theirs),
        ("energy", "RelevanceMassAccuracy", lambda theirs: theirs),
        # Theirs is the share of the region that is among as many highest values: intersection over the region.
        ("iou", "RelevanceRankAccuracy", lambda theirs: theirs / (2 - theirs)),
        ("auc", "AUC", lambda theirs: theirs),
    ],
)
def test_score_is_that_of_quantus(quantus, faces, score, metric, ours):
    maps, region = faces
    theirs = getattr(quantus, metric)(disable_warnings=True).evaluate_batch(a_batch=maps, s_batch=region)
    np.testing.assert_allclose(metrics.scores(maps, region)[score], ours(np.float64(theirs)), atol=1e-6)
