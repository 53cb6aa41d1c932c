import cv2
import numpy as np
import pytest

from aujax.data import alignment
from aujax.data.synthetic import draw_face


def turned(points: np.ndarray, *, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return scale * points @ np.array([[c, s], [-s, c]]) + shift


def test_similarity_recovers_a_known_turn_scale_and_shift():
    source = np.random.default_rng(0).normal(size=(5, 2))
    matrix = alignment.similarity(source, turned(source, degrees=25, scale=1.7, shift=(3, -4)))
    c, s = 1.7 * np.cos(np.radians(25)), 1.7 * np.sin(np.radians(25))
    np.testing.assert_allclose(matrix, [(c, -s, 3), (s, c, -4)], atol=1e-12)


def test_similarity_is_the_least_squares_solution_of_the_linear_system():
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(2, 5, 2))
    # Unknowns a, b, tx, ty of x' = a x - b y + tx, y' = b x + a y + ty.
    rows = [row for x, y in source for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    np.testing.assert_allclose(alignment.similarity(source, target), [(a, -b, tx), (b, a, ty)], atol=1e-12)


def test_similarity_never_mirrors():
    mirrored = alignment.TEMPLATE * (-1, 1)
    assert np.linalg.det(alignment.similarity(mirrored, alignment.TEMPLATE)[:, :2]) > 0


def test_pixels_and_landmarks_move_together():
    source = turned(alignment.TEMPLATE, degrees=-20, scale=0.6, shift=(90, 70))
    pixels = np.zeros((300, 320, 3), np.uint8)
    for number, (x, y) in enumerate(source):
        cv2.circle(pixels, (round(x), round(y)), 4, (40 * (number + 1),) * 3, -1)
    matrix = alignment.similarity(source, alignment.TEMPLATE)
    warped = alignment.warp(pixels, matrix)
    for number, (x, y) in enumerate(alignment.move(source, matrix)):
        assert warped[round(y), round(x), 0] == pytest.approx(40 * (number + 1), abs=2)


def test_drawn_face_is_brought_to_the_template():
    landmarks = draw_face(0, 0, size=128).landmarks
    points = alignment.five_points(landmarks)
    moved = alignment.move(points, alignment.similarity(points, alignment.TEMPLATE))
    # The template is one face and this is another: they agree to a tenth of the picture, not exactly.
    assert np.abs(moved - alignment.TEMPLATE).max() < 22


def test_five_points_are_eye_centres_nose_tip_and_mouth_corners():
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = (10, 20), (30, 20)
    landmarks[36], landmarks[37] = (7, 20), (13, 20)
    landmarks[30], landmarks[48], landmarks[54] = (20, 30), (12, 40), (28, 40)
    np.testing.assert_allclose(alignment.five_points(landmarks), [(10, 20), (30, 20), (20, 30), (12, 40), (28, 40)])


def test_squeezing_moves_points_with_the_pixels():
    pixels = np.zeros((112, 448, 3), np.uint8)
    pixels[56:, 224:] = 255
    squeezed, matrix = alignment.resize_to_square(pixels)
    # The corner of the white part lies between pixels: at (223.5, 55.5) before, in the middle after.
    np.testing.assert_allclose(alignment.move(np.array([(223.5, 55.5)]), matrix), [(111.5, 111.5)])
    assert squeezed.shape == (224, 224, 3)
    assert squeezed[113, 113, 0] == 255
    assert squeezed[110, 110, 0] == 0


def solved(points: np.ndarray, side: int) -> np.ndarray:
    """The released fit by solving its linear system: template (with x times `side`) to points, inverted."""
    template = alignment.TEMPLATE * (side, 1)
    rows = [row for x, y in template for row in ((x, y, 1, 0), (y, -x, 0, 1))]
    c, s, tx, ty = np.linalg.lstsq(np.array(rows), points.ravel(), rcond=None)[0]
    to_face = np.array([(c, s, tx), (-s, c, ty), (0, 0, 1)])
    return (np.diag((side, 1, 1)) @ np.linalg.inv(to_face))[:2]


# A face turned to the side: nose and mouth are far from where a similarity brings those of the template.
PROFILE = np.array([(150.0, 90.0), (172.0, 92.0), (186.0, 118.0), (150.0, 148.0), (166.0, 150.0)])


@pytest.mark.parametrize("points", [PROFILE, alignment.five_points(np.float64(draw_face(0, 3, size=128).landmarks))])
def test_reference_fit_is_the_inverse_of_the_one_from_the_template_to_the_face(points):
    fit = alignment.FITS["five-point/reference"](points, alignment.TEMPLATE)
    np.testing.assert_allclose(fit, solved(points, 1), rtol=1e-9, atol=1e-9)


def test_reference_fit_enlarges_a_profile_more_than_the_default():
    # Fitting to the template shrinks by the correlation r of the two shapes, fitting to the face enlarges by 1 / r.
    scales = [np.linalg.det(fit(PROFILE, alignment.TEMPLATE)[:, :2]) ** 0.5 for fit in alignment.FITS.values()]
    z, w = ((p - p.mean(0)) @ (1, 1j) for p in (PROFILE, alignment.TEMPLATE))
    r = abs(np.vdot(z, w)) / np.linalg.norm(z) / np.linalg.norm(w)
    assert r < 0.9
    assert scales[0] / scales[1] == pytest.approx(r**2, rel=1e-9)


def test_reference_fit_mirrors_points_that_are_in_mirrored_order():
    mirrored = alignment.TEMPLATE * (-1, 1) + (224, 0)
    fit = alignment.FITS["five-point/reference"](mirrored, alignment.TEMPLATE)
    np.testing.assert_allclose(fit, solved(mirrored, -1), atol=1e-9)
    np.testing.assert_allclose(alignment.move(mirrored, fit), alignment.TEMPLATE, atol=1e-9)


def test_landmarks_of_a_mirrored_face_keep_their_names():
    landmarks = draw_face(0, 0, size=128).landmarks
    moved = alignment.move_landmarks(landmarks, np.array([(-1.0, 0, 127), (0, 1, 0)]))
    left, right = alignment.five_points(moved)[:2]
    assert left[0] < right[0]


@pytest.mark.parametrize("fit", alignment.FITS.values(), ids=list(alignment.FITS))
def test_equal_points_are_refused_by_every_fit(fit):
    with pytest.raises(ValueError, match="at least two different points"):
        fit(np.ones((5, 2)), alignment.TEMPLATE)
