"""What an evaluation leaves behind when it dies half-way."""

import shutil

import pytest

from aujax import evaluation_files


def test_an_evaluation_that_dies_leaves_no_metrics_of_the_one_before(tiny_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    written = workdir / "eval" / "test"
    (written / "examples.csv").unlink()
    (written / "examples.csv").mkdir()  # cannot be opened for writing, after maps.npz is there
    with pytest.raises(IsADirectoryError):
        evaluation_files.evaluate_run(workdir, "test")
    assert not (written / "metrics.json").exists()
