import importlib.util
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from small_folders import landmarks_within

from aujax.data.landmarks import DETECTORS, DlibDetector, LandmarkCache, load_dlib, read_landmarks
from aujax.data.synthetic import draw_face
from aujax.errors import UserError

IDS = ["Image/aligned/train_00001_aligned.jpg", "Image/aligned/test_0001_aligned.jpg"]
FIRST, SECOND = (landmarks_within(100, 100, seed=seed) for seed in (1, 2))


def text_line(name: str, landmarks: np.ndarray) -> str:
    """The released format: all x, then all y."""
    return ",".join([name, *map(str, landmarks[:, 0]), *map(str, landmarks[:, 1])])


def write_columns(path, header: list[str], lines: list[list[str]]):
    path.write_text("\n".join(",".join(line) for line in [header, *lines]) + "\n")
    return path


def test_released_text_format_has_all_x_first_and_inf_for_missing(tmp_path):
    path = tmp_path / "landmarks.txt"
    path.write_text(text_line(IDS[0], FIRST) + "\n" + text_line(IDS[1], np.full((68, 2), np.inf)) + "\n")
    found = read_landmarks(path, IDS)
    np.testing.assert_allclose(found[IDS[0]], FIRST, rtol=1e-6)
    assert found[IDS[1]] is None


def test_names_of_another_folder_and_with_another_ending_still_match(tmp_path):
    path = tmp_path / "landmarks.txt"
    path.write_text(text_line("basic/Image/our_aligned/train_00001.jpg", FIRST))
    assert list(read_landmarks(path, IDS)) == [IDS[0]]


def test_file_name_that_two_images_share_matches_neither(tmp_path):
    path = tmp_path / "landmarks.txt"
    path.write_text(text_line("1.jpg", FIRST) + "\n" + text_line("b/2.jpg", SECOND))
    assert list(read_landmarks(path, ["a/1.jpg", "b/1.jpg", "b/2.jpg"])) == ["b/2.jpg"]


@pytest.mark.parametrize("start", [0, 1])
def test_csv_columns_may_be_numbered_from_zero_or_one(tmp_path, start):
    header = ["image", *(f"y_{k}" for k in range(start, start + 68)), *(f"x_{k}" for k in range(start, start + 68))]
    line = ["a.jpg", *map(str, FIRST[:, 1]), *map(str, FIRST[:, 0])]
    path = write_columns(tmp_path / "points.csv", header, [line])
    np.testing.assert_allclose(read_landmarks(path, ["a.jpg", "b.jpg"])["a.jpg"], FIRST, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 68, 2), (2, 136)])
def test_npy_rows_are_in_the_order_of_the_source(tmp_path, shape):
    np.save(tmp_path / "all.npy", np.stack([FIRST, SECOND]).reshape(shape))
    found = read_landmarks(tmp_path / "all.npy", IDS)
    np.testing.assert_array_equal(found[IDS[1]], SECOND)


def test_nan_in_npy_means_missing(tmp_path):
    np.save(tmp_path / "all.npy", np.stack([FIRST, np.full((68, 2), np.nan)]))
    assert read_landmarks(tmp_path / "all.npy", IDS)[IDS[1]] is None


def test_folder_of_affectnet_annotations_is_read_by_image_name(tmp_path):
    np.save(tmp_path / "7_lnd.npy", FIRST.ravel().astype(str))
    found = read_landmarks(tmp_path, ["train_set/images/7.jpg", "train_set/images/8.jpg"])
    np.testing.assert_array_equal(found["train_set/images/7.jpg"], FIRST)


@pytest.mark.parametrize("name", ["points.json", "missing.txt"])
def test_unusable_path_is_refused(tmp_path, name):
    (tmp_path / "points.json").touch()
    with pytest.raises(UserError, match=r"ending in \.txt, \.csv, \.npy|no such file"):
        read_landmarks(tmp_path / name, IDS)


def test_five_points_are_refused(tmp_path):
    (tmp_path / "five.txt").write_text("a.jpg," + ",".join(["1"] * 10))
    with pytest.raises(
        UserError, match=r"line 1: landmarks must have shape \(68, 2\) or 136 numbers, got shape \(10,\)"
    ):
        read_landmarks(tmp_path / "five.txt", ["a.jpg"])


def test_npy_with_another_number_of_rows_is_refused(tmp_path):
    np.save(tmp_path / "all.npy", np.zeros((3, 68, 2)))
    with pytest.raises(UserError, match=r"expected shape \(2, 68, 2\).*got \(3, 68, 2\)"):
        read_landmarks(tmp_path / "all.npy", IDS)


def test_file_of_other_images_is_refused(tmp_path):
    (tmp_path / "other.txt").write_text(text_line("elsewhere.jpg", FIRST))
    with pytest.raises(UserError, match=r"none of its 1 names \(first: 'elsewhere.jpg'\)"):
        read_landmarks(tmp_path / "other.txt", IDS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"a.jpg,1,two,3", "expected numbers separated by commas"),
        ("a.txt", b"\xff\xfe\x00", "expected text in UTF-8"),
        ("a.csv", b"image,x0,y0\na.jpg,1,2", "found 1 x columns, 1 y columns and a column image"),
        ("a.npy", b"no array", r"expected a \.npy array of numbers"),
    ],
)
def test_broken_file_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_landmarks(tmp_path / name, ["a.jpg"])


def test_archive_of_arrays_under_the_name_of_one_is_refused(tmp_path):
    np.savez(tmp_path / "all.npz", np.stack([FIRST, SECOND]))
    path = (tmp_path / "all.npz").rename(tmp_path / "all.npy")
    with pytest.raises(UserError, match=r"all\.npy: expected a \.npy array .* write it with numpy\.save"):
        read_landmarks(path, IDS)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"one \.npy file per image in this folder, found none"):
        read_landmarks(tmp_path, IDS)


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
    monkeypatch.setattr("aujax.data.landmarks._load_dlib", lambda model: (dlib, lambda *_: [box], lambda *_: shape))
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
    cache.add("a", landmarks)
    cache.add("b", None)
    again = LandmarkCache(tmp_path / "landmarks.jsonl")
    np.testing.assert_array_equal(again["a"], landmarks)
    assert again["b"] is None
    assert "c" not in again


def test_cache_survives_a_line_cut_off_in_the_middle(tmp_path):
    path = tmp_path / "landmarks.jsonl"
    cache = LandmarkCache(path)
    cache.add("a", None)
    cache.add("b", None)
    path.write_text(path.read_text()[:-5])
    again = LandmarkCache(path)
    assert "a" in again
    assert "b" not in again
    again.add("b", None)
    assert "b" in LandmarkCache(path)


def test_an_image_named_twice_is_refused(tmp_path):
    text, table, folder = tmp_path / "points.txt", tmp_path / "points.csv", tmp_path / "points"
    text.write_text("\n".join(text_line("1.jpg", points) for points in (FIRST, SECOND)))
    header = ["image", *(f"{axis}{number}" for axis in "xy" for number in range(68))]
    write_columns(table, header, [["1.jpg", *map(str, points.T.ravel())] for points in (FIRST, SECOND)])
    folder.mkdir()
    for name in ("1.npy", "1_lnd.npy"):
        np.save(folder / name, FIRST)
    for path, where in ((text, "points.txt, line 2"), (table, "points.csv, line 3"), (folder, "1_lnd.npy")):
        with pytest.raises(
            UserError, match=f"{where}: expected each image once, '1(.jpg)?' was there before; keep one"
        ):
            read_landmarks(path, ["1.jpg"])
