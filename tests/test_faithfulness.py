"""Hidden action units and highlights: a score whose evidence is known is seen through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import LANDMARKS

from aujax import codebook, faithfulness

HAPPINESS, FEAR = 1, 3
FACS = codebook.FACS
SIDE = 56
POINTS = ((LANDMARKS + 0.5) / 4 - 0.5).astype(np.float32)
CHECKS = np.stack([np.indices((SIDE, SIDE)).sum(0) % 2] * 3, axis=-1).astype(np.float32)[None]
PLACED = np.array([True])


def _contrast(image, box):
    """Returns twice the mean distance from grey within (top, bottom, left, right): 1 for checks, 0 for grey."""
    top, bottom, left, right = box
    return 2 * jnp.abs(image[:, top:bottom, left:right] - 0.5).mean((1, 2, 3))


def _score(box, expression=HAPPINESS):
    """Returns a network that sees an expression by the contrast in one box of the picture, and by nothing else."""
    return lambda image: 4.0 * _contrast(image, box)[:, None] * jax.nn.one_hot(expression, 7)[None]


MOUTH, ANYWHERE = (39, 45, 20, 36), (0, SIDE, 0, SIDE)


@functools.cache
def _effects(box=MOUTH, book=FACS, expression=HAPPINESS, filling="mean", **options):
    run = functools.partial(faithfulness.au_effects, _score(box, expression), codebook=book, filling=filling, **options)
    return jax.device_get(jax.jit(run)(CHECKS, POINTS[None], PLACED))


def _drops(effects, aus=FACS.all_aus, expression=HAPPINESS):
    return dict(zip(aus, effects.drop[0, :, expression].tolist(), strict=True))


@pytest.mark.parametrize("book", [FACS, codebook.REFERENCE], ids=lambda book: book.name)
@pytest.mark.parametrize("filling", ["blur", "mean"])
def test_score_that_sees_the_mouth_alone_loses_it_alone(book, filling):
    drops = _drops(_effects(book=book, filling=filling))
    assert all(drops[number] > 0.05 for number in (12, 23, 24, 25, 26, 27))
    assert all(abs(drops[number]) < 1e-6 for number in (1, 2, 4, 5, 7, 43))


def test_drop_by_hand():
    mask = np.asarray(jax.jit(functools.partial(_single_map, 26))(POINTS))
    kept = 1 - np.minimum(mask[MOUTH[0] : MOUTH[1], MOUTH[2] : MOUTH[3]] / 0.5, 1.0)
    before, after = (np.exp(4 * x) / (np.exp(4 * x) + 6) for x in (1.0, kept.mean()))
    assert _drops(_effects())[26] == pytest.approx(before - after, abs=1e-5)


def _single_map(number, points):
    from aujax import au_maps

    return au_maps.single_au_maps(points, [number], size=(SIDE, SIDE))[0][0]


def test_imputation_hides_as_well():
    drops = _drops(_effects(filling="road", aus=(4, 26), controls=0), aus=(4, 26))
    assert drops[26] > 0.3
    assert abs(drops[4]) < 1e-6


def test_units_with_the_same_region_share_a_pass_and_a_drop():
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


def test_all_units_and_controls_cost_at_most_a_pass_each():
    passes = []

    def score(image):
        jax.debug.callback(lambda: passes.append(1))
        return _score(MOUTH)(image)

    jax.block_until_ready(
        jax.jit(functools.partial(faithfulness.au_effects, score, codebook=FACS))(CHECKS, POINTS[None], PLACED)
    )
    jax.effects_barrier()
    assert len(passes) == 1 + 16 + 4 <= 1 + len(FACS.all_aus)


def test_controls_are_as_large_and_elsewhere():
    of_mouth, of_all = _effects(), _effects(ANYWHERE)
    assert of_mouth.control_drawn.tolist() == [[True, True, True, False]]  # AU6, AU12 and AU25
    np.testing.assert_allclose(of_mouth.control[0, :, HAPPINESS], 0.0, atol=0.02)
    own = [_drops(of_all)[number] for number in FACS.aus["Happiness"]]
    np.testing.assert_allclose(of_all.control[0, :3, HAPPINESS], own, rtol=0.15)


def test_controls_are_spread_over_a_long_list_of_units():
    effects = _effects(ANYWHERE, expression=FEAR, controls=3)
    assert effects.control_drawn.tolist() == [[True, True, True]]
    # Seven regions: those of AU1, AU5 (the fourth) and AU26.
    own = [_drops(effects, expression=FEAR)[number] for number in (1, 5, 26)]
    np.testing.assert_allclose(effects.control[0, :, FEAR], own, rtol=0.15)


def test_face_without_landmarks_has_no_effects():
    run = jax.jit(functools.partial(faithfulness.au_effects, _score(MOUTH), codebook=FACS, filling="mean"))
    both = run(np.repeat(CHECKS, 2, 0), np.stack([POINTS, POINTS]), np.array([False, True]))
    assert not both.drawn[0].any()
    assert not both.control_drawn[0].any()
    assert float(jnp.abs(both.drop[0]).max()) == 0
    np.testing.assert_allclose(both.drop[1], _effects().drop[0], atol=1e-6)
    use = faithfulness.use(both, aus=FACS.all_aus, codebook=FACS)
    assert (use.listed.tolist(), use.unlisted.tolist()) == ([False, True], [False, True])


def test_unit_without_a_place_is_told():
    with pytest.raises(ValueError, match="99 is not the FACS number"):
        faithfulness.au_effects(
            _score(MOUTH), *map(jnp.asarray, (CHECKS, POINTS[None], PLACED)), codebook=FACS, aus=(99,)
        )


def _use(drops, predicted=HAPPINESS, aus=(1, 4, 12, 15, 25), drawn=(True,) * 5, control=(0.05, 0.15)):
    probability = jax.nn.one_hot(jnp.array([predicted]), 7)
    effects = faithfulness.Effects(
        probability,
        jnp.zeros((1, 5, 7)).at[0, :, predicted].set(jnp.array(drops)),
        jnp.array([drawn]),
        jnp.zeros((1, 2, 7)).at[0, :, predicted].set(jnp.array(control)),
        jnp.array([[value > 0 for value in control]]),
    )
    return jax.tree.map(lambda x: x.tolist()[0], faithfulness.use(effects, aus=aus, codebook=FACS))


def test_use_of_the_list_by_hand():
    # Happiness lists 12 and 25; 15 has the region of 12 and counts once with it. Outside: 1 and 4.
    found = _use([0.1, 0.3, 0.4, 0.4, 0.2])
    assert found.in_codebook == pytest.approx(0.3)
    assert found.outside == pytest.approx(0.2)
    assert found.control == pytest.approx(0.1)
    assert (found.listed, found.unlisted, found.controlled) == (True, True, True)
    assert found.member == pytest.approx(1.0)
    assert found.chance == pytest.approx(2 / 4)


def test_units_that_are_not_drawn_do_not_count():
    found = _use([0.1, 0.3, 0.4, 0.4, 0.2], drawn=(True, True, False, False, True), control=(0.3, 0.0))
    assert found.in_codebook == pytest.approx(0.2)
    assert found.control == pytest.approx(0.3)
    assert found.member == 0  # 4 lowers it most
    assert found.chance == pytest.approx(1 / 3)


def test_units_that_lower_it_equally_share():
    # 1 and the region of 12 and 15: one of two regions.
    assert _use([0.4, 0.1, 0.4, 0.4, 0.2]).member == pytest.approx(1 / 2)


def test_neutral_has_no_list():
    found = _use([0.1, 0.3, 0.4, 0.4, 0.2], predicted=0)
    assert (found.listed, found.member, found.unlisted) == (False, 0, True)
    assert found.outside == pytest.approx((0.1 + 0.3 + 0.4 + 0.2) / 4)


GRID = faithfulness.GRID
BRIGHT = np.zeros((1, GRID, GRID), np.float32)
BRIGHT[:, : GRID // 2, : GRID // 2] = np.linspace(1.0, 2.0, (GRID // 2) ** 2).reshape(GRID // 2, GRID // 2)


def _quarter_score(image):
    """Returns logits whose first probability is the mean of the picture's upper left quarter."""
    chance = jnp.clip(image[:, : GRID // 2, : GRID // 2].mean((1, 2, 3)), 1e-6, 1 - 1e-6)
    return jnp.stack([jnp.log(chance), jnp.log(1 - chance)], axis=-1)


@functools.cache
def _curves():
    picture = np.repeat((BRIGHT > 0).astype(np.float32)[..., None], 3, axis=-1)
    maps = {"perfect": BRIGHT, "inverted": -BRIGHT, "flat": 0 * BRIGHT, "broken": BRIGHT + np.nan}
    run = functools.partial(faithfulness.curves, _quarter_score, filling="mean", fractions=(0.0, 0.1, 0.5, 1.0))
    return jax.device_get(jax.jit(run)(picture, maps, np.zeros(1, np.int32)))


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


def test_maps_that_say_nothing_have_a_random_order():
    for kind in ("deletion", "insertion"):
        flat, broken = (_curves()[kind][name][0] for name in ("flat", "broken"))
        np.testing.assert_array_equal(flat, broken)
        np.testing.assert_allclose(flat[2], 0.625, atol=0.05)  # half of the quarter, give or take


def test_maps_of_any_resolution_have_each_rank_once():
    rng = np.random.default_rng(0)
    for size in (7, 20, 56):
        ranks = np.asarray(faithfulness.rank(jnp.asarray(rng.random((2, size, size), np.float32)))) * GRID**2
        np.testing.assert_allclose(np.sort(ranks.reshape(2, -1)), [np.arange(GRID**2)] * 2, atol=1e-3)


def test_noise_belongs_to_the_face_and_not_to_the_batch():
    together = faithfulness.random_maps(jnp.array([3, 4]))
    np.testing.assert_array_equal(together[1], faithfulness.random_maps(jnp.array([4]))[0])
    assert float(jnp.abs(together[0] - together[1]).max()) > 0.5


def test_unknown_kind_of_curve_is_told():
    with pytest.raises(ValueError, match="kind must be deletion or insertion, got 'erasure'"):
        faithfulness.curves(
            _quarter_score, jnp.zeros((1, 28, 28, 3)), {"a": jnp.asarray(BRIGHT)}, jnp.zeros(1, int), kinds=("erasure",)
        )
