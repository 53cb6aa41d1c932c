"""Heads compared with sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax.models import heads, taps
from aujax.models.heads import (
    AcolBranch,
    AcolHead,
    ClassTokenHead,
    LinearHead,
    PeakHead,
    TokenHead,
    WildcatHead,
)

pytestmark = pytest.mark.jax_versions

FEATURES = jnp.arange(2 * 3 * 3 * 2, dtype=jnp.float32).reshape(2, 3, 3, 2)


def test_linear_head_is_the_pooled_features_times_its_weights():
    kernel, bias = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]), jnp.array([0.0, 10.0, 0.0])
    got = LinearHead(3).apply({"params": {"fc": {"kernel": kernel, "bias": bias}}}, FEATURES)
    # Channel means of the two images: (8, 9) and (26, 27).
    np.testing.assert_allclose(got, [[8, 19, 7], [26, 37, 25]], rtol=1e-6)


def test_linear_head_starts_xavier_uniform_with_zero_bias():
    params = LinearHead(7).init(jax.random.key(0), jnp.zeros((1, 2, 2, 512)))["params"]["fc"]
    bound = np.sqrt(6 / (512 + 7))
    assert 0.98 * bound < np.abs(params["kernel"]).max() <= bound
    assert not params["bias"].any()


def test_token_head_sums_each_neighbourhood_and_averages():
    kernel = jnp.ones((3, 3, 1, 2)) * jnp.array([1.0, -2.0]).reshape(1, 1, 1, 2)
    variables = {"params": {"conv": {"kernel": kernel, "bias": jnp.array([0.0, 1.0])}}}
    logits, updates = TokenHead(2).apply(variables, jnp.ones((1, 3, 3, 1)), mutable=["intermediates"])
    maps = taps.read(updates["intermediates"])["class_maps"]
    # Ones seen through a 3x3 window padded with zeros: 4 in a corner, 6 at an edge, 9 in the middle.
    np.testing.assert_array_equal(maps[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_allclose(logits, [[49 / 9, 1 - 98 / 9]], rtol=1e-6)


def test_token_head_starts_within_torchs_bound():
    params = TokenHead(7).init(jax.random.key(0), jnp.zeros((1, 4, 4, 48)))["params"]["conv"]
    bound = 1 / np.sqrt(9 * 48)
    assert 0.98 * bound < np.abs(params["kernel"]).max() <= bound


@pytest.mark.parametrize(
    "head",
    [
        LinearHead(7),
        TokenHead(7),
        PeakHead(7),
        WildcatHead(7, 5, 0.5, 0.1, 0.6),
        WildcatHead(7, 5, 0.5),
        AcolHead(7, 0.1, 16),
        ClassTokenHead(7),
    ],
    ids=lambda head: type(head).__name__,
)
def test_logits_are_float32_for_features_of_any_dtype(head):
    features = jnp.zeros((2, 8) if isinstance(head, ClassTokenHead) else (2, 4, 4, 8), jnp.bfloat16)
    logits, _ = jax.eval_shape(head.init_with_output, jax.random.key(0), features)
    assert logits.dtype == jnp.float32
    assert logits.shape == (2, 7)


@pytest.fixture
def waves():
    """T1 of the published numbers: sin(0.3 y) + cos(0.2 x) + 2 on 28 x 28 pixels."""
    y, x = np.mgrid[:28, :28]
    return jnp.asarray(np.sin(0.3 * y) + np.cos(0.2 * x) + 2, jnp.float32)[None, :, :, None]


def test_wildcat_score_of_the_release(waves):
    np.testing.assert_allclose(heads.wildcat_pool(waves, kmax=0.5), [[2.839053]], rtol=5e-6)


def test_peak_score_of_the_release(waves):
    np.testing.assert_allclose(heads.peak_pool(waves), [[2.279057]], rtol=5e-6)


def test_erasing_keeps_the_pixels_that_the_release_keeps(waves):
    pixel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)  # with these kernels a branch's map is its features
    kernels = {"conv1": pixel, "conv2": pixel, "conv3": jnp.ones((1, 1, 1, 1))}
    branch = {name: {"kernel": kernel, "bias": jnp.zeros(1)} for name, kernel in kernels.items()}
    variables = {"params": {"branch_a": branch, "branch_b": branch}}
    _, updates = AcolHead(1, 0.1, 1).apply(variables, waves, mutable=["intermediates"])
    assert int((taps.read(updates["intermediates"])["erased_maps"] > 0).sum()) == 44


def test_class_token_head_is_a_linear_layer():
    kernel, bias = jnp.array([[1.0, 0.0], [2.0, -1.0]]), jnp.array([0.5, 0.0])
    got = ClassTokenHead(2).apply({"params": {"fc": {"kernel": kernel, "bias": bias}}}, jnp.array([[3.0, 4.0]]))
    np.testing.assert_allclose(got, [[11.5, -4.0]])


def wildcat_variables():
    """One channel in, two classes of two modalities out: channels 1, 2 are class 0, channels 3, 4 class 1."""
    kernel = jnp.array([1.0, 3.0, -1.0, -2.0]).reshape(1, 1, 1, 4)
    return {"params": {"to_modalities": {"kernel": kernel, "bias": jnp.array([0.0, 0.0, 1.0, 0.0])}}}


def test_modalities_of_a_class_lie_side_by_side_and_are_averaged():
    ramp = jnp.arange(4.0).reshape(1, 2, 2, 1)
    head = WildcatHead(2, 2, 1.0)
    _, updates = head.apply(wildcat_variables(), ramp, mutable=["intermediates"])
    maps = taps.read(updates["intermediates"])["class_maps"][0]
    np.testing.assert_allclose(maps[..., 0], 2.0 * ramp[0, ..., 0])
    np.testing.assert_allclose(maps[..., 1], 0.5 - 1.5 * ramp[0, ..., 0])


def test_wildcat_scores_the_largest_and_the_smallest_pixels():
    maps = jnp.array([[3.0, 9.0, 1.0, 7.0, 5.0, 0.0, 2.0, 8.0, 4.0, 6.0]]).reshape(1, 2, 5, 1)
    # Half of the ten are 9, 8, 7, 6, 5; two in ten are 0 and 1.
    np.testing.assert_allclose(heads.wildcat_pool(maps, kmax=0.5, kmin=0.2, alpha=0.6), [[(7.0 + 0.6 * 0.5) / 2]])
    np.testing.assert_allclose(heads.wildcat_pool(maps, kmax=0.5), [[7.0]])


@pytest.mark.parametrize("off", [{"kmin": 0.0, "alpha": 0.6}, {"kmin": 0.2, "alpha": 0.0}])
def test_wildcat_without_its_smallest_pixels_is_the_mean_of_the_largest(off):
    maps = jnp.arange(10.0).reshape(1, 2, 5, 1)
    np.testing.assert_allclose(heads.wildcat_pool(maps, kmax=0.5, **off), [[7.0]])


def test_shares_count_whole_pixels_and_at_least_one(waves):
    assert float(heads.wildcat_pool(waves, kmax=0.0)[0, 0]) == float(waves.max())
    # 392 and 78 of 784 pixels.
    pixels = np.sort(np.asarray(waves, np.float64).ravel())
    expected = (pixels[-392:].mean() + 0.6 * pixels[:78].mean()) / 2
    np.testing.assert_allclose(heads.wildcat_pool(waves, kmax=0.5, kmin=0.1, alpha=0.6), [[expected]], rtol=1e-5)


def test_peaks_need_a_window():
    with pytest.raises(ValueError, match=r"maps of at least 3x3, got 2x4: use a larger image"):
        heads.peak_pool(jnp.zeros((1, 2, 4, 7)))


def test_peaks_by_hand():
    maps = jnp.zeros((1, 3, 4, 1)).at[0, 1, 0, 0].set(6.0)
    # Two windows, of which the left one sees the peak.
    np.testing.assert_allclose(heads.peak_pool(maps), [[3.0]])


def test_head_of_prm_scores_a_convolution_of_one_pixel():
    variables = {"params": {"conv": {"kernel": jnp.array([2.0, -1.0]).reshape(1, 1, 1, 2), "bias": jnp.zeros(2)}}}
    features = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(PeakHead(2).apply(variables, features), [[16.0, 0.0]])


def test_class_map_is_that_of_each_images_class():
    maps = jnp.arange(2 * 2 * 2 * 3, dtype=jnp.float32).reshape(2, 2, 2, 3)
    got = heads.class_map(maps, jnp.array([2, 0]))
    np.testing.assert_array_equal(got, [[[2, 5], [8, 11]], [[12, 15], [18, 21]]])


@pytest.fixture(scope="module")
def acol():
    """The head on 5x5 features of four channels, its parameters, and its output for classes 2 and 0."""
    head = AcolHead(3, 0.4, 8)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 4)), jnp.float32)
    variables = head.init(jax.random.key(0), features)
    apply = jax.jit(lambda v, x, k: head.apply(v, x, k, mutable=["intermediates"]))
    logits, updates = apply({"params": variables["params"]}, features, jnp.array([2, 0]))
    return head, features, variables["params"], logits, taps.read(updates["intermediates"])


def test_acols_logits_are_those_of_its_first_classifier(acol):
    _, features, params, logits, activations = acol
    maps = AcolBranch(3, 8).apply({"params": params["branch_a"]}, features)
    np.testing.assert_allclose(activations["class_maps"], maps, atol=1e-5)
    np.testing.assert_allclose(logits, maps.mean(axis=(1, 2)), atol=1e-5)


def test_acols_second_classifier_gets_the_features_that_the_first_does_not_attend_to(acol):
    _, features, params, _, activations = acol
    attended = np.stack([np.asarray(activations["class_maps"])[i, ..., k] for i, k in enumerate((2, 0))])
    low, high = (f(attended, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    kept = (attended - low) / (high - low) < 0.4
    assert 0 < kept.sum() < kept.size
    expected = AcolBranch(3, 8).apply({"params": params["branch_b"]}, jnp.where(kept[..., None], features, 0.0))
    np.testing.assert_allclose(activations["erased_maps"], expected, atol=1e-5)


def test_acols_erasing_has_no_gradient(acol):
    head, features, params, _, _ = acol

    def second_branch(first_branch):
        given = {"params": {**params, "branch_a": first_branch}}
        _, updates = head.apply(given, features, jnp.array([2, 0]), mutable=["intermediates"])
        return taps.read(updates["intermediates"])["erased_logits"].sum()

    gradient = jax.jit(jax.grad(second_branch))(params["branch_a"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_acol_without_a_label_erases_by_its_prediction(acol):
    head, features, params, logits, _ = acol
    erased = []
    for expression in (None, logits.argmax(axis=-1)):
        _, updates = head.apply({"params": params}, features, expression, mutable=["intermediates"])
        erased.append(taps.read(updates["intermediates"])["erased_maps"])
    np.testing.assert_allclose(*erased, atol=1e-5)
