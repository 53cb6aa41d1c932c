"""Occlusion: the imputations, and classifiers whose evidence is known and so must be recovered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import LANDMARKS
from scipy import sparse
from scipy.sparse import linalg

from aujax import au_maps, codebook, occlusion

pytestmark = pytest.mark.jax_versions

SMALL = 12
IMAGES = np.random.default_rng(0).random((2, SMALL, SMALL, 3)).astype(np.float32)
HOLE = np.zeros((2, SMALL, SMALL), np.float32)
HOLE[:, 3:8, 4:9] = 1.0


def _occlude(image, mask, imputation):
    hidden = jax.jit(occlusion.occlude, static_argnames="imputation")(
        jnp.asarray(image), jnp.asarray(mask), imputation=imputation
    )
    return np.asarray(hidden)


@pytest.mark.parametrize("imputation", occlusion.IMPUTATIONS)
def test_unmasked_pixels_do_not_change(imputation):
    hidden = _occlude(IMAGES, HOLE, imputation)
    np.testing.assert_array_equal(hidden[HOLE == 0], IMAGES[HOLE == 0])
    assert (np.abs(hidden - IMAGES)[HOLE == 1] > 1e-3).mean() > 0.9


@pytest.mark.parametrize("imputation", occlusion.IMPUTATIONS)
def test_mask_of_one_half_occludes_by_half(imputation):
    half = _occlude(IMAGES, HOLE / 2, imputation)
    np.testing.assert_allclose(half, (IMAGES + _occlude(IMAGES, HOLE, imputation)) / 2, atol=1e-6)


@pytest.mark.parametrize("imputation", occlusion.IMPUTATIONS)
def test_an_image_does_not_depend_on_the_rest_of_the_batch(imputation):
    alone = occlusion.occlude(jnp.asarray(IMAGES[1:]), jnp.asarray(HOLE[1:]), imputation=imputation)
    np.testing.assert_allclose(_occlude(IMAGES * [[[[5.0]]], [[[1.0]]]], HOLE, imputation)[1:], alone, atol=1e-6)


def test_mean_colour_by_hand():
    image = np.zeros((1, 2, 2, 3), np.float32)
    image[0, 0, 0] = [1.0, 0.4, 0.0]
    hidden = _occlude(image, np.ones((1, 2, 2), np.float32), "mean")
    np.testing.assert_allclose(hidden, np.broadcast_to([0.25, 0.1, 0.0], (1, 2, 2, 3)), atol=1e-7)


def test_blur_keeps_a_constant_image_up_to_its_border():
    plain = np.full((1, 9, 11, 3), 0.3, np.float32)
    np.testing.assert_allclose(_occlude(plain, np.ones((1, 9, 11), np.float32), "blur"), plain, atol=1e-6)


def test_blur_removes_small_details():
    dots = np.indices((24, 24)).sum(0) % 2 * np.ones((1, 1, 1), np.float32)
    blurred = _occlude(np.stack([dots] * 3, axis=-1).astype(np.float32), np.ones((1, 24, 24), np.float32), "blur")
    assert np.abs(blurred - 0.5).max() < 0.02


def test_road_solves_the_linear_system(monkeypatch):
    monkeypatch.setattr(occlusion, "NOISE", 0.0)
    unknown = HOLE[0] > 0
    unknown[0, :3] = True  # at the border, where some neighbours are missing
    imputed = occlusion.occlude(jnp.asarray(IMAGES[:1]), jnp.asarray(unknown[None], jnp.float32), imputation="road")[0]
    np.testing.assert_allclose(imputed, _solved(IMAGES[0], unknown), atol=1e-3)


def test_road_solves_it_for_nearly_all_of_a_large_image(monkeypatch):
    monkeypatch.setattr(occlusion, "NOISE", 0.0)
    rng = np.random.default_rng(0)
    corners = rng.random((5, 5, 3)).astype(np.float32)
    image = np.asarray(jax.image.resize(jnp.asarray(corners), (112, 112, 3), "cubic"))
    unknown = np.kron(rng.random((14, 14)) < 0.9, np.ones((8, 8), bool))
    imputed = occlusion.occlude(jnp.asarray(image[None]), jnp.asarray(unknown[None], jnp.float32), imputation="road")[0]
    np.testing.assert_allclose(imputed, _solved(image, unknown), atol=2e-3)


def _solved(image, unknown):
    """Returns the image whose unknown pixels are the weighted mean of their neighbours, by a sparse direct solver."""
    down, along = (sparse.diags([1.0, 1.0], [-1, 1], shape=(n, n)) for n in unknown.shape)
    beside = sparse.kron(down, sparse.eye(len(unknown[0]))) + sparse.kron(sparse.eye(len(unknown)), along)
    weights = (beside / 6 + sparse.kron(down, along) / 12).tocsr()
    hidden, solved = unknown.ravel(), image.reshape(-1, 3).astype(float)
    system = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()[hidden][:, hidden]
    solved[hidden] = linalg.spsolve(system.tocsc(), weights[hidden][:, ~hidden] @ solved[~hidden])
    return solved.reshape(image.shape)


def test_road_does_not_see_masked_pixels():
    other = np.where(HOLE[..., None] > 0, 1 - IMAGES, IMAGES)
    np.testing.assert_array_equal(_occlude(IMAGES, HOLE, "road"), _occlude(other, HOLE, "road"))


def test_road_of_a_fully_masked_image_is_its_mean_colour_with_noise(monkeypatch):
    imputed = _occlude(IMAGES, np.ones_like(HOLE), "road")
    expected = np.broadcast_to(IMAGES.mean((1, 2), keepdims=True), IMAGES.shape)
    np.testing.assert_allclose(imputed, expected, atol=5 * occlusion.NOISE)
    assert 0.5 * occlusion.NOISE < (imputed - expected).std() < 1.5 * occlusion.NOISE


def test_unknown_imputation_is_refused():
    with pytest.raises(ValueError, match="imputation must be one of blur, mean, road, got 'grey'"):
        occlusion.occlude(jnp.asarray(IMAGES), jnp.asarray(HOLE), imputation="grey")


HAPPINESS, FEAR = 1, 3
FACS = codebook.FACS
SIDE = 56
POINTS = ((LANDMARKS + 0.5) / 4 - 0.5).astype(np.float32)
CHECKERBOARD = np.stack([np.indices((SIDE, SIDE)).sum(0) % 2] * 3, axis=-1).astype(np.float32)[None]
HAS_LANDMARKS = np.array([True])


def _contrast(image, box):
    """Returns twice the mean distance from grey within (top, bottom, left, right): 1 for checks, 0 for grey."""
    top, bottom, left, right = box
    return 2 * jnp.abs(image[:, top:bottom, left:right] - 0.5).mean((1, 2, 3))


def _classifier(box, expression=HAPPINESS):
    """Returns a classifier whose logit of one expression is the contrast in one box of the image."""
    return lambda image: 4.0 * _contrast(image, box)[:, None] * jax.nn.one_hot(expression, 7)[None]


MOUTH, ANYWHERE = (39, 45, 20, 36), (0, SIDE, 0, SIDE)


@functools.cache
def _effects(box=MOUTH, book=FACS, expression=HAPPINESS, imputation="mean", **options):
    classifier = _classifier(box, expression)
    run = functools.partial(occlusion.occlude_aus, classifier, codebook=book, imputation=imputation, **options)
    return jax.device_get(jax.jit(run)(CHECKERBOARD, POINTS[None], HAS_LANDMARKS))


def _drops(effects, aus=FACS.all_aus, expression=HAPPINESS):
    return dict(zip(aus, effects.probability_drop[0, :, expression].tolist(), strict=True))


@pytest.mark.parametrize("book", [FACS, codebook.REFERENCE], ids=lambda book: book.name)
@pytest.mark.parametrize("imputation", ["blur", "mean"])
def test_classifier_of_the_mouth_depends_on_the_aus_of_the_mouth_alone(book, imputation):
    drops = _drops(_effects(book=book, imputation=imputation))
    assert all(drops[number] > 0.05 for number in (12, 23, 24, 25, 26, 27))
    assert all(abs(drops[number]) < 1e-6 for number in (1, 2, 4, 5, 7, 43))


def test_drop_by_hand():
    mask = np.asarray(jax.jit(functools.partial(_single_map, 26))(POINTS))
    kept = 1 - np.minimum(mask[MOUTH[0] : MOUTH[1], MOUTH[2] : MOUTH[3]] / 0.5, 1.0)
    before, after = (np.exp(4 * x) / (np.exp(4 * x) + 6) for x in (1.0, kept.mean()))
    assert _drops(_effects())[26] == pytest.approx(before - after, abs=1e-5)


def _single_map(number, points):
    return au_maps.single_au_maps(points, [number], size=(SIDE, SIDE))[0][0]


def test_road_imputation_occludes_too():
    drops = _drops(_effects(imputation="road", aus=(4, 26), num_controls=0), aus=(4, 26))
    assert drops[26] > 0.3
    assert abs(drops[4]) < 1e-6


def test_aus_with_the_same_region_share_a_pass_and_a_drop():
    assert FACS.same_region(FACS.all_aus)[9:] == (
        (14,),
        (16,),
        (17,),
        (20,),
        (23, 24, 26, 27),
        (25,),
        (43,),
    )
    drops = _drops(_effects())
    assert drops[12] == drops[15]
    assert drops[23] == drops[24] == drops[26] == drops[27] != drops[25]


@pytest.mark.parametrize("sets", [0, 1])
def test_aus_and_controls_take_at_most_one_pass_each(sets):
    passes = []
    targets = [np.ones((1, 20), bool)] * sets

    def classifier(image):
        jax.debug.callback(lambda: passes.append(1))
        return _classifier(MOUTH)(image)

    run = jax.jit(functools.partial(occlusion.occlude_aus, classifier, codebook=FACS, targets=targets))
    jax.block_until_ready(run(CHECKERBOARD, POINTS[None], HAS_LANDMARKS))
    jax.effects_barrier()
    assert len(passes) == 1 + 16 + 4 + 4 * sets


def test_controls_have_the_size_of_a_target_region_and_another_place():
    of_mouth, of_all = _effects(), _effects(ANYWHERE)
    assert of_mouth.has_control.tolist() == [[True, True, True, False]]  # AU6, AU12 and AU25
    np.testing.assert_allclose(of_mouth.control_drop[0, :, HAPPINESS], 0.0, atol=0.02)
    own = [_drops(of_all)[number] for number in FACS.aus["Happiness"]]
    np.testing.assert_allclose(of_all.control_drop[0, :3, HAPPINESS], own, rtol=0.15)


def test_the_aus_of_a_prediction_given_as_targets_change_nothing():
    targets = np.array([[number in FACS.aus["Happiness"] for number in FACS.all_aus]])
    run = functools.partial(occlusion.occlude_aus, _classifier(ANYWHERE), codebook=FACS, imputation="mean")
    found = jax.jit(lambda *face: run(*face[:3], targets=face[3:]))(CHECKERBOARD, POINTS[None], HAS_LANDMARKS, targets)
    same = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(same, found.of_targets[0], _effects(ANYWHERE))
    jax.tree.map(same, found._replace(of_targets=()), _effects(ANYWHERE))


def test_targets_of_a_face_have_controls_of_their_own():
    # Happiness is predicted, but the face shows AU4 alone: its region has one control, that of AU4's size.
    targets = np.array([[number == 4 for number in FACS.all_aus]])
    run = functools.partial(occlusion.occlude_aus, _classifier(ANYWHERE), codebook=FACS, imputation="mean")
    both = jax.jit(lambda *face: run(*face[:3], targets=face[3:]))(CHECKERBOARD, POINTS[None], HAS_LANDMARKS, targets)
    (found,) = both.of_targets
    assert found.has_control.tolist() == [[True, False, False, False]]
    assert np.array(FACS.all_aus)[np.asarray(found.is_target[0])].tolist() == [4]
    np.testing.assert_allclose(found.control_drop[0, 0, HAPPINESS], _drops(found)[4], rtol=0.15)


def test_controls_are_spread_over_a_long_list_of_aus():
    effects = _effects(ANYWHERE, expression=FEAR, num_controls=3)
    assert effects.has_control.tolist() == [[True, True, True]]
    # Seven regions: those of AU1, AU5 (the fourth) and AU26.
    own = [_drops(effects, expression=FEAR)[number] for number in (1, 5, 26)]
    np.testing.assert_allclose(effects.control_drop[0, :, FEAR], own, rtol=0.15)


def test_face_without_landmarks_has_no_effects():
    run = jax.jit(functools.partial(occlusion.occlude_aus, _classifier(MOUTH), codebook=FACS, imputation="mean"))
    both = run(np.repeat(CHECKERBOARD, 2, 0), np.stack([POINTS, POINTS]), np.array([False, True]))
    assert not both.has_region[0].any()
    assert not both.has_control[0].any()
    assert float(jnp.abs(both.probability_drop[0]).max()) == 0
    np.testing.assert_allclose(both.probability_drop[1], _effects().probability_drop[0], atol=1e-6)
    summary = occlusion.target_au_summary(both, aus=FACS.all_aus, codebook=FACS)
    assert (summary.has_target.tolist(), summary.has_non_target.tolist()) == ([False, True], [False, True])


def test_unknown_au_is_refused():
    with pytest.raises(ValueError, match="99 is not the FACS number"):
        occlusion.occlude_aus(
            _classifier(MOUTH), *map(jnp.asarray, (CHECKERBOARD, POINTS[None], HAS_LANDMARKS)), codebook=FACS, aus=(99,)
        )


def _summary(drops, predicted=HAPPINESS, aus=(1, 4, 12, 15, 25), has_region=(True,) * 5, control=(0.05, 0.15)):
    probability = jax.nn.one_hot(jnp.array([predicted]), 7)
    effects = occlusion.Effects(
        probability,
        jnp.zeros((1, 5, 7)).at[0, :, predicted].set(jnp.array(drops)),
        jnp.array([has_region]),
        jnp.zeros((1, 2, 7)).at[0, :, predicted].set(jnp.array(control)),
        jnp.array([[value > 0 for value in control]]),
        jnp.array([[number in (12, 15, 25) for number in aus]]) & (predicted == HAPPINESS),
    )
    return jax.tree.map(lambda x: x.tolist()[0], occlusion.target_au_summary(effects, aus=aus, codebook=FACS))


def test_target_au_summary_by_hand():
    # Targets of Happiness: 12 and 25; 15 has the region of 12 and counts once with it. Non-targets: 1 and 4.
    summary = _summary([0.1, 0.3, 0.4, 0.4, 0.2])
    assert summary.target_drop == pytest.approx(0.3)
    assert summary.non_target_drop == pytest.approx(0.2)
    assert summary.control_drop == pytest.approx(0.1)
    assert (summary.has_target, summary.has_non_target, summary.has_control) == (True, True, True)
    assert summary.top_is_target == pytest.approx(1.0)
    assert summary.target_share == pytest.approx(2 / 4)


def test_aus_without_a_region_do_not_count():
    summary = _summary([0.1, 0.3, 0.4, 0.4, 0.2], has_region=(True, True, False, False, True), control=(0.3, 0.0))
    assert summary.target_drop == pytest.approx(0.2)
    assert summary.control_drop == pytest.approx(0.3)
    assert summary.top_is_target == 0  # the largest drop is that of AU4
    assert summary.target_share == pytest.approx(1 / 3)


def test_aus_with_equal_drops_share_the_top():
    # 1 and the region of 12 and 15: one of two regions.
    assert _summary([0.4, 0.1, 0.4, 0.4, 0.2]).top_is_target == pytest.approx(1 / 2)


def test_neutral_has_no_target_aus():
    summary = _summary([0.1, 0.3, 0.4, 0.4, 0.2], predicted=0)
    assert (summary.has_target, summary.top_is_target, summary.has_non_target) == (False, 0, True)
    assert summary.non_target_drop == pytest.approx((0.1 + 0.3 + 0.4 + 0.2) / 4)


GRID = occlusion.GRID
BRIGHT = np.zeros((1, GRID, GRID), np.float32)
BRIGHT[:, : GRID // 2, : GRID // 2] = np.linspace(1.0, 2.0, (GRID // 2) ** 2).reshape(GRID // 2, GRID // 2)


def _quarter_classifier(image):
    """Returns logits whose first probability is the mean of the image's upper left quarter."""
    chance = jnp.clip(image[:, : GRID // 2, : GRID // 2].mean((1, 2, 3)), 1e-6, 1 - 1e-6)
    return jnp.stack([jnp.log(chance), jnp.log(1 - chance)], axis=-1)


@functools.cache
def _curves():
    image = np.repeat((BRIGHT > 0).astype(np.float32)[..., None], 3, axis=-1)
    maps = {"perfect": BRIGHT, "inverted": -BRIGHT, "constant": 0 * BRIGHT, "not finite": BRIGHT + np.nan}
    options = {"imputation": "mean", "fractions": (0.0, 0.1, 0.5, 1.0)}
    run = functools.partial(occlusion.perturbation_curves, _quarter_classifier, **options)
    return jax.device_get(jax.jit(run)(image, maps, np.zeros(1, np.int32)))


def test_curves_by_hand():
    # A tenth of 784 cells is 78.4: 79 of the quarter's 196. The mean colour is 1/4.
    lost = 0.75 * 79 / 196
    expected = {
        "deletion": {"perfect": [1.0, 1 - lost, 0.25, 0.25], "inverted": [1.0, 1.0, 1.0, 0.25]},
        "insertion": {"perfect": [0.25, 0.25 + lost, 1.0, 1.0], "inverted": [0.25, 0.25, 0.25, 1.0]},
    }
    for kind, by_map in expected.items():
        for name, curve in by_map.items():
            np.testing.assert_allclose(_curves()[kind][name][0], curve, atol=1e-5)


def test_degenerate_maps_have_a_random_order():
    for kind in ("deletion", "insertion"):
        constant, broken = (_curves()[kind][name][0] for name in ("constant", "not finite"))
        np.testing.assert_array_equal(constant, broken)
        np.testing.assert_allclose(constant[2], 0.625, atol=0.05)  # half of the quarter, give or take


def test_maps_of_any_resolution_have_each_rank_once():
    rng = np.random.default_rng(0)
    for size in (7, 20, 56):
        ranks = np.asarray(occlusion.rank_cells(jnp.asarray(rng.random((2, size, size), np.float32)))) * GRID**2
        np.testing.assert_allclose(np.sort(ranks.reshape(2, -1)), [np.arange(GRID**2)] * 2, atol=1e-3)


def test_random_map_depends_on_the_face_and_not_on_the_batch():
    together = occlusion.random_maps(jnp.array([3, 4]))
    np.testing.assert_array_equal(together[1], occlusion.random_maps(jnp.array([4]))[0])
    assert float(jnp.abs(together[0] - together[1]).max()) > 0.5


def test_unknown_kind_of_curve_is_refused():
    with pytest.raises(ValueError, match="kind must be deletion or insertion, got 'erasure'"):
        occlusion.perturbation_curves(
            _quarter_classifier,
            jnp.zeros((1, 28, 28, 3)),
            {"a": jnp.asarray(BRIGHT)},
            jnp.zeros(1, int),
            kinds=("erasure",),
        )
