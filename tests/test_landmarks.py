import numpy as np
import pytest
from small_folders import landmarks_within

from aujax.data.landmarks import read_landmarks
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
