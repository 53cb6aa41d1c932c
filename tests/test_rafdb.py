import zipfile

import numpy as np
import pytest
from small_folders import blocks, labels, listing, write_image

from aujax.errors import UserError


def official_rafdb(root, *, name="list_patition_label.txt", images="aligned"):
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / name).write_text("train_00001.jpg 5\ntrain_00002.jpg 1\ntest_0001.jpg 7\n")
    ending = "_aligned" if images == "aligned" else ""
    for number, stem in enumerate(("train_00001", "train_00002", "test_0001")):
        write_image(root / "Image" / images / f"{stem}{ending}.jpg", blocks(number))
    return root


def pack(folder):
    with zipfile.ZipFile(folder.with_name(folder.name + ".zip"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
            path.unlink()
    folder.rmdir()


def annotated(root, *codes, images="aligned"):
    """The images of a small RAF-DB with these codes below the five points of the first ones."""
    (root / "Annotation" / "manual").mkdir(parents=True)
    for stem, text in zip(("train_00001", "train_00002", "test_0001"), codes, strict=False):
        (root / "Annotation" / "manual" / f"{stem}_manu_attri.txt").write_text("3\t4\n9\t4\n6\t6\n4\t9\n8\t9\n" + text)
    return listing("rafdb", "--source", root, f"--images={images}").images


@pytest.mark.parametrize("name", ["list_patition_label.txt", "list_partition_label.txt"])
def test_official_rafdb_has_its_own_codes_and_test_split(tmp_path, name):
    found = listing("rafdb", "--source", official_rafdb(tmp_path / "basic", name=name).parent)
    assert [found.expressions[image.expression] for image in found.images] == ["Sadness", "Surprise", "Neutral"]
    assert [image.split for image in found.images] == ["train", "train", "test"]
    assert found.notes[1].startswith("RAF-DB has 12271 images in train, this copy has 2: part of it is missing")


def test_packed_rafdb_reads_the_same_images(tmp_path):
    root = official_rafdb(tmp_path)
    unpacked = [image.read() for image in listing("rafdb", "--source", root).images]
    pack(root / "Image" / "aligned")
    assert [image.read() for image in listing("rafdb", "--source", root).images] == unpacked


def test_original_rafdb_comes_with_boxes_and_points(tmp_path):
    root = official_rafdb(tmp_path, images="original")
    for folder, name, text in (
        ("manual", "train_00001_manu_attri.txt", "9\t4\n3\t4\n6\t6\n4\t9\n8\t9\n0\n1\n2\n"),
        ("boundingbox", "train_00001_boundingbox.txt", "1.5 2 20 21 \n"),
    ):
        (root / "Annotation" / folder).mkdir(parents=True)
        (root / "Annotation" / folder / name).write_text(text)
    pack(root / "Annotation" / "manual")
    first, second, _ = listing("rafdb", "--source", root, "--images=original").images
    assert first.box == (1.5, 2, 20, 21)
    np.testing.assert_array_equal(first.points, [(3, 4), (9, 4), (6, 6), (4, 9), (8, 9)])
    assert second.box is None
    assert second.points is None


@pytest.mark.parametrize("images", ["aligned", "original"])
def test_rafdb_comes_with_gender_race_and_age(tmp_path, images):
    root = official_rafdb(tmp_path, images=images)
    first, second, third = annotated(root, "1\n2\n0\n", "0\n0\n4", "", images=images)
    assert first.attributes == {"gender": "female", "race": "Asian", "age": "0 to 3"}
    assert second.attributes == {"gender": "male", "race": "Caucasian", "age": "70 and more"}
    assert third.attributes == {}
    assert (first.points is None) == (images == "aligned")  # the points are in pixels of the original image


@pytest.mark.parametrize(("codes", "message"), [("3\n0\n0\n", "gender from 0 to 2"), ("0\n1\n0.5", "age from 0 to 4")])
def test_unknown_code_of_a_rafdb_attribute_is_refused(tmp_path, codes, message):
    with pytest.raises(
        UserError, match=rf"train_00001_manu_attri\.txt: expected a code of {message} .* copy the annot"
    ):
        annotated(official_rafdb(tmp_path), codes)


@pytest.mark.parametrize("images", ["aligned", "original"])
def test_rafdb_without_annotations_reports_what_is_unknown(tmp_path, images):
    notes = listing("rafdb", "--source", official_rafdb(tmp_path, images=images), f"--images={images}").notes
    known = [note for note in notes if "gender, race and age are not known" in note]
    assert len(known) == 1
    assert ("aligned by detected landmarks" in known[0]) == (images == "original")


def test_images_missing_from_rafdb_stay_listed_and_fail_when_read(tmp_path):
    root = official_rafdb(tmp_path)
    (root / "Image" / "aligned" / "train_00002_aligned.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        listing("rafdb", "--source", root).images[1].read()


def test_class_folder_copy_of_rafdb_uses_its_codes(tmp_path):
    write_image(tmp_path / "train" / "4" / "train_00003_aligned.jpg", blocks(1))
    write_image(tmp_path / "valid" / "6" / "test_0002_aligned.jpg", blocks(2))
    found = listing("rafdb", "--source", tmp_path)
    assert [found.expressions[image.expression] for image in found.images] == ["Anger", "Happiness"][::-1]
    assert [image.split for image in found.images] == ["train", "test"]


def test_flat_copy_of_rafdb_reads_its_csv(tmp_path):
    write_image(tmp_path / "train" / "train_00003_aligned.jpg", blocks(1))
    (tmp_path / "train_labels.csv").write_text("image,label\ntrain_00003_aligned.jpg,2\n")
    assert labels(listing("rafdb", "--source", tmp_path)) == {"train/train_00003_aligned.jpg": "Fear"}


def test_rafdb_without_the_requested_images_lists_those_present(tmp_path):
    with pytest.raises(UserError, match=r"expected this folder or original\.zip, found aligned"):
        listing("rafdb", "--source", official_rafdb(tmp_path), "--images=original")


def test_broken_rafdb_list_and_archive_are_refused(tmp_path):
    root = official_rafdb(tmp_path)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 8\n")
    with pytest.raises(UserError, match=r"line 1: expected a name and a code"):
        listing("rafdb", "--source", root)
    pack(root / "Image" / "aligned")
    (root / "Image" / "aligned.zip").write_bytes(b"half")
    with pytest.raises(UserError, match="expected a zip archive"):
        listing("rafdb", "--source", root)


@pytest.mark.parametrize("name", ["EmoLabel/list_patition_label.txt", "train_labels.csv"])
def test_rafdb_labels_that_are_not_utf_8_are_refused(tmp_path, name):
    write_image(tmp_path / "train" / "train_00003_aligned.jpg", blocks(1))
    (tmp_path / "Image" / "aligned").mkdir(parents=True)
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / name).write_bytes(b"train_\xe9.jpg 5")
    with pytest.raises(UserError, match=rf"{name}: expected a table in UTF-8 text, .* copy it again"):
        listing("rafdb", "--source", tmp_path)


@pytest.mark.parametrize("damage", ["not a number", "not UTF-8", "stored member", "deflated member"])
def test_broken_rafdb_annotation_is_refused(tmp_path, damage):
    root = official_rafdb(tmp_path, images="original")
    (root / "Annotation").mkdir()
    archive, member = root / "Annotation" / "boundingbox.zip", "boundingbox/train_00001_boundingbox.txt"
    content = {"not a number": b"1 2 3 x", "not UTF-8": b"1 2 3 \xe9"}.get(damage, b"1.5 2 20 21 " * 9)
    method = zipfile.ZIP_DEFLATED if damage == "deflated member" else zipfile.ZIP_STORED
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr(member, content)
    if "member" in damage:
        data, start = archive.read_bytes(), 30 + len(member)  # after the member's header and name
        archive.write_bytes(data[:start] + b"\xff" * 4 + data[start + 4 :])
    with pytest.raises(UserError, match=r"train_00001_boundingbox\.txt: expected numbers, .* copy the annotations"):
        listing("rafdb", "--source", root, "--images=original")


def test_unknown_class_folder_of_a_rafdb_copy_is_sent_to_the_source_folder(tmp_path):
    for name in ("4", "8"):
        write_image(tmp_path / "train" / name / f"{name}.jpg", blocks(int(name)))
    with pytest.raises(UserError, match=r"found 4, 8; .*: folder --source=.* --classes=4=Happiness,8=\.\.\.$"):
        listing("rafdb", "--source", tmp_path)


def test_a_copy_of_class_folders_has_no_original_images(tmp_path):
    write_image(tmp_path / "train" / "4" / "1.jpg", blocks(1))
    with pytest.raises(UserError, match=r"--images=original: expected the official folder .* found train; give that"):
        listing("rafdb", "--source", tmp_path, "--images=original")
