import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_face import LANDMARKS, reference_maps

from aujax import au_maps, codebook

pytestmark = pytest.mark.jax_versions

HAPPINESS, FEAR, ANGER, DISGUST = 1, 3, 4, 5
BOOKS = pytest.mark.parametrize("book", [codebook.FACS, codebook.REFERENCE], ids=lambda book: book.name)
# On the golden face the eyes' centres are (74, 96) and (150, 96): lengths of FACS are in units of 76 px.
UNIT = 76.0


@functools.cache
def _maps_of(book, size=(224, 224)):
    """Returns the function that draws a face's map of every expression of the codebook."""
    draw = functools.partial(au_maps.au_map, size=size, codebook=book)
    return jax.jit(lambda face: jax.vmap(draw, in_axes=(None, 0))(face, jnp.arange(len(book.expressions))))


def _facs_maps(landmarks, size=(224, 224)):
    return np.asarray(_maps_of(codebook.FACS, size)(landmarks)[0])


@functools.cache
def _map_of(book, size=(56, 56)):
    return jax.jit(functools.partial(au_maps.au_map, size=size, codebook=book))


@functools.cache
def _single_maps(aus, size=(56, 56)):
    return jax.jit(lambda landmarks: au_maps.single_au_maps(landmarks, aus, size=size))


def _turned(cosine, sine, centre):
    return ((LANDMARKS - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre).astype(np.float32)


@functools.cache
def _gradient_of(book):
    return jax.jit(jax.grad(lambda points: au_maps.au_map(points, FEAR, size=(56, 56), codebook=book)[0].sum()))


def _broken_faces():
    nan, infinite = LANDMARKS.copy(), LANDMARKS.copy()
    nan[3, 0], infinite[60, 1] = np.nan, np.inf
    return {"nan": nan, "infinite": infinite, "off the canvas": LANDMARKS + 5000, "far off": LANDMARKS - 1e8}


def test_lip_corner_is_a_circle_of_a_quarter_eye_distance_with_a_soft_rim():
    drawn = np.asarray(_single_maps((12,), (224, 224))(LANDMARKS)[0])[0]
    squared = 20**2 / (0.26 * UNIT) ** 2  # 20 px left of landmark 48, (82, 164)
    np.testing.assert_allclose(drawn[164, [82, 62, 52]], [1.0, 1.5 - squared, 0.0], atol=1e-4)


def test_brow_lowerer_is_an_ellipse_as_wide_as_the_brow_landmarks():
    drawn = np.asarray(_single_maps((4,), (224, 224))(LANDMARKS)[0])[0]
    height, width = 12 / (0.16 * UNIT), 40 / 40  # landmarks 19 and 24 are (72, 74) and (152, 74)
    np.testing.assert_allclose([drawn[74 + 12, 112], drawn[74, 112 + 40]], [1.5 - height**2, 1.5 - width], atol=1e-4)


def test_disgust_map_covers_the_upper_lip_and_not_the_eyelids():
    drawn = _facs_maps(LANDMARKS)[DISGUST]
    assert drawn[140, 82] == 1  # 12 px above AU10's centre, the point (x48, y50)
    assert drawn[96, 74] == drawn[96, 150] == 0


def test_map_is_the_maximum_of_its_action_units():
    units, has_map = _single_maps(codebook.FACS.aus["Anger"])(LANDMARKS / 4)
    assert has_map.all()
    np.testing.assert_allclose(units.max(0), _map_of(codebook.FACS)(LANDMARKS / 4, ANGER)[0], atol=1e-5)


def test_generic_map_is_the_maximum_of_all_action_units():
    generic, has_map = _map_of(codebook.generic(codebook.FACS))(LANDMARKS / 4, 0)
    units, _ = _single_maps(codebook.FACS.all_aus)(LANDMARKS / 4)
    assert has_map
    np.testing.assert_allclose(units.max(0), generic, atol=1e-5)


@BOOKS
def test_map_under_vmap_over_expressions_is_the_map_of_that_expression(book):
    stack, has_map = _maps_of(book, (56, 56))(LANDMARKS / 4)
    one, has_one = _map_of(book)(LANDMARKS / 4, FEAR)
    assert has_map[FEAR] == has_one
    np.testing.assert_allclose(stack[FEAR], one, atol=1e-5)


@BOOKS
def test_maps_are_float32_from_0_to_1(book):
    stack, _ = _maps_of(book)(LANDMARKS)
    assert stack.dtype == jnp.float32
    assert stack.min() == 0
    np.testing.assert_allclose(stack.max((1, 2)), [0, 1, 1, 1, 1, 1, 1], atol=1e-6)


def test_mirrored_face_gives_mirrored_maps():
    mirrored = LANDMARKS[list(codebook.MIRRORED)] * np.float32([-1, 1]) + np.float32([223, 0])
    np.testing.assert_allclose(_facs_maps(mirrored), _facs_maps(LANDMARKS)[:, :, ::-1], atol=1e-4)


def test_shifted_face_gives_shifted_maps():
    shifted = _facs_maps(LANDMARKS + np.float32([7, -5]))
    np.testing.assert_allclose(shifted[:, :-5, 7:], _facs_maps(LANDMARKS)[:, 5:, :-7], atol=1e-4)


def test_half_sized_face_on_half_the_canvas_gives_half_sized_maps():
    half = _facs_maps(LANDMARKS / 2, size=(112, 112))
    np.testing.assert_allclose(half, _facs_maps(LANDMARKS)[:, ::2, ::2], atol=1e-4)


def test_rolled_face_gives_rolled_maps():
    centre = 112
    rolled = _facs_maps(_turned(0.6, 0.8, centre))
    steps = np.arange(-12, 13)
    x, y = (axis.ravel() for axis in np.meshgrid(steps, steps))  # (5x, 5y) rolls onto (3x - 4y, 4x + 3y)
    kept = _facs_maps(LANDMARKS)[:, centre + 5 * y, centre + 5 * x]
    np.testing.assert_allclose(rolled[:, centre + 4 * x + 3 * y, centre + 3 * x - 4 * y], kept, atol=1e-3)


def test_vmap_over_faces_equals_a_loop():
    faces = np.stack([LANDMARKS / 4, LANDMARKS / 5, LANDMARKS / 6])
    labels = np.array([0, HAPPINESS, ANGER], np.int32)
    maps, has_map = jax.jit(jax.vmap(functools.partial(au_maps.au_map, size=(56, 56))))(faces, labels)
    for i in range(3):
        one, has_one = _map_of(codebook.FACS)(faces[i], labels[i])
        assert has_map[i] == has_one
        np.testing.assert_allclose(maps[i], one, atol=1e-5)


@BOOKS
def test_jit_changes_nothing(book):
    book = codebook.custom({"Happiness": (12,)}, geometry=book)
    eager, _ = au_maps.au_map(LANDMARKS / 4, HAPPINESS, size=(56, 56), codebook=book)
    np.testing.assert_allclose(_map_of(book)(LANDMARKS / 4, HAPPINESS)[0], eager, atol=1e-5)


def test_custom_codebook_decides_classes_and_action_units():
    book = codebook.custom({"Grin": (12,)}, expressions=("Rest", "Grin"))
    maps, has_map = _maps_of(book, (56, 56))(LANDMARKS / 4)
    assert has_map.tolist() == [False, True]
    np.testing.assert_allclose(maps[1], _single_maps((12,))(LANDMARKS / 4)[0][0], atol=1e-5)


@functools.cache
def _batch_of(book, size):
    return jax.jit(functools.partial(au_maps.batch_au_maps, size=size, codebook=book))


def _stored(size):
    """Returns the golden face twice, in an image resized from 224 px to `size`, with labels and who has landmarks."""
    faces = np.stack([(LANDMARKS + 0.5) * (size / 224) - 0.5] * 2)
    return jnp.array(faces), jnp.array([HAPPINESS, HAPPINESS]), jnp.array([True, False])


def test_reference_maps_of_a_smaller_image_are_those_of_its_canvas_resized_by_nearest():
    maps, has_map = _batch_of(codebook.REFERENCE, (112, 112))(*_stored(112))
    assert has_map.tolist() == [True, False]
    np.testing.assert_allclose(maps[0], reference_maps()["Happiness"][::2, ::2], atol=1e-5)


def test_reference_maps_of_an_image_that_is_not_square_are_drawn_on_the_square_canvas():
    faces, labels, where = _stored(224)
    half = (np.asarray(faces) + 0.5) * np.float32([1, 0.5]) - np.float32(0.5)  # the image's height is halved
    maps, _ = _batch_of(codebook.REFERENCE, (112, 224))(half, labels, where)
    np.testing.assert_allclose(maps[0], reference_maps()["Happiness"][::2], atol=1e-5)


@pytest.mark.parametrize("size", [100, 150, 190])
def test_landmarks_on_the_canvas_are_not_truncated_one_pixel_lower_by_rounding(size):
    # The golden landmarks are whole numbers on the canvas; from these sizes some come back as 49.99999.
    maps, _ = _batch_of(codebook.REFERENCE, (size, size))(*_stored(size))
    nearest = np.floor(np.arange(size, dtype=np.float32) * np.float32(224 / size)).astype(int)
    np.testing.assert_allclose(maps[0], reference_maps()["Happiness"][np.ix_(nearest, nearest)], atol=1e-5)


def test_facs_maps_are_drawn_at_the_size_of_the_image():
    faces, labels, where = _stored(56)
    maps, has_map = _batch_of(codebook.FACS, (56, 56))(faces, labels, where)
    assert has_map.tolist() == [True, False]
    np.testing.assert_allclose(maps[0], _map_of(codebook.FACS)(faces[0], HAPPINESS)[0], atol=1e-5)


def test_faces_that_are_masked_have_zero_maps():
    maps, _ = _batch_of(codebook.FACS, (56, 56))(*_stored(56))
    assert not maps[1].any()


def test_generic_maps_of_a_batch_are_masked_too():
    faces, _, where = _stored(56)
    book = codebook.generic(codebook.FACS)
    maps, has_map = _batch_of(book, (56, 56))(faces, jnp.zeros(2, int), where)
    assert has_map.tolist() == [True, False]
    np.testing.assert_allclose(maps[0], _map_of(book)(faces[0], 0)[0], atol=1e-5)


@BOOKS
@pytest.mark.parametrize("expression", [0, 7, -1], ids=["Neutral", "too large", "negative"])
def test_expression_without_action_units_has_no_map(book, expression):
    drawn, has_map = _map_of(book)(LANDMARKS / 4, expression)
    assert not has_map
    assert not drawn.any()


@BOOKS
@pytest.mark.parametrize("broken", _broken_faces())
def test_face_that_cannot_be_drawn_has_no_map_and_no_gradient(book, broken):
    landmarks = _broken_faces()[broken]
    maps, has_map = _maps_of(book, (56, 56))(landmarks)
    assert not has_map.any()
    assert not maps.any()
    np.testing.assert_array_equal(_gradient_of(book)(landmarks), 0.0)


def test_face_collapsed_to_a_point_has_no_map_and_no_gradient():
    points = np.full((68, 2), 30, np.float32)
    drawn, has_map = _map_of(codebook.FACS)(points, FEAR)
    assert not has_map
    assert not drawn.any()
    np.testing.assert_array_equal(_gradient_of(codebook.FACS)(points), 0.0)


def test_facs_map_has_a_finite_gradient_that_pulls_on_the_landmarks():
    gradient = _gradient_of(codebook.FACS)(LANDMARKS / 4)
    assert jnp.isfinite(gradient).all()
    assert jnp.abs(gradient).max() > 0


def test_face_partly_off_the_canvas_keeps_its_map():
    drawn, has_map = _maps_of(codebook.FACS)(LANDMARKS + np.float32([0, 60]))  # mouth and chin are below the image
    assert has_map[HAPPINESS]
    np.testing.assert_allclose(drawn[HAPPINESS, 60:], _facs_maps(LANDMARKS)[HAPPINESS, :-60], atol=1e-4)


def test_no_action_units_give_an_empty_array():
    maps, has_map = _single_maps(())(LANDMARKS)
    assert (maps.shape, has_map.shape) == ((0, 56, 56), (0,))


def test_five_landmarks_are_refused():
    with pytest.raises(ValueError, match=r"landmarks must have shape \(68, 2\), got \(5, 2\): give the 68 iBUG points"):
        au_maps.au_map(LANDMARKS[:5], HAPPINESS)


def test_the_name_of_an_expression_is_answered_with_its_index():
    message = (
        r"expression must be an index .*, got 'Fear': use codebook\.expressions\.index\('Fear'\), FACS has Neutral"
    )
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(au_maps.au_map)(LANDMARKS, "Fear")


@pytest.mark.parametrize("size", [96, (96,)])
def test_a_size_that_is_not_height_and_width_is_refused(size):
    message = r"size must be \(height, width\) of the map in pixels, got"
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(au_maps.au_map)(LANDMARKS, FEAR, size=size)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(au_maps.face_outline)(LANDMARKS, size=size)


def test_unknown_action_unit_is_refused_with_the_valid_numbers():
    with pytest.raises(
        ValueError, match=r"3 is not the FACS number of an action unit .* valid numbers: 1, 2, 4, .*, 43"
    ):
        au_maps.single_au_maps(LANDMARKS, (1, 3))


def test_face_outline_contains_the_face_and_not_its_surroundings():
    points = np.asarray(LANDMARKS, np.float32)
    inside = np.asarray(jax.jit(au_maps.face_outline)(points))
    x, y = points[17:].round().astype(int).T
    assert inside[y, x].all()
    assert not inside[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    edge = np.concatenate([points[:17], points[26:16:-1]])
    area = 0.5 * abs(np.dot(edge[:, 0], np.roll(edge[:, 1], 1)) - np.dot(edge[:, 1], np.roll(edge[:, 0], 1)))
    assert area < inside.sum() < 1.4 * area  # and the forehead
