"""Released folders are found, and their options are read."""

import pytest
from released_folders import options, released_folder

from aujax.errors import UserError
from aujax.release import folders


def test_a_released_folder_is_found_itself(tmp_path):
    folder = released_folder(tmp_path / "CAM")
    assert folders.find(folder) == [folder]


def test_folders_below_are_found_in_order(tmp_path):
    below = [released_folder(tmp_path / name) for name in ("b/grad", "a")]
    assert folders.find(tmp_path) == below[::-1]


def test_half_a_released_folder_is_found_too(tmp_path):
    (released_folder(tmp_path / "CAM") / "model.pt").unlink()
    assert folders.find(tmp_path) == [tmp_path / "CAM"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), r"expected model\.pt and config_model\.yaml in it or below, found nothing"),
        (lambda path: path.write_text(""), "expected a released folder, or one with such"),
        (lambda path: None, "expected a released folder, or one with such"),
    ],
)
def test_something_else_than_released_folders_is_refused(tmp_path, make, message):
    make(tmp_path / "what")
    with pytest.raises(UserError, match=message):
        folders.find(tmp_path / "what")


def test_options_come_by_dotted_names(tmp_path):
    read = folders.read_options(released_folder(tmp_path / "CAM", options(method="PRM")))
    assert (read["method"], read["model.large_maps"], read["data_paths.train"]) == ("PRM", True, "/somewhere/AffectNet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.pt").unlink(), r"found no model\.pt; copy the folder again"),
        (lambda f: (f / "config_model.yaml").unlink(), r"found no config_model\.yaml; copy the folder again"),
        (lambda f: (f / "config_model.yaml").write_text("a: ["), r"config_model\.yaml: expected YAML.*; copy the"),
        (
            lambda f: (f / "config_model.yaml").write_text(""),
            r"config_model\.yaml: expected values by name.*; copy the",
        ),
        (
            lambda f: (f / "config_model.yaml").write_bytes(b"a: \xff"),
            r"config_model\.yaml: .*can't decode.*; copy the",
        ),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    folder = released_folder(tmp_path / "released")
    damage(folder)
    with pytest.raises(UserError, match=message):
        folders.read_options(folder)
