import argparse
import pathlib
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from small_folders import (
    NAMES,
    blocks,
    drawn_folder,
    labelled_folder,
    landmarks_within,
    refused,
    run,
    write_csv,
    write_image,
)

from aujax import cli
from aujax.data import alignment, images
from aujax.data.landmarks import DETECTORS, DlibDetector
from aujax.data.prepare import SOURCES, prepare
from aujax.data.sources import Listing, SourceImage
from aujax.data.store import open_faces
from aujax.data.synthetic import draw_face


@pytest.fixture
def source(tmp_path):
    return labelled_folder(tmp_path / "source", NAMES, subjects=[str(number // 2) for number in range(len(NAMES))])


def test_folder_becomes_a_data_set_with_three_splits_and_no_shared_subject(tmp_path, source):
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none", "--test=0.25")
    faces = open_faces(tmp_path / "out")
    assert sum(faces.splits.values()) == len(NAMES)
    people = [{face["subject_id"] for face in faces.source(split)} for split in ("train", "validation", "test")]
    assert all(people)
    assert sum(map(len, people)) == len(set.union(*people)) == 12


def test_plain_images_are_stored_byte_for_byte(tmp_path, source):
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    face = open_faces(tmp_path / "out").source("train")[0]
    assert face["image"] == (source / face["id"]).read_bytes()
    assert not face["has_landmarks"]


def test_attributes_of_a_csv_file_reach_the_records(tmp_path, source):
    rows = [{"image": f"a/{n:03d}.png", "expression": name, "age": str(n)} for n, name in enumerate(NAMES)]
    write_csv(source / "labels.csv", rows)
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    face = open_faces(tmp_path / "out").source("train")[0]
    assert face["attributes"] == {"age": str(int(face["id"][2:5]))}
    assert "kept as attributes of the faces: age" in (tmp_path / "out" / "report.txt").read_text()


def test_report_has_the_counts_and_is_kept_in_the_folder(tmp_path, source, capsys):
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    report = (tmp_path / "out" / "report.txt").read_text()
    assert report in capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in report.splitlines() if line}
    assert lines["expression"] == ["train", "validation", "test", "all", "landmarks", "no", "landmarks"]
    assert lines["Happiness"][3:] == ["6", "0", "6"]
    assert lines["all"][3:] == ["24", "0", "24"]
    assert "note: test has no Fear, Anger, Disgust: results there do not cover" in report


def test_the_same_command_again_is_quick_and_changes_nothing(tmp_path, source, capsys):
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    run(*command)
    before = open_faces(tmp_path / "out")
    (source / "labels.csv").unlink()  # so that preparing again would fail
    run(*command)
    assert "is already prepared" in capsys.readouterr().out
    assert open_faces(tmp_path / "out") == before


def test_other_options_need_another_folder_or_overwrite(tmp_path, source, capsys):
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    run(*command)
    assert "prepared with other options (--seed was 0, now 1)" in refused(capsys, *command, "--seed=1")
    run(*command, "--seed=1", "--overwrite")
    assert open_faces(tmp_path / "out").about["seed"] == 1


def test_data_set_states_the_terms_of_its_images_and_landmarks(tmp_path, source):
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    about = open_faces(tmp_path / "out").about
    assert about["terms"] == SOURCES["folder"].terms
    assert about["detector_terms"] == DETECTORS["none"].terms
    assert about["cropped"] is False


def test_one_seed_gives_one_fingerprint(tmp_path, source):
    prints = []
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        run("folder", "--source", source, "--out", tmp_path / name, "--landmarks=none", f"--seed={seed}")
        prints.append(open_faces(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_landmark_file_fills_those_it_names_and_flags_the_rest(tmp_path, source):
    np.save(tmp_path / "000.npy", landmarks_within(32, 24))
    (tmp_path / "marks").mkdir()
    (tmp_path / "000.npy").rename(tmp_path / "marks" / "000.npy")
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks", tmp_path / "marks")
    faces = open_faces(tmp_path / "out")
    marked = [face for split in faces.splits for face in faces.source(split) if face["has_landmarks"]]
    assert [face["id"] for face in marked] == ["a/000.png"]
    np.testing.assert_array_equal(marked[0]["landmarks"], landmarks_within(32, 24))


@pytest.mark.parametrize("factor", [4, 0.3])
def test_landmarks_of_images_of_another_size_need_the_option(tmp_path, source, capsys, factor):
    marks = np.stack([landmarks_within(32, 24, seed=number) for number in range(len(NAMES))])
    np.save(tmp_path / "marks.npy", factor * marks)
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks", tmp_path / "marks.npy")
    assert "found on images of another size: a/000.png has 32 x 24 pixels" in refused(capsys, *command)
    width, height = round(10 * 32 * factor), round(10 * 24 * factor)
    # A pixel's centre has whole numbers, so the image of 32 x 24 reaches from -0.5 to 31.5 and 23.5.
    np.save(tmp_path / "marks.npy", 10 * factor * (marks + 0.5) - 0.5)
    run(*command, f"--landmarks-size={width}x{height}")
    face = open_faces(tmp_path / "out").source("train")[0]
    np.testing.assert_allclose(face["landmarks"], marks[int(face["id"][2:5])], rtol=1e-5)


def test_landmarks_size_must_be_a_size(tmp_path, source, capsys):
    command = ("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert "expected WIDTHxHEIGHT in pixels" in refused(capsys, *command, "--landmarks-size=224")


def test_detected_landmarks_are_kept_and_not_computed_again(tmp_path, monkeypatch):
    source = drawn_folder(tmp_path / "source")
    run("folder", "--source", source, "--out", tmp_path / "out")
    before = open_faces(tmp_path / "out")
    marked = [face["has_landmarks"] for split in before.splits for face in before.source(split)]
    assert sum(marked) >= 4

    monkeypatch.setattr(DlibDetector, "faces", lambda *_: pytest.fail("detected again"))
    (tmp_path / "out" / "dataset.json").unlink()
    run("folder", "--source", source, "--out", tmp_path / "out")
    assert open_faces(tmp_path / "out").fingerprint == before.fingerprint


def test_detection_in_processes_gives_the_same_data_set(tmp_path):
    source = drawn_folder(tmp_path / "source")
    run("folder", "--source", source, "--out", tmp_path / "one")
    cli.main(["prepare", "folder", f"--source={source}", f"--out={tmp_path / 'two'}", "--jobs=2"])
    assert open_faces(tmp_path / "one").fingerprint == open_faces(tmp_path / "two").fingerprint


def test_each_image_is_read_and_decoded_once(tmp_path, source, monkeypatch):
    read, decoded = [], []
    read_bytes, decode = pathlib.Path.read_bytes, images.decode
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    monkeypatch.setattr(images, "decode", lambda data: decoded.append(data) or decode(data))
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none")
    assert sorted(name for name in read if name.endswith(".png")) == [f"{n:03d}.png" for n in range(len(NAMES))]
    assert len(decoded) == len(NAMES)


def test_five_point_alignment_brings_eyes_nose_and_mouth_to_the_template(tmp_path):
    command = ("synthetic", "--train=6", "--validation=0", "--test=1", "--out", tmp_path / "out")
    run(*command, "--align=five-point")
    for face in open_faces(tmp_path / "out").source("train"):
        assert images.decode(face["image"]).shape == (224, 224, 3)
        away = alignment.five_points(face["landmarks"]) - alignment.TEMPLATE
        assert np.linalg.norm(away.mean(0)) < 0.1  # a least-squares fit leaves the centres equal
        assert np.abs(away).max() < 30


def test_face_without_points_is_squeezed_and_flagged_when_aligning(tmp_path, source):
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none", "--align=five-point")
    face = open_faces(tmp_path / "out").source("train")[0]
    assert images.decode(face["image"]).shape == (224, 224, 3)
    assert not face["has_landmarks"]


def test_face_box_is_cut_out_and_its_landmarks_shifted(tmp_path):
    pixels = blocks(1, height=64, width=64)
    lines = []
    for number, (part, name) in enumerate((("training", "a"), ("training", "b"), ("validation", "c"))):
        write_image(tmp_path / "in" / "images" / f"{name}.png", blocks(number, height=64, width=64))
        points = ";".join(map(str, (landmarks_within(32, 40) + np.array([16, 8])).ravel()))
        lines.append((part, f"{name}.png,16,8,32,40,{points},{number},0,0\n"))
    for part in ("training", "validation"):
        (tmp_path / "in" / f"{part}.csv").write_text("".join(line for kind, line in lines if kind == part))
    run("affectnet", "--source", tmp_path / "in", "--out", tmp_path / "out", "--validation=0")
    face = open_faces(tmp_path / "out").source("train")[1]
    np.testing.assert_array_equal(images.decode(face["image"]), pixels[8:48, 16:48])
    np.testing.assert_allclose(face["landmarks"], landmarks_within(32, 40), atol=1e-4)


def test_annotated_points_align_first_and_landmarks_are_found_on_the_result(tmp_path):
    root = tmp_path / "basic"
    for folder in ("EmoLabel", "Annotation/manual"):
        (root / folder).mkdir(parents=True)
    names = ["train_00001", "train_00002", "train_00003", "test_0001"]
    for number, name in enumerate(names):
        face = draw_face(0, number, size=160)
        crowd = np.hstack([draw_face(0, 50, size=160).image, face.image])  # beside a second face
        write_image(root / "Image" / "original" / f"{name}.jpg", crowd)
        points = alignment.five_points(face.landmarks) + np.array([160, 0])
        text = "\n".join(f"{x:.2f}\t{y:.2f}" for x, y in points)
        (root / "Annotation" / "manual" / f"{name}_manu_attri.txt").write_text(text)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(f"{name}.jpg 4" for name in names))
    command = ("rafdb", "--source", root, "--images=original", "--align=five-point", "--validation=0")
    run(*command, "--out", tmp_path / "out")
    found = [face for face in open_faces(tmp_path / "out").source("train") if face["has_landmarks"]]
    assert len(found) >= 2
    for face in found:
        assert np.abs(alignment.five_points(face["landmarks"]) - alignment.TEMPLATE).mean() < 20


def test_photograph_turned_by_exif_is_stored_upright(tmp_path):
    source = labelled_folder(tmp_path / "in", ["happy"] * 5)
    upright = cv2.imencode(".jpg", blocks(0)[..., 0])[1].tobytes()
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 6, 0)  # to be turned clockwise
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    for number in range(5):
        (source / "a" / f"{number:03d}.png").write_bytes(upright[:2] + block + upright[2:] + bytes([number]))
    run("folder", "--source", source, "--out", tmp_path / "out", "--landmarks=none", "--test=0.4", "--validation=0")
    data = open_faces(tmp_path / "out").source("train")[0]["image"]
    assert images.is_plain(data, images.decode(data))
    turned = np.rot90(images.decode(upright), -1).astype(int)
    assert np.abs(images.decode(data) - turned).mean() < 3


def test_drawn_faces_keep_their_landmarks_and_action_units(tmp_path):
    run("synthetic", "--train=3", "--validation=1", "--test=1", "--size=64", "--out", tmp_path / "out")
    face, drawn = open_faces(tmp_path / "out").source("train")[2], draw_face(0, 2, size=64)
    np.testing.assert_allclose(face["landmarks"], drawn.landmarks, rtol=1e-6)
    assert face["aus"].tolist() == list(drawn.aus)
    assert face["expression"] == drawn.expression
    assert np.abs(images.decode(face["image"]).astype(int) - drawn.image).mean() < 4


def test_command_line_runs_as_a_module_and_writes_nowhere_else(tmp_path, source):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-W", "error", "-m", "aujax.data.prepare", "folder", f"--source={source}"]
    environment = {"HOME": str(home), "PATH": ""}
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'out'}", "--landmarks=none"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", SOURCES)
def test_help_of_every_source_shows_its_options(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", name, "--help"])
    assert stop.value.code == 0
    assert "--align" in capsys.readouterr().out


def test_reference_alignment_moves_faces_by_the_fit_of_the_released_code(tmp_path):
    command = ("synthetic", "--train=3", "--validation=0", "--test=1", "--size=64", "--out", tmp_path / "out")
    run(*command, "--align=five-point/reference")
    faces = open_faces(tmp_path / "out")
    assert faces.about["align"] == "five-point/reference"
    for index, face in enumerate(faces.source("train")):
        landmarks = draw_face(0, index, size=64).landmarks
        fit = alignment.FITS["five-point/reference"](alignment.five_points(landmarks), alignment.TEMPLATE)
        np.testing.assert_allclose(face["landmarks"], alignment.move(landmarks, fit), atol=1e-3)


def test_landmarks_detected_on_one_alignment_are_not_used_for_the_other(tmp_path):
    """The cached detections are those on the warped face, which depends on the fit."""
    points = np.array([(40.0, 50.0), (70.0, 50.0), (52.0, 70.0), (44.0, 90.0), (66.0, 92.0)])
    faces = [SourceImage(f"{n}", 0, images.encode(blocks(n)).__bytes__, points=points) for n in range(4)]
    found = []

    class Detector:
        def faces(self, pixels):
            found.append(pixels)
            return []

        def settings(self):
            return "none found"

    for align in ("five-point", "five-point", "five-point/reference"):
        options = argparse.Namespace(align=align, validation=0.0, test=0.0, seed=0, jobs=1, allow_unreadable=None)
        given = {"detector": Detector(), "landmarks_size": None, "headings": [("", "")], "about": {}}
        prepare(Listing(faces, ("A", "B"), ""), tmp_path, options, **given)
    assert len(found) == 8
