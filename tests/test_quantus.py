"""Scores, perturbation curves and randomisation beside Quantus, which aujax does not need: it asks for a second OpenCV.

To run it: pip install --no-deps quantus==0.6.0 pandas scikit-image lazy-loader imageio tifffile networkx cachetools
"""

import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import cams, metrics, occlusion
from aujax.evaluation import faithfulness


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


@pytest.fixture(scope="module")
def network():
    """Six gray images of 28 x 28 pixels with mean 0.5, a map without equal values for each, and a linear classifier."""
    rng = np.random.default_rng(1)
    gray = rng.random((6, 28, 28)).astype(np.float32)
    gray += 0.5 - gray.mean((1, 2), keepdims=True)
    maps = rng.permuted(np.tile(np.arange(784, dtype=np.float32), (6, 1)), axis=1).reshape(6, 28, 28)
    weights = rng.normal(size=(784, 2)).astype(np.float32)

    def logits(images):
        return images[..., 0].reshape(len(images), -1) @ weights

    def predict(images, **_):
        return np.asarray(jax.nn.softmax(logits(jnp.moveaxis(jnp.asarray(images), 1, -1))))

    theirs = types.SimpleNamespace(predict=predict, shape_input=lambda images, *_, **__: images)
    return gray, maps, logits, theirs


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_curve_is_that_of_pixel_flipping(quantus, network, kind):
    gray, maps, logits, theirs = network
    maps, expression = jnp.asarray(maps), jnp.array([0, 1, 0, 1, 0, 1])
    fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
    images = jnp.repeat(jnp.asarray(gray)[..., None], 3, axis=-1)
    ours = occlusion.perturbation_curves(
        logits, images, {"map": maps}, expression, kinds=(kind,), imputation="mean", fractions=fractions
    )[kind]["map"]
    # Insertion occludes the least attributed pixels first, seen from its end.
    order = maps if kind == "deletion" else -maps
    flipping = quantus.PixelFlipping(
        features_in_step=196, perturb_baseline=0.5, abs=False, normalise=False, disable_warnings=True
    )
    curve = flipping.evaluate_batch(theirs, gray[:, None], expression, order[:, None])
    ours = ours[:, 1:] if kind == "deletion" else ours[:, -2::-1]
    np.testing.assert_allclose(ours, curve, atol=1e-5)


def test_road_is_that_of_quantus(quantus, network, monkeypatch):
    gray, maps, logits, theirs = network
    expression = theirs.predict(gray[:, None]).argmax(1)
    monkeypatch.setattr(occlusion, "NOISE", 0.0)
    images = jnp.repeat(jnp.asarray(gray)[..., None], 3, axis=-1)
    ours = occlusion.perturbation_curves(
        logits, images, {"map": jnp.asarray(maps)}, jnp.asarray(expression), kinds=("deletion",), imputation="road",
        fractions=(0.25, 0.5, 0.75),
    )["deletion"]["map"]  # fmt: skip
    perturb = quantus.functions.perturb_func.noisy_linear_imputation
    order = np.argsort(-maps.reshape(6, -1), axis=1)
    for column, count in enumerate((196, 392, 588)):
        imputed = [perturb(image[None], indices[:count], noise=0.0) for image, indices in zip(gray, order, strict=True)]
        expected = theirs.predict(np.stack(imputed).reshape(6, 1, 28, 28))[np.arange(6), expression]
        np.testing.assert_allclose(ours[:, column], expected, atol=2e-3)
    road = quantus.ROAD(percentages=[25, 50, 75], noise=0.0, abs=False, normalise=False, disable_warnings=True)
    road.a_size = 784
    (correct,) = road.evaluate_batch(theirs, gray[:, None], expression, maps[:, None])
    np.testing.assert_array_equal(correct, ours > 0.5)


def test_similarity_after_randomisation_is_that_of_mprt(quantus, network):
    gray, _, _, _ = network
    rng = np.random.default_rng(2)
    trained, fresh = (
        {
            "params": {
                "backbone": {f"stage{i}_block": rng.normal(size=(28, 28)).astype(np.float32) for i in (1, 2)},
                "head": {"kernel": rng.normal(size=(28, 28)).astype(np.float32)},
            }
        }
        for _ in range(2)
    )

    def attention(variables):
        features = jnp.asarray(gray)
        for weight in (*variables["params"]["backbone"].values(), *variables["params"]["head"].values()):
            features = jnp.abs(jnp.tanh(features @ weight))
        return features

    stages = ("head", "stage2", "stage1")
    mixed = {name: faithfulness.randomised(trained, fresh, stages[: i + 1]) for i, name in enumerate(stages)}
    mprt = quantus.MPRT(
        similarity_func=quantus.functions.similarity_func.correlation_pearson, abs=False, normalise=False,
        disable_warnings=True,
    )  # fmt: skip
    model = types.SimpleNamespace(
        random_layer_generator_length=3,
        get_random_layer_generator=lambda **_: mixed.items(),
        get_model=lambda: trained,
    )
    mprt.explain_batch = lambda variables, *_: np.asarray(attention(variables))
    data = {"model": model, "x_batch": gray, "y_batch": np.zeros(6, int), "a_batch": np.asarray(attention(trained))}
    mprt.general_preprocess = lambda **_: data
    theirs = mprt(model=model, x_batch=gray, y_batch=data["y_batch"], a_batch=data["a_batch"])
    for name, variables in mixed.items():
        ours = faithfulness.similarity(attention(trained), attention(variables))
        np.testing.assert_allclose(ours, theirs[name], atol=1e-4)
    assert cams.degenerate(attention(trained)).sum() == 0
