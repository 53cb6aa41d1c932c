"""The drawn faces: deterministic, balanced, with exact landmarks and honest action units."""

import collections

import cv2
import numpy as np
import pytest

from aujax import codebook
from aujax.data import synthetic
from aujax.data.synthetic import painting
from aujax.data.synthetic.canvas import Canvas
from aujax.data.synthetic.person import AU_MOTION, MEAN_FACE, face_points, make_person, rotation


@pytest.fixture(scope="module")
def faces():
    return [synthetic.draw_face(0, index) for index in range(70)]


def test_a_face_does_not_depend_on_the_faces_drawn_before_it(faces):
    make_person.cache_clear()
    for index in (40, 3):
        again = synthetic.draw_face(0, index)
        np.testing.assert_array_equal(again.image, faces[index].image)
        np.testing.assert_array_equal(again.landmarks, faces[index].landmarks)
        assert again.aus == faces[index].aus


def test_another_seed_draws_another_face(faces):
    assert (synthetic.draw_face(1, 0).image != faces[0].image).mean() > 0.5


def test_each_person_shows_each_expression_once(faces):
    shown = collections.defaultdict(list)
    for face in faces:
        shown[face.identity].append(face.expression)
    assert len(shown) == 10
    assert all(sorted(expressions) == list(range(7)) for expressions in shown.values())


def test_active_aus_are_of_the_expression_and_sorted(faces):
    for face in faces:
        name = codebook.EXPRESSIONS[face.expression]
        assert set(face.aus) <= set(codebook.FACS.aus.get(name, ()))
        assert list(face.aus) == sorted(set(face.aus))
        assert bool(face.aus) == (name != "Neutral")


def test_contradictory_aus_are_never_shown_together():
    generator = np.random.default_rng(0)
    for name in codebook.EXPRESSIONS * 40:
        shown = set(synthetic._choose_aus(name, generator))
        assert not {24, 25} <= shown
        assert not {26, 27} <= shown


def test_every_au_of_the_codebook_is_shown_by_some_face():
    generator = np.random.default_rng(0)
    for name, aus in codebook.FACS.aus.items():
        assert set().union(*(synthetic._choose_aus(name, generator) for _ in range(60))) == set(aus)


@pytest.mark.parametrize(
    ("au", "landmarks", "axis", "sign"),
    [
        (1, (21, 22), 1, -1),
        (2, (18, 25), 1, -1),
        (4, (20, 21, 22, 23), 1, 1),
        (5, (37, 38, 43, 44), 1, -1),
        (7, (40, 41, 46, 47), 1, -1),
        (9, (31, 35), 1, -1),
        (10, (50, 51, 52), 1, -1),
        (12, (48, 54), 1, -1),
        (15, (48, 54), 1, 1),
        (16, (56, 57, 58), 1, 1),
        (17, (56, 57, 58), 1, -1),
        (20, (48,), 0, -1),
        (20, (54,), 0, 1),
        (25, (65, 66, 67), 1, 1),
        (26, (8, 66), 1, 1),
        (27, (8, 66), 1, 1),
    ],
)
def test_au_moves_its_landmarks_the_way_facs_says(au, landmarks, axis, sign):
    moved = face_points(MEAN_FACE, {au: 1.0}) - MEAN_FACE
    assert (sign * moved[list(landmarks), axis] > 0.02).all()


@pytest.mark.parametrize("au", [25, 26, 27])
def test_mouth_opening_aus_part_the_inner_lips(au):
    points = face_points(MEAN_FACE, {au: 1.0})
    assert points[66, 1] - points[62, 1] > 0.1


@pytest.mark.parametrize("au", [23, 24])
def test_lip_aus_make_the_lips_thinner(au):
    points = face_points(MEAN_FACE, {au: 1.0})
    assert points[57, 1] - points[51, 1] < 0.75 * (MEAN_FACE[57, 1] - MEAN_FACE[51, 1])


@pytest.mark.parametrize("au", sorted(AU_MOTION))
def test_au_motion_is_symmetric(au):
    points = face_points(MEAN_FACE, {au: 1.0})[:68]
    np.testing.assert_allclose(points[list(codebook.MIRRORED)] * [-1, 1, 1], points, atol=1e-6)


def test_lips_never_cross_for_any_aus():
    generator = np.random.default_rng(0)
    for _ in range(100):
        aus = generator.permutation(sorted(AU_MOTION))[:6].tolist()
        points = face_points(MEAN_FACE, dict.fromkeys(aus, 1.1))
        for column in ((50, 61, 67, 58), (51, 62, 66, 57), (52, 63, 65, 56)):
            assert (np.diff(points[list(column), 1]) > -1e-6).all()


def test_positive_yaw_turns_the_nose_to_the_right_and_positive_pitch_down():
    nose = np.array([0.0, 0.0, 1.0])
    assert (nose @ rotation(0.3, 0.0, 0.0).T)[0] > 0.2
    assert (nose @ rotation(0.0, 0.3, 0.0).T)[1] > 0.2


def test_a_disc_lands_on_the_pixel_that_was_asked_for():
    canvas = Canvas(128, 40.0)
    canvas.paint[...] = 0
    canvas.disc(np.array([37.25, 80.5]), 0.1, np.full(3, 255.0))
    image = canvas.finish(np.array([0.0, 0.0, 1.0]), 1.0, np.ones(3))[..., 0].astype(float)
    y, x = np.indices(image.shape)
    np.testing.assert_allclose(
        [(image * x).sum() / image.sum(), (image * y).sum() / image.sum()], [37.25, 80.5], atol=0.1
    )


@pytest.mark.parametrize("aus", [{}, {12: 1.0, 25: 1.0}, {27: 1.0}, {24: 1.0}])
def test_painted_mouth_spans_exactly_its_landmarks(aus):
    person = make_person(0, 0)
    points3 = face_points(person.rest, aus)
    view = lambda points: points[..., :2] * 40.0 + 44.0  # noqa: E731
    points, canvas = view(points3), Canvas(128, 40.0)
    canvas.paint[...] = 255
    painting.paint_mouth(canvas, person, points, points3, view, aus)
    rows, columns = np.nonzero((canvas.paint < 200).any(-1))
    mouth = points[48:60]
    np.testing.assert_allclose(np.array([columns.min(), rows.min()]) / 2 - 0.25, mouth.min(0), atol=1.2)
    np.testing.assert_allclose(np.array([columns.max(), rows.max()]) / 2 - 0.25, mouth.max(0), atol=1.2)


def test_painted_eye_spans_its_landmarks():
    person = make_person(0, 1)
    view = lambda points: points[..., :2] * 40.0 + 44.0  # noqa: E731
    points, canvas = view(face_points(person.rest, {})), Canvas(128, 40.0)
    canvas.paint[...] = 0
    painting.paint_eye(canvas, person, points, 0, np.zeros(2))
    rows, columns = np.nonzero((canvas.paint > 190).all(-1))
    assert points[36, 0] < columns.min() / 2 < columns.max() / 2 < points[39, 0]
    assert points[36:42, 1].min() - 1 < rows.min() / 2 < rows.max() / 2 < points[36:42, 1].max() + 1


def test_landmarks_stay_in_the_image(faces):
    landmarks = np.stack([face.landmarks for face in faces])
    assert landmarks.dtype == np.float32
    assert landmarks.min() > 0
    assert landmarks.max() < 127


def test_landmarks_scale_with_the_size(faces):
    large = synthetic.draw_face(0, 5, size=256)
    assert large.image.shape == (256, 256, 3)
    np.testing.assert_allclose((large.landmarks + 0.5) / 2, faces[5].landmarks + 0.5, atol=1e-3)


def test_mark_is_planted_away_from_the_face_and_changes_nothing_else(faces):
    for index, plain in enumerate(faces[:35]):
        marked = synthetic.draw_face(0, index, shortcut=1.0)
        np.testing.assert_array_equal(marked.landmarks, plain.landmarks)
        changed = np.argwhere((marked.image != plain.image).any(-1))[:, ::-1].astype(np.float32)
        assert len(changed) > 60
        hull = cv2.convexHull(plain.landmarks)
        assert max(cv2.pointPolygonTest(hull, pixel.tolist(), True) for pixel in changed) < 0


def test_without_a_shortcut_the_corner_of_the_mark_does_not_tell_the_expression(faces):
    for face in faces:
        right, low, colour, _ = painting.MARKS[face.expression]
        at = [round((1 - painting.MARK_CENTRE if far else painting.MARK_CENTRE) * 128 - 0.5) for far in (low, right)]
        assert np.abs(face.image[at[0], at[1]].astype(float) - colour).max() > 8


def test_marks_name_the_expression():
    assert len(set(painting.MARKS)) == len(codebook.EXPRESSIONS)
    assert len({mark[2] for mark in painting.MARKS}) == len(codebook.EXPRESSIONS)


def test_half_a_shortcut_marks_about_half_of_the_faces(faces):
    marked = [
        (synthetic.draw_face(0, index, shortcut=0.5).image != face.image).any() for index, face in enumerate(faces)
    ]
    assert 20 <= sum(marked) <= 50


def test_persons_span_the_range_of_skin_tones():
    brightness = [np.mean(make_person(0, identity).skin) for identity in range(60)]
    assert min(brightness) < 85
    assert max(brightness) > 205


@pytest.mark.parametrize("options", [{"size": 8}, {"shortcut": 1.5}, {"seed": -1}, {"index": -1}])
def test_an_option_out_of_range_is_named(options):
    with pytest.raises(ValueError, match=f"got .*{next(iter(options))}={next(iter(options.values()))}"):
        synthetic.draw_face(**{"seed": 0, "index": 0, **options})
