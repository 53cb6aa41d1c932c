import colorsys
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import LANDMARKS

from aujax import augment
from aujax.augment import Policy

pytestmark = pytest.mark.jax_versions

SIZE = 48
ORDER = jnp.arange(4)
NOTHING = Policy(**{field.name: 0.0 for field in dataclasses.fields(Policy) if field.name != "erase_area"})
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _only(**options):
    return Policy(**{**vars(NOTHING), **options})


def _image(low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, (SIZE, SIZE, 3)).astype(np.float32)


def _stored():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def _own():
    """Returns every pixel's own (y, x)."""
    return np.mgrid[:SIZE, :SIZE].astype(np.float32)


def _keys(count):
    return jax.random.split(jax.random.key(0), count)


@functools.partial(jax.jit, static_argnames=("policy",))
def _coordinates(keys, policy):
    draw = functools.partial(augment.random_coordinates, source=(SIZE, SIZE), size=SIZE, policy=policy)
    return jax.vmap(draw)(keys)


@functools.partial(jax.jit, static_argnames=("policy", "size"))
def _moved(keys, image, au_map, policy, size=SIZE):
    def move(key):
        source = augment.random_coordinates(key, au_map.shape, size=size, policy=policy)
        return augment.warp(image, au_map, source)

    return jax.vmap(move)(keys)


@functools.partial(jax.jit, static_argnames=("policy",))
def _colored(key, image, order, policy):
    return augment.random_colors(key, order, image, policy=policy)


@functools.partial(jax.jit, static_argnames=("policy",))
def _erased(keys, image, policy):
    return jax.vmap(lambda key: augment.random_erasing(key, image, policy=policy))(keys)


@functools.partial(jax.jit, static_argnames=("policy",))
def _views(keys, image, au_map, policy):
    draw = functools.partial(augment.training_view, size=SIZE, policy=policy)
    return jax.vmap(draw, in_axes=(0, None, None, None))(keys, ORDER, image, au_map)


def test_pixels_own_coordinates_return_image_and_map_exactly():
    image, au_map = _image(), _image()[..., 0]
    warped_image, warped_map = jax.jit(augment.warp)(image, au_map, _own())
    np.testing.assert_array_equal(warped_image, image)
    np.testing.assert_array_equal(warped_map, au_map)


def test_image_is_interpolated_and_the_map_sampled_at_the_nearest_pixel():
    image = jnp.array([[0.0, 1.0], [2.0, 4.0]])[..., None].repeat(3, axis=-1)
    coordinates = jnp.array([[[0.5, 0.0]], [[0.25, 0.6]]])  # (y, x) = (0.5, 0.25) and (0, 0.6)
    warped_image, warped_map = jax.jit(augment.warp)(image, image[..., 0], coordinates)
    np.testing.assert_allclose(warped_image[0, :, 0], [0.75 * 1.0 + 0.25 * 2.5, 0.6], atol=1e-6)
    np.testing.assert_array_equal(warped_map[0], [2.0, 1.0])


def test_outside_the_image_is_black_and_zero():
    coordinates = jnp.array([[[-1.0, 2.0, 0.0]], [[0.0, 0.0, 9.0]]])
    image, au_map = jax.jit(augment.warp)(jnp.ones((2, 2, 3)), jnp.ones((2, 2)), coordinates)
    assert not image.any()
    assert not au_map.any()


def test_crop_keeps_the_given_fraction_of_the_area_inside_the_image():
    y, x = np.asarray(_coordinates(_keys(200), _only(crop=0.2))).swapaxes(0, 1)
    steps = y[:, 1, 0] - y[:, 0, 0]
    assert 0.8 - 1e-4 <= steps.min() ** 2 < 0.82
    assert 0.98 < steps.max() ** 2 <= 1 + 1e-4
    np.testing.assert_allclose(np.diff(x, axis=2), np.broadcast_to(steps[:, None, None], (200, 48, 47)), atol=1e-4)
    for axis in (y, x):
        assert (axis.min((1, 2)) >= steps / 2 - 0.5 - 1e-3).all()
        assert (axis.max((1, 2)) <= 47.5 - steps / 2 + 1e-3).all()
        assert np.ptp(axis.min((1, 2))) > 3


def test_rotation_turns_about_the_centre_by_at_most_its_angle():
    y, x = np.asarray(_coordinates(_keys(200), _only(rotation=6.0, rotation_rate=1.0))).swapaxes(0, 1) - 23.5
    grid = np.arange(48) - 23.5
    radius = np.hypot(*np.meshgrid(grid, grid))
    np.testing.assert_allclose(np.hypot(y, x), np.broadcast_to(radius, y.shape), atol=1e-4)
    angles = np.rad2deg(np.arctan2(y[:, -1, -1], x[:, -1, -1])) - 45
    assert -6.001 <= angles.min() < -5.5
    assert 5.5 < angles.max() <= 6.001


def test_flip_mirrors_image_and_map():
    image, au_map = _image(), _image()[..., 0]
    views, maps = _moved(_keys(1), image, au_map, _only(flip_rate=1.0))
    np.testing.assert_allclose(views[0], image[:, ::-1], atol=1e-6)
    np.testing.assert_array_equal(maps[0], au_map[:, ::-1])


@pytest.mark.parametrize(("option", "other"), [("flip_rate", {}), ("rotation_rate", {"rotation": 6.0})])
def test_rate_of_flip_and_rotation_is_their_frequency(option, other):
    def moved(rate):
        coordinates = np.asarray(_coordinates(_keys(400), _only(**{option: rate}, **other)))
        return np.abs(coordinates - _own()).max((1, 2, 3)) > 1e-3

    assert not moved(0.0).any()
    assert moved(1.0).mean() > 0.99
    assert 0.15 < moved(0.25).mean() < 0.35


def test_blob_at_a_landmark_stays_at_the_same_place_of_image_and_map():
    x, y = LANDMARKS[30] * 48 / 224  # tip of the nose
    rows, columns = np.mgrid[:48, :48]
    blob = jnp.array(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50), jnp.float32)
    moves = _only(rotation=6.0, rotation_rate=0.5, crop=0.2, flip_rate=0.5)
    views, maps = _moved(_keys(50), jnp.broadcast_to(blob[..., None], (48, 48, 3)), blob, moves)

    def centres(images):
        weights = np.asarray(images) / np.asarray(images).sum((1, 2), keepdims=True)
        return np.stack([(weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))])

    np.testing.assert_allclose(centres(views[..., 0]), centres(maps), atol=0.3)
    assert np.ptp(centres(maps), axis=1).min() > 2


def test_grayscale_is_the_luma_in_three_channels():
    image = _image()
    expected = sum(weight * image[..., channel] for channel, weight in enumerate(LUMA))
    np.testing.assert_allclose(augment.grayscale(jnp.array(image)), np.stack([expected] * 3, -1), atol=1e-6)


def _jittered(image, order=ORDER, key=0, **options):
    return np.asarray(_colored(jax.random.key(key), image, order, _only(jitter_rate=1.0, **options)))


def test_brightness_multiplies_every_pixel_by_one_factor():
    image = _image(0.1, 0.6)
    factors = _jittered(image, brightness=0.4) / image
    np.testing.assert_allclose(factors, np.full_like(factors, factors[0, 0, 0]), rtol=1e-5)
    assert 0.6 <= factors[0, 0, 0] <= 1.4
    assert abs(factors[0, 0, 0] - 1) > 0.01


def test_contrast_scales_distances_from_the_mean_luma():
    image = _image(0.4, 0.6)
    grey = (image @ np.float32(LUMA)).mean()
    factors = (_jittered(image, contrast=0.4) - grey) / (image - grey)
    np.testing.assert_allclose(np.median(factors), factors, atol=0.02)
    assert 0.6 <= np.median(factors) <= 1.4
    assert abs(np.median(factors) - 1) > 0.01


def test_saturation_scales_distances_from_the_pixels_own_luma():
    image = _image(0.3, 0.6)
    luma = (image @ np.float32(LUMA))[..., None]
    changed = _jittered(image, saturation=0.4)
    factor = ((changed - luma) * (image - luma)).sum() / ((image - luma) ** 2).sum()
    np.testing.assert_allclose(changed, luma + factor * (image - luma), atol=1e-5)
    assert 0.6 <= factor <= 1.4
    assert abs(factor - 1) > 0.01


def test_hue_rotates_by_one_angle_as_in_colorsys():
    image = _image()
    changed = _jittered(image, hue=0.1)
    turn = colorsys.rgb_to_hsv(*changed[0, 0])[0] - colorsys.rgb_to_hsv(*image[0, 0])[0]
    for before, after in zip(image[::7, ::7].reshape(-1, 3), changed[::7, ::7].reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=1e-4)
    assert 0.001 < abs((turn + 0.5) % 1 - 0.5) <= 0.1


def test_hue_of_gray_pixels_is_unchanged():
    image = np.broadcast_to(_image()[..., :1], (48, 48, 3))
    np.testing.assert_allclose(_jittered(image, hue=0.1), image, atol=1e-6)


def test_order_of_the_colors_matters():
    options = {"saturation": 0.4, "hue": 0.1}
    forward, backward = (_jittered(_image(), order, **options) for order in (ORDER, ORDER[::-1]))
    assert np.abs(forward - backward).max() > 1e-3


def test_rate_of_jitter_is_its_frequency():
    image = _image()

    def changed(rate):
        jittered = [_colored(key, image, ORDER, _only(brightness=0.4, jitter_rate=rate)) for key in _keys(40)]
        return np.abs(np.stack(jittered) - image).max((1, 2, 3)) > 1e-4

    assert not changed(0.0).any()
    assert changed(1.0).mean() > 0.9
    assert 0.3 < changed(0.5).mean() < 0.7


def test_rate_of_gray_is_its_frequency():
    image, au_map = _stored(), _image()[..., 0]

    def gray(rate):
        views, _ = _views(_keys(100), image, au_map, _only(gray_rate=rate))
        return np.ptp(np.asarray(views), axis=3).max((1, 2)) < 1e-6

    assert not gray(0.0).any()
    assert gray(1.0).all()
    assert 0.1 < gray(0.2).mean() < 0.3


def test_erasing_fills_one_box_of_the_given_area_and_leaves_the_rest():
    image = _image()
    erased = np.asarray(_erased(_keys(100), image, _only(erase_rate=1.0)))
    differs = (erased != image).any(-1)
    for changed in differs:
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert changed.sum() == len(rows) * len(columns)
    shares = differs.mean((1, 2))
    assert 0.01 < shares.min() < 0.08  # 0.02 and 0.33, give or take the rounding to whole pixels
    assert 0.25 < shares.max() < 0.36


def test_erased_boxes_have_the_published_aspect_ratios():
    image = np.zeros((96, 96, 3), np.float32)  # of which no random area of the least ratio is wider
    differs = (np.asarray(_erased(_keys(300), image, _only(erase_rate=1.0, erase_area=(0.05, 0.25)))) != 0).any(-1)
    ratios = np.array([changed.any(1).sum() / changed.any(0).sum() for changed in differs])
    assert 0.26 < ratios.min() < 0.36  # 0.3 and 3.3, give or take the rounding to whole pixels
    assert 2.9 < ratios.max() < 3.7
    assert np.median(ratios) == pytest.approx(1.0, abs=0.2)  # uniform in the logarithm


def test_erased_pixels_are_standard_normal_noise():
    erased = np.asarray(_erased(_keys(100), np.full((SIZE, SIZE, 3), 7.5, np.float32), _only(erase_rate=1.0)))
    noise = erased[erased != 7.5]
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(1.0, abs=0.02)


def test_rate_of_erasing_is_its_frequency():
    image = _image()

    def changed(rate):
        return (np.asarray(_erased(_keys(100), image, _only(erase_rate=rate))) != image).any((1, 2, 3))

    assert not changed(0.0).any()
    assert changed(1.0).all()
    assert 0.4 < changed(0.5).mean() < 0.6


def test_policy_of_zeros_returns_the_image_unchanged():
    image, au_map = _stored(), _image()[..., 0]
    views, maps = _views(_keys(100), image, au_map, NOTHING)
    np.testing.assert_allclose(views[-1], image / 255, atol=1e-6)
    np.testing.assert_array_equal(maps[-1], au_map)


def test_policy_of_zeros_at_half_the_size_averages_neighbours():
    image = _image()
    views, _ = _moved(_keys(1), image, image[..., 0], NOTHING, size=24)
    np.testing.assert_allclose(views[0], image.reshape(24, 2, 24, 2, 3).mean((1, 3)), atol=1e-5)


def test_views_one_by_one_are_those_of_a_batch():
    image, au_map, policy = jnp.array(_stored()), jnp.array(_image()[..., 0]), Policy()

    @jax.jit
    def one_by_one(keys):
        draw = functools.partial(augment.training_view, size=SIZE, policy=policy)
        return jax.lax.map(lambda key: draw(key, ORDER, image, au_map), keys)

    views, maps = one_by_one(_keys(20))
    expected, expected_maps = _views(_keys(20), image, au_map, policy)
    np.testing.assert_allclose(views, expected, atol=5e-5)
    np.testing.assert_array_equal(maps, expected_maps)


def test_same_key_gives_the_same_view_and_another_key_another():
    image, au_map, policy = _stored(), _image()[..., 0], Policy()
    views, maps = _views(_keys(2), image, au_map, policy)
    again, maps_again = _views(_keys(2), image, au_map, policy)
    np.testing.assert_array_equal(views, again)
    np.testing.assert_array_equal(maps, maps_again)
    assert np.abs(views[0] - views[1]).max() > 0.1


def test_view_of_an_image_that_is_not_square_is_square():
    views, maps = _moved(_keys(1), jnp.ones((30, 40, 3)), jnp.ones((30, 40)), NOTHING, size=16)
    assert (views.shape, maps.shape) == ((1, 16, 16, 3), (1, 16, 16))


def test_normalize_by_hand():
    image = jnp.array([[[0.485, 0.456, 0.406], [0.485 + 0.229, 0.456 - 0.224, 0.406 + 2 * 0.225]]])
    np.testing.assert_allclose(augment.normalize(image), [[[0, 0, 0], [1, -1, 2]]], atol=1e-6)


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [("none", [0.2, 0.4, 0.6]), ("vggface2", [51 - 131.0912, 102 - 103.8827, 153 - 91.4953])],
)
def test_normalize_for_other_weights(statistics, expected):
    image = jnp.array([[[0.2, 0.4, 0.6]]])
    np.testing.assert_allclose(augment.normalize(image, statistics)[0, 0], expected, rtol=1e-5)
