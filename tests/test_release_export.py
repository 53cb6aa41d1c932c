"""Runs are exported as safetensors, under our paths and under the released names."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from released_folders import TINY, imported_run, weights

from aujax import cli, runs, weight_files
from aujax.errors import UserError
from aujax.release import folders


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The run folder of the tiny CAM with AU cues."""
    return imported_run(tmp_path_factory.mktemp("export"))


def test_export_under_our_paths_holds_the_variables(imported, tmp_path):
    out = tmp_path / "cam.safetensors"
    cli.main(["release", "export", str(imported), "--out", str(out)])
    tensors = safetensors.numpy.load_file(out)
    variables = runs.load_run(imported).variables
    assert len(tensors) == len(jax.tree.leaves(variables))
    np.testing.assert_array_equal(
        tensors["params/backbone/stem_conv/kernel"], variables["params"]["backbone"]["stem_conv"]["kernel"]
    )
    np.testing.assert_array_equal(
        tensors["batch_stats/backbone/stem_bn/mean"], variables["batch_stats"]["backbone"]["stem_bn"]["mean"]
    )


def test_the_documented_line_reads_the_variables_back(imported, tmp_path):
    path = tmp_path / "cam.safetensors"
    folders.export(imported, path)
    variables = unflatten_dict(weight_files.read(path), sep="/")
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    jax.tree.map(same, variables, jax.device_get(runs.load_run(imported).variables))


def test_export_under_the_released_names_gives_the_released_tensors_back(imported, tmp_path):
    out = tmp_path / "cam.safetensors"
    cli.main(["release", "export", str(imported), "--out", str(out), "--names=reference"])
    tensors = safetensors.numpy.load_file(out)
    assert tensors.keys() == weights().keys()
    for name, expected in weights().items():
        np.testing.assert_array_equal(tensors[name], expected, err_msg=name, strict=True)


def test_exported_metadata_describe_the_weights(imported, tmp_path):
    folders.export(imported, tmp_path / "cam.safetensors")
    with safetensors.safe_open(tmp_path / "cam.safetensors", "np") as file:
        about = file.metadata()
    assert (about["method"], about["backbone"], about["names"]) == ("CAM", TINY, "aujax")
    assert about["expressions"].startswith("Neutral,Happiness")
    assert json.loads(about["config"])["au_weight"] == 9.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("there.safetensors", "expected a new file, this one exists; choose another name or delete it"),
        ("weights.npz", r"must end|ends in \.safetensors"),
        ("nowhere/weights.safetensors", "there is no folder"),
    ],
)
def test_export_to_an_unusable_path_is_refused(imported, tmp_path, name, message):
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(UserError, match=message):
        folders.export(imported, tmp_path / name)
    assert (tmp_path / "there.safetensors").read_text() == "mine"
