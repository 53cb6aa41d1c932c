import errno
import re
import struct
import zlib

import numpy as np
import pytest
from small_folders import NAMES, blocks, drawn_folder, labelled_folder, refused, run, write_csv, write_image

from aujax import cli
from aujax.data import store
from aujax.data.landmarks import DlibDetector
from aujax.data.store import open_faces
from aujax.data.synthetic import draw_face


@pytest.fixture
def source(tmp_path):
    return labelled_folder(tmp_path / "source", NAMES, subjects=[str(number // 2) for number in range(len(NAMES))])


def test_a_few_unreadable_images_are_left_out_and_named(tmp_path, source):
    (source / "a" / "003.png").write_bytes(b"")
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert "a/003.png: empty file (0 bytes)" in (tmp_path / "out" / "report.txt").read_text()
    assert sum(open_faces(tmp_path / "out").splits.values()) == len(NAMES) - 1


def test_an_image_that_would_exhaust_the_memory_is_left_out(tmp_path, source):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    (source / "a" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert "a/003.png: more than 179 megapixels; make it smaller" in (tmp_path / "out" / "report.txt").read_text()


def test_many_unreadable_images_stop_the_preparation_unless_allowed(tmp_path, source, capsys):
    (source / "a" / "003.png").unlink()
    (source / "a" / "004.png").write_bytes(b"nothing")
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    message = refused(capsys, *command)
    assert "2 of 24 images cannot be read, at most 1 were expected (a/003.png: No such file or directory" in message
    assert "--allow-unreadable=2" in message
    run(*command, "--allow-unreadable=2")


def test_unreadable_images_take_no_place_in_the_splits(tmp_path, source):
    for number in (3, 8):
        (source / "a" / f"{number:03d}.png").write_bytes(b"nothing")
    command = ("folder", "--source", source, "--landmarks=none")
    run(*command, "--out", tmp_path / "with", "--allow-unreadable=2")
    lines = (source / "labels.csv").read_text().splitlines()
    (source / "labels.csv").write_text("\n".join(line for line in lines if line[2:5] not in ("003", "008")))
    run(*command, "--out", tmp_path / "without")
    assert open_faces(tmp_path / "with").fingerprint == open_faces(tmp_path / "without").fingerprint


@pytest.mark.parametrize(
    ("path", "why"), [("gone.png", "No such file or directory"), ("nu\0l.png", "embedded null byte")]
)
def test_only_image_that_cannot_be_read_is_named(tmp_path, capsys, path, why):
    source = write_csv(tmp_path / "labels.csv", [{"image": path, "expression": "sad"}])
    message = refused(capsys, "folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert f"the source has none that can be read ({path}: {why}); check --source" in message


def test_face_box_that_is_not_finite_is_left_out_and_named(tmp_path):
    lines = [f"{number}.png,8,0,{'inf' if number == 2 else 16},20,,{number},0,0" for number in range(4)]
    for number in range(4):
        write_image(tmp_path / "in" / "images" / f"{number}.png", blocks(number))
    (tmp_path / "in" / "training.csv").write_text("\n".join(lines[:3]))
    (tmp_path / "in" / "validation.csv").write_text(lines[3])
    command = ("affectnet", "--source", tmp_path / "in", "--out", tmp_path / "out", "--validation=0")
    run(*command, "--landmarks=none")
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "2.png: its face box (8.0, 0.0, inf, 20.0) is not finite" in report


@pytest.mark.parametrize("option", ["--seed=-1", "--allow-unreadable=-1", "--jobs=0", "--train=0", "--test=-1"])
def test_number_below_the_least_is_refused(tmp_path, capsys, option):
    name, _, number = option.partition("=")
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "synthetic", f"--out={tmp_path / 'out'}", option])
    assert stop.value.code == 2
    assert f"argument {name}: expected a whole number from " in (message := capsys.readouterr().err)
    assert f"got '{number}'" in message


def test_mistake_names_the_help_of_its_source(tmp_path, capsys):
    message = refused(capsys, "folder", "--source", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert message.endswith("\naujax prepare folder --help shows the options.\n")


def test_copies_of_one_photograph_are_reported_and_stay_in_one_split(tmp_path):
    rows = []
    for number in range(20):
        write_image(tmp_path / "in" / f"{number}.png", blocks(number // 2))
        rows.append({"image": f"{number}.png", "expression": "happy" if number != 7 else "sad"})
    write_csv(tmp_path / "in" / "labels.csv", rows)
    run("folder", "--source", tmp_path / "in", "--out", tmp_path / "out", "--landmarks=none")
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "copies of one image in two splits: none" in report
    assert "6.png (Happiness) = 7.png (Sadness)" in report


def test_copies_and_subjects_across_the_given_splits_are_reported(tmp_path):
    rows = []
    for number, split in enumerate(["train", "train", "test", "validation"]):
        write_image(tmp_path / "in" / f"{number}.png", blocks(0 if number in (1, 2) else number))
        rows.append(
            {"image": f"{number}.png", "expression": "sad", "split": split, "subject_id": "ann" if number else ""}
        )
    write_csv(tmp_path / "in" / "labels.csv", rows)
    run("folder", "--source", tmp_path / "in", "--out", tmp_path / "out", "--landmarks=none")
    report = (tmp_path / "out" / "report.txt").read_text()
    assert "1.png (train) = 2.png (test)" in report
    assert "ann: 1 in train, 1 in test, 1 in validation" in report


def test_image_listed_twice_is_refused(tmp_path, capsys):
    source = labelled_folder(tmp_path / "in", ["happy", "sad"])
    with (source / "labels.csv").open("a") as file:
        file.write("a/001.png,happy\n")
    message = refused(capsys, "folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert "'a/001.png' comes 2 times" in message


def test_full_disk_keeps_landmarks_and_the_next_run_goes_on(tmp_path, monkeypatch, capsys):
    source = drawn_folder(tmp_path / "source")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.SequentialWriter, "add_examples", full)
        message = refused(capsys, "folder", "--source", source, "--out", tmp_path / "out")
    assert "no space left on the disk" in message
    assert f"are kept in {tmp_path / 'out' / 'landmarks.jsonl'}" in message
    cached = (tmp_path / "out" / "landmarks.jsonl").read_text().strip().splitlines()
    (tmp_path / "out" / "landmarks.jsonl").write_text("\n".join(cached[:5]))

    seen = []
    faces = DlibDetector.faces
    monkeypatch.setattr(DlibDetector, "faces", lambda *a: seen.append(1) or faces(*a))
    run("folder", "--source", source, "--out", tmp_path / "out")
    assert len(seen) == 3


def test_full_disk_in_array_record_gives_the_same_message(tmp_path, source, monkeypatch, capsys):
    def full(*_):
        raise RuntimeError("write() failed: No space left on device; writing x")

    monkeypatch.setattr(store.SequentialWriter, "add_examples", full)
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert "no space left on the disk" in refused(capsys, *command)


def test_ctrl_c_ends_with_one_line_and_status_130(tmp_path, source, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.SequentialWriter, "add_examples", interrupt)
    with pytest.raises(SystemExit) as stop:
        run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert stop.value.code == 130
    assert "stopped: landmarks detected so far are kept" in capsys.readouterr().err


def test_folder_of_other_things_is_not_written_into(tmp_path, source, capsys):
    assert "expected an empty or new folder, it holds a, labels.csv" in refused(
        capsys, "folder", "--source", source, "--out", source, "--landmarks=none"
    )
    assert "found a file" in refused(capsys, "folder", "--source", source, "--out", source / "labels.csv")


def test_empty_validation_split_is_refused(tmp_path, capsys):
    source = labelled_folder(tmp_path / "in", ["happy"] * 4)
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none", "--validation=0.01")
    assert "the split 'validation' is empty" in refused(capsys, *command)


def drawn_with_landmarks(folder, count=20, *, change=lambda landmarks: landmarks):
    """Drawn faces with their landmarks in a file; returns the arguments that prepare them."""
    lines = []
    for index in range(count):
        face = draw_face(0, index, size=64)
        write_image(folder / "happy" / f"{index}.png", face.image)
        x, y = change(face.landmarks).T
        lines.append(",".join([f"happy/{index}.png", *map(str, x), *map(str, y)]))
    (folder / "landmarks.txt").write_text("\n".join(lines))
    return ("folder", "--source", folder, f"--landmarks={folder / 'landmarks.txt'}", "--out", folder / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: points[:, ::-1], "20 of 20 checked images have a face only if x and y are exchanged"),
        (lambda points: 0.8 * points, "on average they lie at [34].% of the width: .* --landmarks-size=WIDTHxHEIGHT"),
        (lambda points: 1.3 * points, "on average they lie at 6.% of the width: .* or --landmarks-size=own"),
        (lambda points: 2 * points, "found on images of another size"),
    ],
    ids=["exchanged", "0.8", "1.3", "2"],
)
def test_landmarks_that_are_not_those_of_the_images_are_refused(tmp_path, capsys, change, message):
    assert re.search(message, refused(capsys, *drawn_with_landmarks(tmp_path, change=change)))


def test_landmarks_of_another_size_are_accepted_with_it(tmp_path):
    run(*drawn_with_landmarks(tmp_path, change=lambda points: 1.25 * points), "--landmarks-size=80x80")
    face = open_faces(tmp_path / "out").source("train")[0]
    number = int(face["id"].removeprefix("happy/").removesuffix(".png"))
    # Pixel centres: (x + 0.5) / 80 = (x' + 0.5) / 64.
    expected = (1.25 * draw_face(0, number, size=64).landmarks + 0.5) * 0.8 - 0.5
    np.testing.assert_allclose(face["landmarks"], expected, atol=1e-3)


def test_faces_beside_the_middle_are_accepted_if_their_landmarks_are_said_to_be_right(tmp_path):
    run(*drawn_with_landmarks(tmp_path, change=lambda points: 0.8 * points), "--landmarks-size=own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--landmarks=dlib", "--landmarks-size=9x9"],
            "--landmarks-size=9x9: expected landmarks of a file",
        ),
        (["--landmarks=none", "--landmarks-size=9x9"], "got --landmarks=none"),
        (["--landmarks=none", "--landmarks-model=x.dat"], "--landmarks-model=x.dat: expected --landmarks=dlib"),
        (["--landmarks=none", "--landmarks-size=big"], "expected WIDTHxHEIGHT in pixels, such as 224x224, or own"),
    ],
)
def test_options_that_nothing_would_read_are_refused(tmp_path, capsys, source, options, message):
    assert message in refused(capsys, "folder", "--source", source, "--out", tmp_path / "out", *options)


def test_a_changed_count_of_drawn_faces_is_named_by_its_option(tmp_path, capsys):
    command = ("synthetic", "--train=2", "--validation=1", "--size=32", "--out", tmp_path / "out")
    run(*command, "--test=1")
    assert "(--test was 1, now 2)" in refused(capsys, *command, "--test=2")
