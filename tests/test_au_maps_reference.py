"""`codebook.REFERENCE` against the released code: its golden values, and its restatement in benchmarks/."""

import functools
import importlib.util
import pathlib

import golden_face
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aujax import au_maps, codebook

_PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "released_au_maps.py"
_SPEC = importlib.util.spec_from_file_location("released_au_maps", _PATH)
released = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(released)

REFERENCE = codebook.REFERENCE
FULL = (224, 224)
AUS = released.EXPRESSION_AUS
# What analytic ellipses may differ by from the released code's polygons.
LEAST_COSINE, MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 0.9985, 0.005, 0.12

expressions = pytest.mark.parametrize("expression", list(golden_face.MAPS))


def _random_faces(count, size, shift):
    """Returns golden faces turned, scaled, narrowed, jittered and moved by up to `shift` pixels."""
    rng = np.random.default_rng(0)
    height, width = size
    faces = []
    for _ in range(count):
        roll, scale = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(0.7, 1.15) * min(size) / 224
        turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        points = (golden_face.LANDMARKS - 112 + rng.normal(0, 1.5, (68, 2))) @ turn.T * (rng.uniform(0.6, 1), 1)
        faces.append(points + np.array([width, height]) / 2 + rng.uniform(-shift, shift, 2))
    return np.array(faces, np.float32)


def _all_maps(faces, size):
    """Returns the map of every expression for each face, and whether each exists."""
    draw = jax.vmap(functools.partial(au_maps.au_map, size=size, codebook=REFERENCE), in_axes=(None, 0))
    return jax.jit(jax.vmap(draw, in_axes=(0, None)))(faces, jnp.arange(len(REFERENCE.expressions)))


def _assert_alike(ours, theirs):
    difference = np.abs(ours - theirs)
    assert (ours * theirs).sum() >= LEAST_COSINE * np.linalg.norm(ours) * np.linalg.norm(theirs)
    assert difference.mean() <= MEAN_DIFFERENCE
    assert difference.max() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize(("number", "expected"), golden_face.CELL_SUMS.items())
def test_restated_action_unit_has_the_golden_cell_sum(number, expected):
    points = [(int(x), int(y)) for x, y in golden_face.LANDMARKS]
    assert released.au_cells(points, number, FULL).sum() == pytest.approx(expected, abs=1e-4)


@expressions
def test_restated_map_has_the_golden_values(expression):
    mean, norm, flat_cosine, values = golden_face.MAPS[expression]
    drawn = released.released_map(golden_face.LANDMARKS, AUS[expression], FULL).astype(np.float64)
    assert drawn.mean() == pytest.approx(mean, abs=1e-6)
    assert np.linalg.norm(drawn) == pytest.approx(norm, abs=1e-4)
    assert drawn.mean() * 224 / np.linalg.norm(drawn) == pytest.approx(flat_cosine, abs=5e-5)
    np.testing.assert_allclose([drawn[pixel] for pixel in golden_face.PIXELS], values, atol=1e-6)


@expressions
def test_map_has_the_golden_values(expression):
    mean, norm, flat_cosine, values = golden_face.MAPS[expression]
    drawn = golden_face.reference_maps()[expression]
    assert drawn.mean() == pytest.approx(mean, abs=MEAN_DIFFERENCE / 2)
    assert np.linalg.norm(drawn) == pytest.approx(norm, abs=0.5)
    assert drawn.mean() * 224 / np.linalg.norm(drawn) == pytest.approx(flat_cosine, abs=0.005)
    np.testing.assert_allclose([drawn[pixel] for pixel in golden_face.PIXELS], values, atol=LARGEST_DIFFERENCE / 2)


def test_generic_map_has_the_golden_mean():
    drawn, has_map = jax.jit(functools.partial(au_maps.au_map, codebook=codebook.generic(REFERENCE)))(
        golden_face.LANDMARKS, 0
    )
    assert has_map
    assert drawn.mean() == pytest.approx(0.307168, abs=0.001)


@pytest.mark.parametrize(("size", "shift"), [(FULL, 25), ((200, 260), 12)])
def test_random_faces_have_the_released_maps_and_masks(size, shift):
    faces = _random_faces(24, size, shift)
    maps, has_map = map(np.asarray, _all_maps(faces, size))
    for i, face in enumerate(faces):
        for expression, aus in AUS.items():
            theirs = released.released_map(face, aus, size)
            label = REFERENCE.expressions.index(expression)
            assert has_map[i, label] == (theirs is not None)
            if theirs is not None:
                _assert_alike(maps[i, label], theirs)


def test_faces_far_off_the_canvas_have_no_map_exactly_where_the_released_code_has_none():
    faces = _random_faces(40, FULL, 260)
    _, has_map = _all_maps(faces, FULL)
    theirs = [[released.released_map(face, aus, FULL) is not None for aus in AUS.values()] for face in faces]
    np.testing.assert_array_equal(has_map[:, [REFERENCE.expressions.index(name) for name in AUS]], theirs)
    assert 0.2 < np.mean(theirs) < 0.8


def test_every_action_unit_is_where_the_released_code_draws_it():
    maps, has_map = jax.jit(lambda face: au_maps.single_au_maps(face, REFERENCE.all_aus, codebook=REFERENCE))(
        golden_face.LANDMARKS
    )
    assert has_map.all()
    for number, ours in zip(REFERENCE.all_aus, np.asarray(maps), strict=True):
        theirs = released.released_map(golden_face.LANDMARKS, (number,), FULL)
        assert (ours * theirs).sum() >= 0.99 * np.linalg.norm(ours) * np.linalg.norm(theirs), f"AU{number}"


def test_face_collapsed_to_a_point_is_drawn_with_the_fallback_radii_as_released():
    points = np.full((68, 2), 100.0, np.float32)
    draw = jax.jit(functools.partial(au_maps.au_map, codebook=REFERENCE))
    ours, has_map = draw(points, REFERENCE.expressions.index("Surprise"))
    assert has_map
    _assert_alike(np.asarray(ours), released.released_map(points, AUS["Surprise"], FULL))


def test_disgust_map_covers_the_eyelids():
    eyelid = golden_face.reference_maps()["Disgust"][96, 150]
    assert eyelid == pytest.approx(0.559028, abs=LARGEST_DIFFERENCE)
