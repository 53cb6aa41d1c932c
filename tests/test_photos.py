"""Photographs, folders and videos become faces at the network's size; what cannot be used is told."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_folders import blocks, write_image

from aujax.data import alignment, detectors, feed, images, photos, video
from aujax.data.photos import Face, Photo, Problem
from aujax.data.synthetic import draw_face


def given(name, face):
    return photos.as_given({name: face.landmarks})


ALIGNED = {"choose": "one", "align": True, "size": 64}


def only(outcomes):
    (one,) = outcomes
    return one


def read(source, *, find, choose="one", align=True, size=64, every=1):
    return list(photos.read_faces([source], find=find, choose=choose, align=align, size=size, every=every))


def side_by_side():
    both = np.zeros((200, 330, 3), np.uint8)
    both[:, :200], both[40:160, 205:325] = draw_face(0, 1, size=200).image, draw_face(0, 2, size=120).image
    return both


@pytest.fixture(scope="module")
def two_faces():
    found = photos.by_detector(detectors.load_dlib())(Photo("two", side_by_side()))
    assert len(found) == 2
    return found


def test_all_faces_are_found_the_prominent_one_first(two_faces):
    larger, smaller = (one.box for one in two_faces)
    assert larger[2] <= 200 <= smaller[0]
    expected = detectors.load_dlib().faces(side_by_side())[0].landmarks
    np.testing.assert_array_equal(two_faces[0].landmarks, expected)


@pytest.mark.parametrize(("choose", "numbers", "left_out"), [("one", [1], 1), ("all", [1, 2], 0)])
def test_of_several_faces_those_chosen_are_read(two_faces, choose, numbers, left_out):
    faces = read(side_by_side(), find=lambda _: two_faces, choose=choose)
    assert [face.number for face in faces] == numbers
    assert {(face.count, face.left_out) for face in faces} == {(2, left_out)}


def test_eyes_nose_and_mouth_come_to_their_places_at_the_size_of_the_network():
    drawn = draw_face(0, 3, size=200)
    face = only(read(drawn.image, find=given("photo 1", drawn), size=56))
    assert face.example.image.shape == (56, 56, 3)
    expected = (alignment.TEMPLATE + 0.5) * 56 / 224 - 0.5
    assert np.abs(alignment.five_points(face.example.landmarks) - expected).max() < 2.5  # no face is the template
    assert np.abs(alignment.five_points(face.example.landmarks).mean(0) - expected.mean(0)).max() < 0.01


def test_grain_of_a_large_photograph_does_not_reach_the_network():
    face = draw_face(0, 3, size=160)
    grey = (face.image // 2 + 60).repeat(8, 0).repeat(8, 1)
    grain = (np.indices(grey.shape[:2]).sum(0) % 2 * 80 - 40)[..., None]
    landmarks = {"photo 1": (face.landmarks + 0.5) * 8 - 0.5}
    plain, grained = (
        only(read(pixels.astype(np.uint8), find=photos.as_given(landmarks))).picture.astype(float)
        for pixels in (grey, grey + grain)
    )
    assert np.abs(plain - grained).max() < 12


def test_enlargement_is_pixels_of_the_network_for_one_of_the_photograph():
    for size, expected in ((64, 1.0), (32, 2.0)):
        pixels = blocks(1, height=size, width=size)
        assert only(read(pixels, find=photos.whole, align=False)).enlargement == pytest.approx(expected)
    near, far = draw_face(0, 3, size=100), draw_face(0, 3, size=200)
    first, second = (only(read(one.image, find=given("photo 1", one))).enlargement for one in (near, far))
    assert first == pytest.approx(2 * second, rel=0.05)


def test_whole_photograph_is_read_as_a_stored_face_is(tmp_path):
    pixels, path = blocks(2, height=40, width=60), tmp_path / "a.png"
    write_image(path, pixels)
    face = only(read(path, find=photos.whole, align=False, size=24))
    record = {"image": path.read_bytes(), "landmarks": np.zeros((68, 2), np.float32), "has_landmarks": False}
    expected = feed.decoded(record | {"expression": 0, "id": ""}, 0, 24)
    np.testing.assert_array_equal(face.example.image, expected.image)
    assert not face.example.has_landmarks


def test_photograph_without_landmarks_in_the_table_is_squeezed():
    pixels = blocks(3, height=60, width=90)
    face = only(read(pixels, find=photos.as_given({"photo 1": None})))
    np.testing.assert_array_equal(face.picture, alignment.resize_to_square(pixels)[0])
    assert face.found.landmarks is None


def test_crop_shows_the_face_and_some_room():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[40:60, 100:120] = 255
    found = photos.Found((100.0, 40.0, 120.0, 60.0), None)
    crop = only(read(pixels, find=lambda _: [found])).crop
    assert crop.shape == (39, 39, 3)
    assert (crop[:9] == 0).all()
    assert (crop[9:29, 9:29] == 255).all()


def test_every_bad_file_is_told_and_the_others_are_read(tmp_path):
    write_image(tmp_path / "a.png", blocks(1))
    (tmp_path / "b.jpg").write_text("hello")
    (tmp_path / "c.jpg").write_bytes(images.encode(blocks(1))[:-40])
    (tmp_path / "d.mp4").write_bytes(b"hello")
    write_image(tmp_path / "e" / "f.png", blocks(2))
    (tmp_path / "e" / ".hidden.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    files, problems = photos.expand([tmp_path, tmp_path / "empty", tmp_path / "no.jpg", str(tmp_path / "a.png")])
    assert [Path(one.photo).name for one in problems] == ["empty"]
    outcomes = list(photos.read_faces(files, find=photos.whole, choose="one", align=False, size=16))
    assert only(photos.expand(["a" * 300])[1]).reason == "File name too long"
    assert only(read("b" * 300, find=photos.whole)).reason == "File name too long"
    read_files = [Path(one.photo.name).name for one in outcomes if isinstance(one, Face)]
    assert read_files == ["a.png", "f.png"]
    told = {Path(one.photo).name: one.reason for one in outcomes if isinstance(one, Problem)}
    assert told == {
        "b.jpg": "no image, or in a format that cannot be read",
        "c.jpg": "cut off: the end of the file is missing",
        "d.mp4": "no video, cut off, or in a format that cannot be read",
        "no.jpg": "no such file or folder",
    }


def test_photograph_without_a_face_is_told():
    blank = np.full((120, 100, 3), 128, np.uint8)
    found = read(blank, find=photos.by_detector(detectors.load_dlib()))
    assert found == [Problem("photo 1", "no face found")]


def test_strip_of_one_pixel_has_no_face_and_the_others_go_on():
    strip, find = np.zeros((1, 3000, 3), np.uint8), photos.by_detector(detectors.load_dlib())
    assert read(strip, find=find) == [Problem("photo 1", "no face found")]


def test_failure_of_a_finder_is_told_and_the_others_go_on():
    def find(photo):
        return photos.whole(photo) if photo.pixels.any() else cv2.resize(photo.pixels, (0, 0))

    sources = [np.zeros((9, 9, 3), np.uint8), blocks(1)]
    first, second = photos.read_faces(sources, find=find, choose="one", align=True, size=16)
    assert isinstance(first, Problem)
    assert isinstance(second, Face)


def test_picture_that_is_a_face_cut_out_is_taken_whole_and_a_face_in_a_photograph_is_warped():
    drawn = draw_face(0, 3, size=100)
    wide = np.zeros((150, 400, 3), np.uint8)
    wide[20:120, 100:200] = drawn.image
    moved = {"photo 1": drawn.landmarks + np.array([100, 20], np.float32)}
    near = only(photos.read_faces([drawn.image], find=given("photo 1", drawn), keep_cut_out=True, **ALIGNED))
    far = only(photos.read_faces([wide], find=photos.as_given(moved), keep_cut_out=True, **ALIGNED))
    whole = only(read(drawn.image, find=given("photo 1", drawn), align=False))
    np.testing.assert_array_equal(near.example.image, whole.example.image)
    expected = only(read(wide, find=photos.as_given(moved)))
    np.testing.assert_array_equal(far.example.image, expected.example.image)


def test_face_outside_the_photograph_is_told():
    far = photos.Found((500.0, 500.0, 600.0, 600.0), None)
    assert "lies outside the photograph of 32 x 24 pixels" in only(read(blocks(1), find=lambda _: [far])).reason


def test_array_that_is_no_picture_is_told():
    told = only(read(np.zeros((4, 4)), find=photos.whole))
    assert told.reason == "expected RGB pixels, uint8 of shape (height, width, 3), got float64 of shape (4, 4)"


def test_photograph_of_12_000_pixels_is_read_and_a_gigantic_one_refused(tmp_path, monkeypatch):
    path = write_image(tmp_path / "wide.png", blocks(1, height=80, width=12_000))
    face = only(read(path, find=photos.whole, align=False))
    assert face.crop.shape[1] == 320
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    assert only(read(path, find=photos.whole)).reason == "more than 1 megapixels; make it smaller"


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
    assert [frame.second for frame in found] == pytest.approx([0.0, 0.2, 0.4])
    assert [int(frame.pixels.mean((0, 1)).argmax()) for frame in found] == [0, 0, 2]


def test_faces_of_a_video_have_its_name_and_their_time(clip):
    faces = read(clip, find=photos.whole, align=False, every=5)
    assert [(face.photo.name, face.photo.second) for face in faces] == [(str(clip), 0.0), (str(clip), 0.5)]


def test_video_that_ends_early_is_told_after_its_frames(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(30):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    assert len(read(path, find=photos.whole, align=False, every=10)) == 3
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    *faces, problem = read(path, find=photos.whole, align=False, every=10)
    assert len(faces) == 2
    assert re.fullmatch(r"seems cut off: the first 1\d of 30 frames could be read", problem.reason)


def test_frames_that_are_shown_for_longer_are_not_missing():
    """Six frames of a second each: at 5 frames a second their length would be 26."""
    video._check_complete(6, 5.0, 26, 5.0)
    with pytest.raises(ValueError, match="the first 3 of 26 frames"):
        video._check_complete(3, 2.0, 26, 5.0)
