"""Sanity checks of maps: they depend on the weights, and are stable when the image changes slightly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aujax import methods
from aujax.evaluation import sanity

SMALL = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}
STAGES = {
    "resnet_tiny": ("head", "stage4", "stage3", "stage2", "stage1", "stem"),
    "vit_tiny": ("head", "norm", "block2", "block1", "block0", "pos", "cls", "patch"),
    "apvit_tiny": ("head", "norm", "block2", "block1", "block0", "cls", "patch", "projection", "extractor"),
}


@pytest.mark.parametrize("name", methods.METHODS)
def test_stages_go_from_the_head_down(name):
    backbone = SMALL[methods.METHODS[name].backbone]
    assert sanity.stages(methods.build_model(name, backbone=backbone), 64) == STAGES[backbone]


def _leaves(variables):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def test_only_the_named_stages_are_randomised():
    model = methods.build_model("CAM", backbone="resnet_tiny")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    old, new = (jax.tree.map(lambda leaf, x=x: np.full(leaf.shape, x), shapes) for x in (0.0, 1.0))
    found = _leaves(sanity.randomised(old, new, sanity.stages(model, 64)[:2]))
    assert found.keys() == _leaves(old).keys()
    fresh = {name for name, leaf in found.items() if (leaf == 1).all()}
    assert fresh == {name for name in found if "'head'" in name or "'stage4" in name}
    assert {"params", "batch_stats"} == {name.split("'")[1] for name in fresh}
    everything = _leaves(sanity.randomised(old, new, sanity.stages(model, 64)))
    assert all((leaf == 1).all() for leaf in everything.values())


def test_similarity_equals_scipy_pearson():
    first, second = np.random.default_rng(0).random((2, 3, 5, 6)).astype(np.float32)
    expected = [
        scipy.stats.pearsonr(a.reshape(-1), b.reshape(-1)).statistic for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(sanity.similarity(jnp.asarray(first), jnp.asarray(second)), expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_similarity_to_a_degenerate_map_is_0(value):
    other = jnp.arange(12.0).reshape(1, 3, 4)
    assert float(sanity.similarity(jnp.full((1, 3, 4), value), other)[0]) == 0


def _smooth(size):
    y, x = np.mgrid[:size, :size] / size
    return (np.sin(7 * y + 1) + np.cos(5 * x * (1 + y)))[None].astype(np.float32)


@pytest.mark.parametrize("name", ["mirrored", "shifted"])
@pytest.mark.parametrize("cells", [56, 28, 14, 7])
def test_a_map_that_moves_with_the_image_is_stable(name, cells):
    view = sanity.views((56, 56))[name]

    def forward(image):  # a network whose map is the mean brightness of each cell
        return image.mean(-1).reshape(1, cells, 56 // cells, cells, 56 // cells).mean((2, 4))

    image = jnp.asarray(np.repeat(_smooth(56)[..., None], 3, axis=-1))
    assert float(view.similarity(forward(image), forward(view.transform(image)))[0]) > 0.98


@pytest.mark.parametrize("name", ["mirrored", "shifted"])
def test_a_map_that_ignores_the_image_is_not_stable(name):
    stripes = jnp.asarray(np.tile(np.float32([1, 1, 0, 0]), 7)[None, None, :] * np.ones((1, 28, 1), np.float32))
    similarity = float(sanity.views((28, 28))[name].similarity(stripes, stripes)[0])
    assert similarity == pytest.approx({"mirrored": -1.0, "shifted": 0.0}[name], abs=0.1)


def test_shift_by_hand():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1) * jnp.ones((1, 1, 1, 3))
    shifted = sanity.views((3, 3))["shifted"].transform(image)[0, ..., 0]
    np.testing.assert_array_equal(shifted, [[0, 0, 1], [0, 0, 1], [3, 3, 4]])
