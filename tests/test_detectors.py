import importlib.util
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from aujax.data import detectors
from aujax.data.detectors import DETECTORS, Detection, DlibDetector, LandmarkCache, load_dlib
from aujax.data.synthetic import draw_face
from aujax.errors import UserError


@pytest.fixture(scope="module")
def detector() -> DlibDetector:
    return load_dlib()


def errors(detector, faces, cut=lambda face: (0, 0, face.image)) -> list[float]:
    """Mean distances in pixels between detected and drawn landmarks, of the faces that are detected."""
    distances = []
    for face in faces:
        left, top, pixels = cut(face)
        detected = detector.faces(np.ascontiguousarray(pixels))
        if detected:
            distances.append(np.abs(detected[0].landmarks + np.array([left, top]) - face.landmarks).mean())
    return distances


def test_landmarks_of_drawn_faces_are_found_where_they_were_drawn(detector):
    distances = errors(detector, [draw_face(0, index, size=160) for index in range(10)])
    assert len(distances) >= 8
    assert np.median(distances) < 5


def test_faces_that_fill_the_image_are_found(detector):
    def tight(face):
        left, top = np.maximum(face.landmarks.min(0).astype(int) - (0, 8), 0)
        right, bottom = face.landmarks.max(0).astype(int)
        return left, top, face.image[top:bottom, left:right]

    distances = errors(detector, [draw_face(0, index, size=160) for index in range(10)], tight)
    assert len(distances) >= 5
    assert np.median(distances) < 5


def test_large_photographs_give_landmarks_in_their_own_pixels(detector):
    distances = errors(detector, [draw_face(0, index, size=1000) for index in range(3)])
    assert len(distances) >= 2
    assert np.median(distances) < 30


def test_of_two_faces_the_larger_comes_first(detector):
    def beside_a_smaller_one(face):
        both = np.zeros((200, 320, 3), np.uint8)
        both[:, :200], both[50:150, 210:310] = face.image, draw_face(0, 50, size=100).image
        return 0, 0, both

    distances = errors(detector, [draw_face(0, index, size=200) for index in range(4)], beside_a_smaller_one)
    assert np.median(distances) < 6


def test_image_without_a_face_gives_none(detector):
    assert detector.faces(np.full((120, 100, 3), 128, np.uint8)) == []


def test_other_predictor_is_refused(detector, monkeypatch):
    dlib = SimpleNamespace(rectangle=lambda *sides: sides)
    box = SimpleNamespace(left=lambda: 0, top=lambda: 0, right=lambda: 9, bottom=lambda: 9)
    shape = SimpleNamespace(parts=lambda: [SimpleNamespace(x=3, y=4)] * 5)
    monkeypatch.setattr(detectors, "_load_dlib", lambda model: (dlib, lambda *_: [box], lambda *_: shape))
    with pytest.raises(UserError, match=r"must have shape \(68, 2\), got \(5, 2\)"):
        detector.faces(np.zeros((20, 20, 3), np.uint8))


def test_file_that_is_no_predictor_is_refused(tmp_path):
    (tmp_path / "model.dat").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r'expected a landmark predictor of dlib.*; give shape_pred.*pip install "aujax\[land'
    ):
        load_dlib(str(tmp_path / "model.dat")).faces(np.zeros((20, 20, 3), np.uint8))


def test_missing_predictor_path_is_refused():
    with pytest.raises(UserError, match=r"--landmarks-model=nowhere\.dat: no such file"):
        load_dlib("nowhere.dat")


@pytest.mark.parametrize("missing", ["dlib", "face_recognition_models"])
def test_missing_package_names_what_to_install(monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(UserError, match=r'pip install "aujax\[landmarks\]"'):
        load_dlib()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_of_the_table_can_be_pickled_and_states_its_terms(name):
    choice = DETECTORS[name]
    assert choice.terms.endswith(".")
    loaded = choice.load("")
    assert pickle.loads(pickle.dumps(loaded)) == loaded


def test_cache_keeps_landmarks_and_failures(tmp_path):
    landmarks = np.arange(136, dtype=np.float32).reshape(68, 2)
    cache = LandmarkCache(tmp_path / "landmarks.jsonl")
    cache.add("a", Detection(landmarks))
    cache.add("b", Detection(None))
    cache.close()
    again = LandmarkCache(tmp_path / "landmarks.jsonl")
    np.testing.assert_array_equal(again.get("a").landmarks, landmarks)
    assert again.get("b") == Detection(None)
    assert again.get("c") is None


def test_cache_survives_a_line_cut_off_in_the_middle(tmp_path):
    path = tmp_path / "landmarks.jsonl"
    cache = LandmarkCache(path)
    cache.add("a", Detection(None))
    cache.add("b", Detection(None))
    cache.close()
    path.write_text(path.read_text()[:-5])
    again = LandmarkCache(path)
    assert again.get("a") is not None
    assert again.get("b") is None
    again.add("b", Detection(None))
    again.close()
    assert LandmarkCache(path).get("b") is not None
