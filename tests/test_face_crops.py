"""Photographs, folders and videos give faces at the network's input size, and problems are returned."""

import functools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_folders import blocks, write_image

from aujax.data import alignment, face_crops, feed, images, video
from aujax.data.face_crops import FaceCrop, InputImage, Problem
from aujax.data.landmarks import load_dlib
from aujax.data.synthetic import draw_face


def given(name, face):
    return face_crops.landmark_finder({name: face.landmarks})


def only(outcomes):
    (one,) = outcomes
    return one


def load(source, *, find, select="one", align="five-point", size=64, every=1):
    return list(face_crops.load_faces([source], find=find, select=select, align=align, size=size, every=every))


def side_by_side():
    both = np.zeros((200, 330, 3), np.uint8)
    both[:, :200], both[40:160, 205:325] = draw_face(0, 1, size=200).image, draw_face(0, 2, size=120).image
    return both


@pytest.fixture(scope="module")
def two_faces():
    found = face_crops.face_finder("dlib", [])(InputImage("two", side_by_side()))
    assert len(found) == 2
    return found


def test_all_faces_are_detected_the_most_prominent_first(two_faces):
    larger, smaller = (one.box for one in two_faces)
    assert larger[2] <= 200 <= smaller[0]
    expected = load_dlib().faces(side_by_side())[0].landmarks
    np.testing.assert_array_equal(two_faces[0].landmarks, expected)


@pytest.mark.parametrize(("select", "numbers", "unselected"), [("one", [1], 1), ("all", [1, 2], 0)])
def test_selected_faces_are_returned_with_the_number_of_the_others(two_faces, select, numbers, unselected):
    faces = load(side_by_side(), find=lambda _: two_faces, select=select)
    assert [face.number for face in faces] == numbers
    assert {(face.count, face.unselected) for face in faces} == {(2, unselected)}


def test_aligned_face_fits_the_template_at_the_input_size():
    drawn = draw_face(0, 3, size=200)
    face = only(load(drawn.image, find=given("image 1", drawn), size=56))
    assert face.example.image.shape == (56, 56, 3)
    expected = (alignment.TEMPLATE + 0.5) * 56 / 224 - 0.5
    assert np.abs(alignment.five_points(face.example.landmarks) - expected).max() < 2.5  # no face is the template
    assert np.abs(alignment.five_points(face.example.landmarks).mean(0) - expected.mean(0)).max() < 0.01


def test_face_is_aligned_by_the_chosen_fit():
    drawn = draw_face(0, 3, size=200)
    for name, fit in alignment.FITS.items():
        face = only(load(drawn.image, find=given("image 1", drawn), align=name, size=224))
        points = alignment.five_points(drawn.landmarks)
        expected = alignment.move(drawn.landmarks, fit(points, alignment.TEMPLATE))
        np.testing.assert_allclose(face.example.landmarks, expected, atol=1e-3)


def test_large_photograph_is_reduced_without_aliasing():
    face = draw_face(0, 3, size=160)
    grey = (face.image // 2 + 60).repeat(8, 0).repeat(8, 1)
    grain = (np.indices(grey.shape[:2]).sum(0) % 2 * 80 - 40)[..., None]
    landmarks = {"image 1": (face.landmarks + 0.5) * 8 - 0.5}
    plain, grained = (
        only(load(pixels.astype(np.uint8), find=face_crops.landmark_finder(landmarks))).aligned.astype(float)
        for pixels in (grey, grey + grain)
    )
    assert np.abs(plain - grained).max() < 12


def test_enlargement_is_input_pixels_per_pixel_of_the_photograph():
    for size, expected in ((64, 1.0), (32, 2.0)):
        pixels = blocks(1, height=size, width=size)
        assert only(load(pixels, find=face_crops.whole_image, align="none")).enlargement == pytest.approx(expected)
    near, far = draw_face(0, 3, size=100), draw_face(0, 3, size=200)
    first, second = (only(load(one.image, find=given("image 1", one))).enlargement for one in (near, far))
    assert first == pytest.approx(2 * second, rel=0.05)


def test_whole_photograph_gives_the_example_of_a_stored_face(tmp_path):
    pixels, path = blocks(2, height=40, width=60), tmp_path / "a.png"
    write_image(path, pixels)
    face = only(load(path, find=face_crops.whole_image, align="none", size=24))
    record = {"image": path.read_bytes(), "landmarks": np.zeros((68, 2), np.float32), "has_landmarks": False}
    expected = feed.decoded(record | {"expression": 0, "id": ""}, 0, 24)
    np.testing.assert_array_equal(face.example.image, expected.image)
    assert not face.example.has_landmarks


def test_photograph_without_landmarks_is_resized_to_a_square():
    pixels = blocks(3, height=60, width=90)
    face = only(load(pixels, find=face_crops.landmark_finder({"image 1": None})))
    np.testing.assert_array_equal(face.aligned, alignment.resize_to_square(pixels)[0])
    assert face.location.landmarks is None


def test_thumbnail_shows_the_face_with_a_margin():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[40:60, 100:120] = 255
    found = face_crops.DetectedFace((100.0, 40.0, 120.0, 60.0), None)
    crop = only(load(pixels, find=lambda _: [found])).thumbnail
    assert crop.shape == (39, 39, 3)
    assert (crop[:9] == 0).all()
    assert (crop[9:29, 9:29] == 255).all()


def test_unusable_files_are_problems_and_the_others_are_loaded(tmp_path):
    write_image(tmp_path / "a.png", blocks(1))
    (tmp_path / "b.jpg").write_text("hello")
    (tmp_path / "c.jpg").write_bytes(images.encode(blocks(1))[:-40])
    (tmp_path / "d.mp4").write_bytes(b"hello")
    write_image(tmp_path / "e" / "f.png", blocks(2))
    (tmp_path / "e" / ".hidden.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    files, problems = face_crops.expand_folders(
        [tmp_path, tmp_path / "empty", tmp_path / "no.jpg", str(tmp_path / "a.png")]
    )
    assert [Path(one.image).name for one in problems] == ["empty"]
    outcomes = list(face_crops.load_faces(files, find=face_crops.whole_image, select="one", align="none", size=16))
    assert only(face_crops.expand_folders(["a" * 300])[1]).reason == "File name too long"
    assert only(load("b" * 300, find=face_crops.whole_image)).reason == "File name too long"
    loaded = [Path(one.image.name).name for one in outcomes if isinstance(one, FaceCrop)]
    assert loaded == ["a.png", "f.png"]
    reasons = {Path(one.image).name: one.reason for one in outcomes if isinstance(one, Problem)}
    assert reasons == {
        "b.jpg": "no image, or in a format that cannot be read",
        "c.jpg": "cut off: the end of the file is missing",
        "d.mp4": "no video, cut off, or in a format that cannot be read",
        "no.jpg": "no such file or folder",
    }


def test_photograph_without_a_face_is_a_problem():
    blank = np.full((120, 100, 3), 128, np.uint8)
    found = load(blank, find=face_crops.face_finder("dlib", []))
    assert found == [Problem("image 1", "no face found")]


def test_image_one_pixel_high_has_no_face():
    strip, find = np.zeros((1, 3000, 3), np.uint8), face_crops.face_finder("dlib", [])
    assert load(strip, find=find) == [Problem("image 1", "no face found")]


def test_failure_of_a_finder_is_a_problem_and_the_others_are_loaded():
    def find(image):
        return face_crops.whole_image(image) if image.pixels.any() else cv2.resize(image.pixels, (0, 0))

    sources = [np.zeros((9, 9, 3), np.uint8), blocks(1)]
    first, second = face_crops.load_faces(sources, find=find, select="one", align="five-point", size=16)
    assert isinstance(first, Problem)
    assert isinstance(second, FaceCrop)


def test_cropped_face_is_kept_whole_and_a_face_in_a_photograph_is_warped():
    drawn = draw_face(0, 3, size=100)
    wide = np.zeros((150, 400, 3), np.uint8)
    wide[20:120, 100:200] = drawn.image
    moved = {"image 1": drawn.landmarks + np.array([100, 20], np.float32)}
    unless_cropped = functools.partial(load, align="five-point unless cropped")
    near = only(unless_cropped(drawn.image, find=given("image 1", drawn)))
    far = only(unless_cropped(wide, find=face_crops.landmark_finder(moved)))
    whole = only(load(drawn.image, find=given("image 1", drawn), align="none"))
    np.testing.assert_array_equal(near.example.image, whole.example.image)
    expected = only(load(wide, find=face_crops.landmark_finder(moved)))
    np.testing.assert_array_equal(far.example.image, expected.example.image)


def test_face_outside_the_photograph_is_a_problem():
    far = face_crops.DetectedFace((500.0, 500.0, 600.0, 600.0), None)
    assert "lies outside the photograph of 32 x 24 pixels" in only(load(blocks(1), find=lambda _: [far])).reason


def test_array_that_is_not_an_image_is_a_problem():
    problem = only(load(np.zeros((4, 4)), find=face_crops.whole_image))
    assert problem.reason == "expected RGB pixels, uint8 of shape (height, width, 3), got float64 of shape (4, 4)"


def test_wide_photograph_is_loaded_and_one_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "wide.png", blocks(1, height=80, width=12_000))
    face = only(load(path, find=face_crops.whole_image, align="none"))
    assert face.thumbnail.shape[1] == 320
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    assert only(load(path, find=face_crops.whole_image)).reason == "more than 1 megapixels; make it smaller"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Six frames in 0.6 s, the first three red, the others blue."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), (0, 0, 200) if number < 3 else (200, 0, 0), np.uint8))
    writer.release()
    return path


def test_frames_have_their_times_and_colours(clip):
    found = list(video.frames(clip, every=2))
    assert [second for second, _ in found] == pytest.approx([0.0, 0.2, 0.4])
    assert [int(pixels.mean((0, 1)).argmax()) for _, pixels in found] == [0, 0, 2]


def test_faces_of_a_video_have_its_name_and_their_times(clip):
    faces = load(clip, find=face_crops.whole_image, align="none", every=5)
    assert [(face.image.name, face.image.second) for face in faces] == [(str(clip), 0.0), (str(clip), 0.5)]


def test_images_that_are_done_are_not_read(clip, tmp_path):
    gone, other = tmp_path / "gone.jpg", tmp_path / "other.avi"
    done = {(str(gone), None), (str(clip), 0.0), (str(clip), 0.2), (str(other), None)}
    options = {"find": face_crops.whole_image, "select": "one", "align": "none", "size": 32, "every": 2}
    (face,) = face_crops.load_faces([gone, clip, other], done=done, **options)
    assert (face.image.name, face.image.second) == (str(clip), 0.4)


def test_images_are_counted_with_the_frames_of_videos(clip, tmp_path):
    array = np.zeros((8, 8, 3), np.uint8)
    assert face_crops.count_images([array, tmp_path / "a.jpg", clip], every=4) == 1 + 1 + 2


def test_truncated_video_is_a_problem_after_its_frames(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(30):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    assert len(load(path, find=face_crops.whole_image, align="none", every=10)) == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    *faces, problem = load(path, find=face_crops.whole_image, align="none", every=10)
    assert len(faces) == 2
    assert re.fullmatch(r"seems cut off: the first 1\d of 30 frames could be read", problem.reason)


def test_frames_of_different_durations_are_not_missing():
    """Six frames of a second each: at 5 frames a second their length would be 26."""
    video.check_complete(6, 5.0, 26, 5.0)
    with pytest.raises(ValueError, match="the first 3 of 26 frames"):
        video.check_complete(3, 2.0, 26, 5.0)
