import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_folders import blocks, landmarks_within

from aujax.codebook import EXPRESSIONS
from aujax.data import images
from aujax.data.store import FaceSource, open_faces, write_faces
from aujax.errors import UserError


def record(number: int, **changes):
    return {
        "image": images.encode(blocks(number)),
        "landmarks": landmarks_within(32, 24, seed=number),
        "has_landmarks": number % 2 == 0,
        "expression": number % 7,
        "id": f"Ärger/{number}.jpg",
        "subject_id": "" if number % 3 else "ann",
        "aus": [6, 12, 25] if number % 2 else [],
        "attributes": {"gender": "weiblich", "Rasse": "ä"} if number % 2 else {},
    } | changes


def write(directory, rows, splits=("train", "test")):
    return write_faces(directory, rows, expressions=EXPRESSIONS, splits=splits, about={"seed": 0})


def alternating(count: int):
    return [("test" if number % 4 == 3 else "train", record(number)) for number in range(count)]


def test_faces_come_back_as_written_and_in_their_order(tmp_path):
    faces = write(tmp_path, alternating(200))
    train = faces.source("train")
    assert faces.splits == {"train": 150, "test": 50}
    for row, number in enumerate(number for number in range(200) if number % 4 != 3):
        expected, found = record(number), train[row]
        same = ("image", "has_landmarks", "expression", "id", "subject_id", "attributes")
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
        assert found["aus"].tolist() == expected["aus"]
        np.testing.assert_array_equal(found["landmarks"], expected["landmarks"])
        assert found["landmarks"].dtype == np.float32


def test_rows_count_from_either_end_and_stop_there(tmp_path):
    test = write(tmp_path, alternating(8)).source("test")
    assert [face["id"] for face in test] == ["Ärger/3.jpg", "Ärger/7.jpg"]
    assert test[-1]["id"] == "Ärger/7.jpg"
    with pytest.raises(IndexError):
        test[2]


def test_faces_can_be_read_from_many_threads(tmp_path):
    test = write(tmp_path, alternating(80)).source("test")
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda row: test[row]["id"], list(range(20)) * 10))
    assert ids == [f"Ärger/{number}.jpg" for number in range(3, 80, 4)] * 10


def test_a_moved_folder_still_opens(tmp_path):
    write(tmp_path / "before", alternating(8))
    (tmp_path / "before").rename(tmp_path / "after")
    assert open_faces(tmp_path / "after").source("test")[0]["id"] == "Ärger/3.jpg"


def test_fingerprint_follows_the_content(tmp_path):
    same = [write(tmp_path / name, alternating(8)).fingerprint for name in "ab"]
    changed = [(split, face | {"expression": 1}) for split, face in alternating(8)]
    assert same[0] == same[1] != write(tmp_path / "c", changed).fingerprint


def test_fingerprint_depends_on_attributes_but_not_on_their_order(tmp_path):
    def written(name, attributes):
        rows = [(split, face | {"attributes": attributes}) for split, face in alternating(8)]
        return write(tmp_path / name, rows).fingerprint

    one = written("a", {"gender": "male", "age": "0 to 3"})
    assert one == written("b", {"age": "0 to 3", "gender": "male"}) != written("c", {"age": "0 to 3"})


def test_fingerprint_of_faces_without_attributes_is_that_of_the_first_data_sets(tmp_path):
    """Runs that were trained on faces of format 1, or before there were attributes, can be compared with new ones."""
    rows = [(split, face | {"attributes": {}}) for split, face in alternating(8)]
    digest = hashlib.sha256("\n".join(EXPRESSIONS).encode())
    for split, face in rows:
        numbers = " ".join(str(int(number)) for number in (face["has_landmarks"], face["expression"], *face["aus"]))
        digest.update(json.dumps([split, face["id"], face["subject_id"], numbers]).encode())
        digest.update(face["landmarks"].tobytes() + hashlib.sha256(face["image"]).digest())
    assert write(tmp_path, rows).fingerprint == digest.hexdigest()


def test_data_set_of_an_older_format_is_refused_with_the_command_to_prepare_it_again(tmp_path):
    write(tmp_path, alternating(8))
    metadata = json.loads((tmp_path / "dataset.json").read_text())
    metadata |= {"format": 1, "about": {"name": "folder", "source": "photos"}}
    (tmp_path / "dataset.json").write_text(json.dumps(metadata))
    command = f"`aujax prepare folder --source=photos --out={tmp_path} --overwrite`"
    with pytest.raises(UserError, match=f"format 2, got format 1 .* prepare it again, .*: {command}"):
        open_faces(tmp_path)


def test_a_new_data_set_replaces_the_files_of_an_older_format(tmp_path):
    (tmp_path / "faces" / "1.0.0").mkdir(parents=True)
    write(tmp_path, alternating(8))
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["2.0.0"]


def test_failed_writing_leaves_an_earlier_data_set_alone(tmp_path):
    before = write(tmp_path, alternating(8))

    def rows():
        yield from alternating(4)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        write(tmp_path, rows())
    assert open_faces(tmp_path) == before
    assert sorted(path.name for path in tmp_path.rglob("*incomplete*")) == []


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="the split 'validation' is empty"):
        write(tmp_path, alternating(8), splits=("train", "validation", "test"))


def test_missing_folder_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; run that command, or correct the path"):
        open_faces(tmp_path / "nothing")


def test_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"this folder has no dataset\.json"):
        open_faces(tmp_path)


def test_unfinished_preparation_is_named(tmp_path):
    (tmp_path / "landmarks.jsonl").touch()
    with pytest.raises(UserError, match=r"did not finish .* detected landmarks are kept"):
        open_faces(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 99})])
def test_foreign_description_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="expected the description of a prepared data set"):
        open_faces(tmp_path)


def test_half_copied_data_set_is_refused(tmp_path):
    write(tmp_path, alternating(8))
    shard = next((tmp_path / "faces").rglob("*test*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"expected the file of \d+ bytes that was written, it has \d+; copy"):
        open_faces(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="it is missing"):
        open_faces(tmp_path)


def test_records_of_another_split_are_refused(tmp_path):
    write(tmp_path, alternating(8))
    train, test = (next((tmp_path / "faces").rglob(f"*-{split}*")) for split in ("train", "test"))
    assert train.stat().st_size == test.stat().st_size
    test.write_bytes(train.read_bytes())
    with pytest.raises(UserError, match=r"faces-test.* bytes that was written, its content is another; copy"):
        open_faces(tmp_path)


def test_a_data_set_without_checksums_of_its_files_is_opened(tmp_path):
    write(tmp_path, alternating(8))
    metadata = json.loads((tmp_path / "dataset.json").read_text())
    del metadata["checksums"]
    (tmp_path / "dataset.json").write_text(json.dumps(metadata))
    assert sum(open_faces(tmp_path).splits.values()) == 8


def test_damaged_face_is_named_when_it_is_read(tmp_path):
    write(tmp_path, alternating(8))
    shard = next((tmp_path / "faces").rglob("*test*"))
    head = shard.read_bytes()[: 2**16]
    shard.write_bytes(head + bytes(shard.stat().st_size - len(head)))
    test = FaceSource(open_faces(tmp_path).directory, "test")
    with pytest.raises(UserError, match=rf"{tmp_path}: expected a face in row 1 of test, .* again with --overwrite"):
        test[-1]


def test_unknown_split_is_refused_with_the_ones_there(tmp_path):
    with pytest.raises(UserError, match="no split 'valid': expected one of train, test"):
        write(tmp_path, alternating(8)).source("valid")


def test_neither_tensorflow_nor_jax_is_imported_to_read_faces(tmp_path):
    write(tmp_path, alternating(8))
    code = (
        "import sys; from aujax.data.store import open_faces; open_faces(sys.argv[1]).source('train')[0]; "
        "print([name for name in ('tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
