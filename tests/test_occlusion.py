"""Hidden parts of pictures: what is seen stays, and what is not seen has no say in what replaces it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import linalg

from aujax import occlusion

SIDE = 12
PICTURES = np.random.default_rng(0).random((2, SIDE, SIDE, 3)).astype(np.float32)
HOLE = np.zeros((2, SIDE, SIDE), np.float32)
HOLE[:, 3:8, 4:9] = 1.0


def _hide(image, mask, filling):
    hidden = jax.jit(occlusion.hide, static_argnames="filling")(jnp.asarray(image), jnp.asarray(mask), filling=filling)
    return np.asarray(hidden)


@pytest.mark.parametrize("filling", occlusion.FILLINGS)
def test_what_the_mask_spares_stays(filling):
    hidden = _hide(PICTURES, HOLE, filling)
    np.testing.assert_array_equal(hidden[HOLE == 0], PICTURES[HOLE == 0])
    assert (np.abs(hidden - PICTURES)[HOLE == 1] > 1e-3).mean() > 0.9


@pytest.mark.parametrize("filling", occlusion.FILLINGS)
def test_half_a_mask_hides_by_half(filling):
    half = _hide(PICTURES, HOLE / 2, filling)
    np.testing.assert_allclose(half, (PICTURES + _hide(PICTURES, HOLE, filling)) / 2, atol=1e-6)


@pytest.mark.parametrize("filling", occlusion.FILLINGS)
def test_a_picture_does_not_depend_on_the_others(filling):
    alone = occlusion.hide(jnp.asarray(PICTURES[1:]), jnp.asarray(HOLE[1:]), filling=filling)
    np.testing.assert_allclose(_hide(PICTURES * [[[[5.0]]], [[[1.0]]]], HOLE, filling)[1:], alone, atol=1e-6)


def test_mean_colour_by_hand():
    image = np.zeros((1, 2, 2, 3), np.float32)
    image[0, 0, 0] = [1.0, 0.4, 0.0]
    hidden = _hide(image, np.ones((1, 2, 2), np.float32), "mean")
    np.testing.assert_allclose(hidden, np.broadcast_to([0.25, 0.1, 0.0], (1, 2, 2, 3)), atol=1e-7)


def test_blur_keeps_a_plain_picture_up_to_its_border():
    plain = np.full((1, 9, 11, 3), 0.3, np.float32)
    np.testing.assert_allclose(_hide(plain, np.ones((1, 9, 11), np.float32), "blur"), plain, atol=1e-6)


def test_blur_takes_out_what_is_small():
    dots = np.indices((24, 24)).sum(0) % 2 * np.ones((1, 1, 1), np.float32)
    blurred = _hide(np.stack([dots] * 3, axis=-1).astype(np.float32), np.ones((1, 24, 24), np.float32), "blur")
    assert np.abs(blurred - 0.5).max() < 0.02


def test_imputation_solves_the_linear_system(monkeypatch):
    monkeypatch.setattr(occlusion, "NOISE", 0.0)
    unknown = HOLE[0] > 0
    unknown[0, :3] = True  # at the border, where some neighbours are missing
    filled = occlusion.hide(jnp.asarray(PICTURES[:1]), jnp.asarray(unknown[None], jnp.float32), filling="road")[0]
    np.testing.assert_allclose(filled, _solved(PICTURES[0], unknown), atol=1e-3)


def test_imputation_of_nearly_all_of_a_large_picture_solves_it_too(monkeypatch):
    monkeypatch.setattr(occlusion, "NOISE", 0.0)
    rng = np.random.default_rng(0)
    corners = rng.random((5, 5, 3)).astype(np.float32)
    image = np.asarray(jax.image.resize(jnp.asarray(corners), (112, 112, 3), "cubic"))
    unknown = np.kron(rng.random((14, 14)) < 0.9, np.ones((8, 8), bool))
    filled = occlusion.hide(jnp.asarray(image[None]), jnp.asarray(unknown[None], jnp.float32), filling="road")[0]
    np.testing.assert_allclose(filled, _solved(image, unknown), atol=2e-3)


def _solved(image, unknown):
    """Returns the picture whose unknown pixels are the weighted mean of their neighbours, by a sparse direct solver."""
    down, along = (sparse.diags([1.0, 1.0], [-1, 1], shape=(n, n)) for n in unknown.shape)
    beside = sparse.kron(down, sparse.eye(len(unknown[0]))) + sparse.kron(sparse.eye(len(unknown)), along)
    weights = (beside / 6 + sparse.kron(down, along) / 12).tocsr()
    hidden, solved = unknown.ravel(), image.reshape(-1, 3).astype(float)
    system = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()[hidden][:, hidden]
    solved[hidden] = linalg.spsolve(system.tocsc(), weights[hidden][:, ~hidden] @ solved[~hidden])
    return solved.reshape(image.shape)


def test_imputation_does_not_see_what_is_hidden():
    other = np.where(HOLE[..., None] > 0, 1 - PICTURES, PICTURES)
    np.testing.assert_array_equal(_hide(PICTURES, HOLE, "road"), _hide(other, HOLE, "road"))


def test_imputation_of_everything_is_the_mean_colour_with_noise(monkeypatch):
    filled = _hide(PICTURES, np.ones_like(HOLE), "road")
    expected = np.broadcast_to(PICTURES.mean((1, 2), keepdims=True), PICTURES.shape)
    np.testing.assert_allclose(filled, expected, atol=5 * occlusion.NOISE)
    assert 0.5 * occlusion.NOISE < (filled - expected).std() < 1.5 * occlusion.NOISE


def test_unknown_filling_is_told():
    with pytest.raises(ValueError, match="filling must be one of blur, mean, road, got 'grey'"):
        occlusion.hide(jnp.asarray(PICTURES), jnp.asarray(HOLE), filling="grey")
