"""The released folds, written here as their description says; YAML of other programs runs no code."""

import numpy as np
import pytest
from small_folders import blocks, labels, landmarks_within, listing, run, splits, write_image

from aujax.codebook import EXPRESSIONS
from aujax.data.sources.folds import parse_yaml
from aujax.data.store import open_faces
from aujax.errors import UserError

TRAIN = {f"basic/Image/our_aligned/train_{number:05d}.jpg": number % 7 for number in range(1, 15)}
TEST = {f"basic/Image/our_aligned/test_{number:04d}.jpg": number % 7 for number in range(1, 8)}
CLASSES = "".join(f"{name}: {number}\n" for number, name in enumerate(EXPRESSIONS))


def points(name):
    """Landmarks of an image, another set for each."""
    return landmarks_within(32, 24, seed=int(name[-8:-4]))


def write_split(folder, faces, *, failed=()):
    folder.mkdir(parents=True)
    (folder / "image_ids.txt").write_text("".join(f"{name}\n" for name in faces))
    (folder / "class_labels.txt").write_text("".join(f"{name},{label}\n" for name, label in faces.items()))
    rows = []
    for name in faces:
        numbers = np.full(136, np.inf) if name in failed else points(name).T.ravel()  # all x, then all y
        rows.append(",".join([name, *map(str, numbers.tolist())]))
    (folder / "landmarks.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture
def released(tmp_path):
    """(data root, folds folder) of a RAF-DB of a few blocks of colour."""
    for number, name in enumerate((*TRAIN, *TEST)):
        write_image(tmp_path / "data" / "RAF-DB" / name, blocks(number))
    folds = tmp_path / "folds" / "wsol-done-right-splits" / "RAF-DB"
    for split, faces in (("train", TRAIN), ("val", TEST), ("test", TEST)):
        write_split(folds / split, faces, failed=list(faces)[:1])
    (folds / "class_id.yaml").write_text(CLASSES)
    return tmp_path / "data", folds


def found(released, *arguments):
    source, folds = released
    return listing("folds", "--source", source, "--folds", folds, *arguments)


def test_train_and_test_are_those_of_the_folds(released):
    assert splits(found(released)) == dict.fromkeys(TRAIN, "train") | dict.fromkeys(TEST, "test")


def test_numbers_mean_what_class_id_says(released):
    expected = {name: EXPRESSIONS[label] for name, label in (TRAIN | TEST).items()}
    assert labels(found(released)) == expected


def test_faces_have_the_attributes_of_rafdb_where_its_annotations_are(released):
    manual = released[0] / "RAF-DB" / "basic" / "Annotation" / "manual"
    manual.mkdir(parents=True)
    (manual / "test_0002_manu_attri.txt").write_text("1\t2\n" * 5 + "1\n0\n2\n")
    attributes = {image.id: image.attributes for image in found(released).images if image.attributes}
    assert attributes == {
        "basic/Image/our_aligned/test_0002.jpg": {"gender": "female", "race": "Caucasian", "age": "20 to 39"}
    }


def test_class_id_decides_and_not_the_order_that_is_usual(released):
    (released[1] / "class_id.yaml").write_text(
        "Anger: 0\nDisgust: 1\nFear: 2\nHappiness: 3\nNeutral: 4\nSadness: 5\nSurprise: 6\n"
    )
    assert labels(found(released))["basic/Image/our_aligned/train_00001.jpg"] == "Disgust"


def test_landmarks_come_by_name_and_failures_are_none(released):
    for image in found(released).images:
        if image.id in (next(iter(TRAIN)), next(iter(TEST))):
            assert image.landmarks is None
        else:
            np.testing.assert_allclose(image.landmarks, points(image.id), rtol=1e-6)


def test_images_are_read_from_the_data_set_or_the_folder_around_it(released):
    source, folds = released
    around, inside = found((source, folds)), found((source / "RAF-DB", folds))
    assert [image.read() for image in around.images] == [image.read() for image in inside.images]


def test_val_that_is_test_again_is_left_out_with_a_note(released):
    listed = found(released)
    assert "validation" not in splits(listed).values()
    assert listed.notes == [
        "the folds' val lists the images of test again, so validation is sampled from train instead"
    ]


def test_val_with_faces_of_its_own_validates(released):
    own = {f"basic/Image/our_aligned/val_{number:05d}.jpg": number for number in range(2)}
    for number, name in enumerate(own, start=50):
        write_image(released[0] / "RAF-DB" / name, blocks(number))
    for path in (released[1] / "val").iterdir():
        path.unlink()
    (released[1] / "val").rmdir()
    write_split(released[1] / "val", own | dict(list(TEST.items())[:1]))
    listed = found(released)
    assert {name for name, split in splits(listed).items() if split == "validation"} == set(own)
    assert listed.notes == ["1 images of the folds' val are in train or test too and are not used for validation"]


def test_the_folds_become_a_data_set_with_a_validation_split_out_of_train(released, tmp_path, capsys):
    source, folds = released
    out = tmp_path / "prepared"
    run("folds", "--source", source, "--folds", folds, "--out", out, "--validation=0.5")
    faces = open_faces(out)
    assert faces.splits == {"train": 7, "validation": 7, "test": 7}
    assert sum(faces.landmarks.values()) == 21 - 2
    test = {face["id"]: face for face in faces.source("test")}
    assert set(test) == set(TEST)
    name = list(TEST)[3]
    np.testing.assert_allclose(test[name]["landmarks"], points(name), rtol=1e-6)
    assert "validation is sampled from train instead" in capsys.readouterr().out


def test_other_landmarks_make_those_of_the_folds_needless(released, tmp_path):
    source, folds = released
    for split in ("train", "test"):
        (folds / split / "landmarks.txt").unlink()
    out = tmp_path / "prepared"
    options = ["--out", out, "--landmarks=none", "--validation=0.5"]
    run("folds", "--source", source, "--folds", folds, *options)
    assert sum(open_faces(out).landmarks.values()) == 0


def replace(folds, name, old, new):
    path = folds / name
    path.write_text(path.read_text().replace(old, new))


def multiplying():
    """Ten levels of merge keys, which read as YAML says would take ten to the tenth steps."""
    levels = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 11)]
    return "\n".join(["a0: &a0 {x: 1}", *levels])


ID = "basic/Image/our_aligned/train_00002.jpg"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "class_id.yaml").unlink(), r"expected class_id\.yaml and the folders train, val, test"),
        (
            lambda f: (f / "class_id.yaml").write_text("Neutral: ["),
            r"class_id\.yaml: expected YAML, .* like 'Anger: 4'",
        ),
        (lambda f: (f / "class_id.yaml").write_text("- 1"), r"class_id\.yaml: expected values by name, .*'Anger: 4'"),
        (
            lambda f: (f / "class_id.yaml").write_text("a: 1"),
            r"class_id\.yaml: expected the expressions Neutral, .*got a",
        ),
        (
            lambda f: replace(f, "class_id.yaml", "Neutral: 0", "Neutral: !!timestamp x"),
            "expected the numbers 0 to 6, got",
        ),
        (
            lambda f: (f / "class_id.yaml").write_text(multiplying()),
            "expected the expressions .* got a0.*; copy the folds",
        ),
        (lambda f: replace(f, "class_id.yaml", "Fear", "Contempt"), "expected the expressions .* got .*Contempt"),
        (lambda f: replace(f, "class_id.yaml", "6", "7"), r"expected the numbers 0 to 6, got \[0, 1, 2, 3, 4, 5, 7\]"),
        (lambda f: (f / "train" / "image_ids.txt").unlink(), r"train.image_ids\.txt: no such file; copy the folds"),
        (
            lambda f: (f / "train" / "image_ids.txt").write_text("\n"),
            "expected a path of an image per line, found none",
        ),
        (lambda f: replace(f, "train/image_ids.txt", "00002", "00003"), "expected each image once, 1 are repeated"),
        (lambda f: replace(f, "train/image_ids.txt", "train_00002", "test_0002"), r"1 images are in train and in test"),
        (lambda f: (f / "test" / "class_labels.txt").unlink(), r"test.class_labels\.txt: no such file"),
        (lambda f: replace(f, "train/class_labels.txt", f"{ID},2", f"{ID},7"), r"line 2: expected .* from 0 to 6"),
        (lambda f: replace(f, "train/class_labels.txt", f"{ID},2", ID), r"line 2: expected a path and a number"),
        (
            lambda f: replace(f, "train/class_labels.txt", f"{ID},2\n", ""),
            rf"class_labels\.txt: expected a line for each image of image_ids\.txt, 1 have none \(first: {ID}\)",
        ),
        (lambda f: (f / "train" / "landmarks.txt").unlink(), r"landmarks\.txt: no such file; .* --landmarks=dlib"),
        (lambda f: replace(f, "train/landmarks.txt", ID, "other.jpg"), r"landmarks\.txt: expected a line for each"),
        (lambda f: replace(f, "train/landmarks.txt", f"{ID},", f"{ID},1,"), r"line 2: landmarks must have shape"),
        (lambda f: replace(f, "train/landmarks.txt", f"{ID},", f"{ID},x"), r"line 2: expected numbers separated by"),
        (lambda f: (f / "train" / "image_ids.txt").write_bytes(b"\xe9.jpg"), "expected a table in UTF-8 text"),
    ],
)
def test_broken_folds_are_refused_by_file_and_line(released, damage, message):
    damage(released[1])
    with pytest.raises(UserError, match=message):
        found(released)


def test_a_data_set_without_the_images_of_the_folds_is_refused(released, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"expected images such as basic/Image/our_aligned/train_00001\.jpg in it or"):
        found((tmp_path / "elsewhere", released[1]))
    with pytest.raises(UserError, match="no such folder"):
        found((tmp_path / "nowhere", released[1]))


def test_a_few_missing_images_are_left_to_the_check_of_all_images(released):
    (released[0] / "RAF-DB" / ID).unlink()
    image = next(image for image in found(released).images if image.id == ID)
    with pytest.raises(FileNotFoundError):
        image.read()


def test_foreign_tags_give_plain_values_and_run_nothing(tmp_path):
    owned = tmp_path / "owned"
    text = f"a: !!python/object/apply:os.system ['touch {owned}']\nb: !munch.Munch {{c: 1}}\nd: !x.Y z\n"
    parsed = parse_yaml(text)
    assert (parsed["b.c"], parsed["d"]) == (1, "z")
    assert not owned.exists()


@pytest.mark.parametrize("tag", ["timestamp", "binary", "set", "omap", "pairs", "merge"])
def test_a_tag_of_yaml_without_a_plain_value_is_ignored(tag):
    assert parse_yaml(f"a: !!{tag} x") == {"a": "x"}


def test_aliases_that_multiply_do_not_use_memory():
    # Nine levels of ten aliases: ten to the ninth values when written out.
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    merged = [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    parsed = parse_yaml("\n".join(["a0: &a0 [x]", *levels, "b0: &b0 {x: 1}", *merged]))
    assert max(len(str(value)) for value in parsed.values()) < 1000


def test_a_very_long_whole_number_is_cut():
    assert len(parse_yaml(f"a: {'9' * 4000}")["a"]) < 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [", "expected YAML, got something else"),
        ("a: *b", "expected YAML, got something else"),
        ("a: &a {b: *a}", "expected YAML, got something else"),
        ("a: !!int x", "expected YAML, got something else"),
        ("a: !!int " + "9" * 5000, "expected YAML, got something else"),
        ("a: !!bool x", "expected YAML, got something else"),
        ("[" * 5000, "expected YAML, got something else"),
        ("\0", "expected YAML, got something else"),
        ("- 1", "expected values by name, got something else"),
        ("", "expected values by name, got something else"),
        ("a: " + "b" * 2**20, "expected YAML of at most 1048576 characters, got 1048579"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_yaml(text)
