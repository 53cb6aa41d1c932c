from collections import Counter

import numpy as np
import pytest
from small_folders import blocks, labels, landmarks_within, listing, splits, write_image

from aujax.errors import UserError

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"


def affectnet_line(name: str, expression: object, *, points=68) -> str:
    numbers = ";".join(map(str, landmarks_within(100, 100)[:points].ravel()))
    return f"{name},10,20,50,60,{numbers},{expression},0.1,-2"


def csv_affectnet(root):
    lists = root / "Manually_Annotated_file_lists"
    lists.mkdir()
    lines = [HEADER, affectnet_line("1/a.jpg", 6), affectnet_line("1/b.png", 7), affectnet_line("2/c.jpg", 9)]
    (lists / "training.csv").write_text("\n".join(lines))
    (lists / "validation.csv").write_text(affectnet_line("3/d.jpg", 2))
    write_image(root / "Manually_Annotated" / "Manually_Annotated_Images" / "3" / "d.jpg", blocks(3))
    return lists


def test_affectnet_lists_with_and_without_a_header(tmp_path):
    csv_affectnet(tmp_path)
    found = listing("affectnet", "--source", tmp_path)
    assert labels(found) == {"1/a.jpg": "Anger", "3/d.jpg": "Sadness"}
    assert splits(found) == {"1/a.jpg": "train", "3/d.jpg": "test"}
    assert found.images[1].box == (10, 20, 60, 80)
    np.testing.assert_allclose(found.images[1].landmarks, landmarks_within(100, 100), rtol=1e-6)
    assert found.images[1].read()
    assert found.notes == [
        "left out, being none of the seven expressions: 1 labelled 7, 1 labelled 9",
        "AffectNet has 283901 images in train, this copy has 1: part of it is missing",
        "AffectNet has 3500 images in test, this copy has 1: part of it is missing",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (affectnet_line("1/a.jpg", 11), "the expression must be 0 to 10"),
        (affectnet_line("1/a.jpg", "inf"), "the expression must be 0 to 10, got 'inf'"),
        (affectnet_line("1/a.jpg", 1, points=5), r"got shape \(10,\)"),
        ("1/a.jpg,1,2", "got 3 fields"),
        (affectnet_line("1/a.jpg", 1).replace(",10,", ",ten,"), "line 1: expected subDirectory_filePath"),
        (HEADER.replace("face_height,", ""), r"validation\.csv: expected columns face_height too"),
        (f"valence,{HEADER}\n" + affectnet_line("1/a.jpg", 1).rpartition(",1,")[0], "line 2: .* got 6 fields"),
        ("é.jpg", r"validation\.csv: expected a table in UTF-8 text, .* copy it again"),
        ("x" * 200_000, r"validation\.csv: expected a table in UTF-8 text, field larger"),
    ],
)
def test_broken_affectnet_list_is_refused(tmp_path, line, message):
    (csv_affectnet(tmp_path) / "validation.csv").write_text(line, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        listing("affectnet", "--source", tmp_path)


def test_affectnet_npy_annotations(tmp_path):
    for folder, number, expression in (("train_set", 5, "2"), ("train_set", 6, "7"), ("val_set", 0, "1")):
        write_image(tmp_path / folder / "images" / f"{number}.jpg", blocks(number))
        annotations = tmp_path / folder / "annotations"
        annotations.mkdir(exist_ok=True)
        np.save(annotations / f"{number}_exp.npy", np.array(expression))  # numbers as text, as distributed
        np.save(annotations / f"{number}_lnd.npy", landmarks_within(32, 24, seed=number).ravel())
    write_image(tmp_path / "val_set" / "images" / "8.jpg", blocks(8))
    found = listing("affectnet", "--source", tmp_path, "--jobs=2")
    assert labels(found) == {"train_set/images/5.jpg": "Sadness", "val_set/images/0.jpg": "Happiness"}
    assert Counter(splits(found).values()) == {"train": 1, "test": 1}
    np.testing.assert_array_equal(found.images[0].landmarks, landmarks_within(32, 24, seed=5))
    assert found.notes[0].startswith("1 images of val_set have no annotation")


def test_folder_that_is_no_affectnet_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected AffectNet: .* found nothing"):
        listing("affectnet", "--source", tmp_path)


@pytest.mark.parametrize("missing", ["training.csv", "validation.csv"])
def test_affectnet_without_one_of_its_lists_is_refused(tmp_path, missing):
    (csv_affectnet(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: expected this list beside the other one, .* copy AffectNet in"):
        listing("affectnet", "--source", tmp_path)


def test_affectnet_without_its_validation_annotations_is_refused(tmp_path):
    annotations = tmp_path / "train_set" / "annotations"
    annotations.mkdir(parents=True)
    np.save(annotations / "1_exp.npy", np.array("2"))
    with pytest.raises(UserError, match=r"val_set/annotations: expected \*_exp.npy of the test split, found none"):
        listing("affectnet", "--source", tmp_path)
