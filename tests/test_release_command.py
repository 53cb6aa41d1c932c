"""The command `aujax release`: its run folders, its output and its errors."""

import shutil

import pytest
from released_folders import TINY, imported_run, left_over, options, released_folder

from aujax import cli, runs

IMPORT = ("import", f"--backbone={TINY}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released folder of the tiny CAM with AU cues."""
    return released_folder(tmp_path_factory.mktemp("released") / "CAM")


def test_the_command_makes_a_run_and_reports_differences(folder, tmp_path, capsys):
    cli.main(["release", *IMPORT, str(folder), "--out", str(tmp_path / "run"), "--verbose"])
    printed = capsys.readouterr().out
    assert "These options matter only if the network is trained again:\n" in printed
    assert "  valid_freq_mb = 0.0437: here validation is at the end of epochs\n" in printed
    assert "13 other options describe neither the network nor its training" in printed
    assert "data_paths.train" in printed
    assert f"aujax eval --workdir={tmp_path / 'run'} --data-dir=DIR --split=test" in printed
    assert runs.load_run(tmp_path / "run").config.method == "CAM"


def test_folders_below_are_imported_each_and_bad_ones_listed(tmp_path, capsys):
    parent = tmp_path / "released"
    released_folder(parent / "a" / "with")
    released_folder(parent / "a" / "without", options(align_atten_to_heatmap="false", model__encoder_weights="moon"))
    released_folder(parent / "b" / "grad", options(method="GradCAMpp", dataset="RAF-DB"))
    released_folder(parent / "b" / "again", options(method="GradCAMpp", dataset="RAF-DB"))
    released_folder(parent / "c", options(method="PRM"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["release", *IMPORT, str(parent), "--out", str(tmp_path / "runs")])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert left_over(tmp_path / "runs") == ["CAM-AffectNet-au", "CAM-AffectNet-no_au", "GradCAM++-RAF-DB-au"]
    assert "  model.encoder_weights = 'moon': here pixels are normalised by" in printed.out
    assert "(CAM-AffectNet-no_au)" in printed.out
    assert "2 of 5 released folders were not imported" in printed.err
    assert "GradCAM++-RAF-DB-au: expected a new or empty folder; choose another name" in printed.err
    assert "these weights do not fit method PRM" in printed.err


def test_a_folder_that_is_not_empty_is_not_written_to(folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        cli.main(["release", *IMPORT, str(folder), "--out", str(tmp_path)])
    assert "expected a new or empty folder; choose another name" in capsys.readouterr().err
    assert left_over(tmp_path) == ["mine.txt"]


def test_an_empty_folder_is_as_good_as_a_new_one(folder, tmp_path):
    (tmp_path / "run").mkdir()
    cli.main(["release", *IMPORT, str(folder), "--out", str(tmp_path / "run")])


def test_without_a_name_the_network_is_the_published_one(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["release", "import", str(folder), "--out", str(tmp_path / "run")])
    assert "model.pt: these weights do not fit method CAM with 7 classes" in capsys.readouterr().err


def refused_export(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["release", "export", str(run), "--out", str(tmp_path / "weights.safetensors")])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_export_of_no_run_is_refused_in_the_words_of_export(tmp_path, capsys):
    printed = refused_export(tmp_path / "nowhere", tmp_path, capsys)
    assert f"RUN={tmp_path / 'nowhere'}: expected a run folder, found no config.json in it; give one that" in printed
    assert "--workdir" not in printed


def test_export_of_a_run_without_a_checkpoint_is_refused_in_the_words_of_export(tmp_path, capsys):
    run = imported_run(tmp_path)
    shutil.rmtree(run / "checkpoints")
    printed = refused_export(run, tmp_path, capsys)
    assert f"RUN: {run} has no checkpoint yet" in printed
    assert "--workdir" not in printed
