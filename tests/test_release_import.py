"""Run folders made from released folders: their content, what they compute, and refused imports."""

import json
import os
import pathlib
import pickle

import evaluated_runs
import jax
import numpy as np
import pytest
import torch_files
from released_folders import SIZE, TINY, imported_run, left_over, options, released_folder, weights

from aujax import methods, runs
from aujax.errors import UserError
from aujax.evaluation.evaluate import evaluate
from aujax.release import folders
from aujax.report import page
from aujax.results import compare, schema
from aujax.training.loop import train_and_evaluate


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The run folder of the tiny CAM with AU cues."""
    return imported_run(tmp_path_factory.mktemp("import"))


def test_the_run_holds_the_tensors_of_the_file(imported):
    params = runs.load_run(imported).variables["params"]
    np.testing.assert_array_equal(params["head"]["fc"]["kernel"], weights()["classification_head.fc.weight"].T)
    theirs = weights()["encoder.layer2.0.conv1.weight"]  # (out, in, height, width)
    np.testing.assert_array_equal(params["backbone"]["stage2_block0"]["conv1"]["kernel"], theirs.transpose(2, 3, 1, 0))


def test_the_run_computes_what_a_network_of_these_tensors_computes(imported):
    run = runs.load_run(imported)
    image = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE, 3))
    logits = methods.forward(run.model, run.variables, image).logits
    features = methods.apply_with_taps(run.model, run.variables, image).activations["layer5"].mean((1, 2))
    fc = (weights()[f"classification_head.fc.{part}"] for part in ("weight", "bias"))
    weight, bias = fc
    np.testing.assert_allclose(logits, features @ weight.T + bias[None], rtol=1e-5)


@pytest.fixture(scope="module")
def evaluated(imported, tiny_data):
    """Its evaluation on a data set that is named."""
    run = runs.load_run(imported)
    return evaluate(run, runs.open_data(run, str(tiny_data)), imported, "test")


def test_an_imported_run_is_evaluated_on_a_data_set_that_is_named(imported, evaluated):
    assert len(schema.open_run(imported, "test").faces) == 16
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert (metrics["method"], metrics["codebook"]) == ("CAM", "REFERENCE")
    assert (metrics["au_weight"], metrics["attention_layer"]) == (9.0, "layer5")


def test_evaluation_without_a_data_set_names_the_option(imported):
    with pytest.raises(UserError, match=r"--data-dir: expected a prepared data set, got nothing, .*AffectNet; give"):
        runs.open_data(runs.load_run(imported), None)


def test_an_imported_run_is_reported_like_others(imported, evaluated, tmp_path):
    assert ">folder</th>" in page.write([str(imported)], "test", tmp_path)[0].read_text()


def test_data_known_by_name_alone_are_compared_by_it(tmp_path):
    folders = [evaluated_runs.make_run(tmp_path / name) for name in ("one", "other")]
    for folder, name in zip(folders, ("AffectNet", "RAF-DB"), strict=True):
        (folder / "manifest.json").write_text(json.dumps({"data": {"name": name, "fingerprint": None}}))
    differ = compare.differences([evaluated_runs.open_test(folder) for folder in folders])
    assert differ == {"training data": ["AffectNet", "RAF-DB"]}


def test_training_in_an_imported_run_is_refused(imported, tiny_config):
    with pytest.raises(UserError, match=r"holds a released model, imported from .*CAM, which is evaluated and not"):
        train_and_evaluate(tiny_config, imported)


def test_the_manifest_says_where_the_weights_come_from(imported):
    about = json.loads((imported / "manifest.json").read_text())
    assert about["imported"]["from"] == str(imported.parent / "CAM")
    assert "amp = True: here training runs in float32 unless --config.dtype is set" in about["imported"]["training"]
    assert "data_paths.train" in about["imported"]["ignored"]


def test_the_manifest_names_the_training_data_and_knows_no_fingerprint(imported):
    data = json.loads((imported / "manifest.json").read_text())["data"]
    assert (data["name"], data["fingerprint"]) == ("AffectNet", None)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def attack(path):
    torch_files.write_zip(path, pickle.dumps(Attack(path.parent / "owned"), protocol=2)[:-1], {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.pt").unlink(), "found no model.pt; copy the folder again"),
        (lambda f: (f / "config_model.yaml").write_text(options(method="X")), r"config_model\.yaml: method must be"),
        (lambda f: cut(f / "model.pt"), r"model\.pt.*damaged or half-copied"),
        (lambda f: attack(f / "model.pt"), r"model\.pt.* got posix\.system: do not trust this file"),
        (
            lambda f: (f / "config_model.yaml").write_text(options(method="WILDCAT")),
            r"(?s)model\.pt: these weights do not fit method WILDCAT/reference .*classification_head\.to_modalities",
        ),
        (
            lambda f: torch_files.save(f / "model.pt", weights(classes=8)),
            r"model\.pt: these weights do not fit method CAM with 7 classes: .*the file has 8",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, damage, message):
    folder = released_folder(tmp_path / "released")
    damage(folder)
    with pytest.raises(UserError, match=message):
        folders.import_folder(folder, tmp_path / "run", backbone=TINY)
    assert left_over(tmp_path) == []
    assert not (folder / "owned").exists()


def test_an_image_size_that_does_not_fit_the_tensors_is_refused(tmp_path):
    changed = {
        "method": "TSCAM",
        "model__encoder_name": "deit_tscam_small_patch16_224",
        "crop_size": 64,
        "resize_size": 72,
    }
    tensors = weights("TS-CAM")
    folder = released_folder(tmp_path / "released", options(**changed, align_atten_to_heatmap="false"), tensors)
    with pytest.raises(
        UserError, match=r"(?s)model\.pt: .*pos_embed: expected \(1, 17, 48\), got \(1, 197, 48\).*crop_size 64"
    ):
        folders.import_folder(folder, tmp_path / "run", backbone="vit_tiny")
    assert left_over(tmp_path) == []


def test_half_precision_is_converted_with_a_notice(tmp_path, caplog):
    half = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in weights().items()}
    folder = released_folder(tmp_path / "released", tensors=half)
    run = runs.load_run(folders.import_folder(folder, tmp_path / "run", backbone=TINY).run)
    bias = run.variables["params"]["head"]["fc"]["bias"]
    np.testing.assert_array_equal(bias, half["classification_head.fc.bias"].astype(np.float32))
    assert "holds float16: converted to float32" in caplog.text


# OSError and ValueError: what Python and the writer of checkpoints raise where the disk is full.
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("No space left on device")])
def test_a_run_that_cannot_be_written_leaves_nothing_that_was_not_there(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    (tmp_path / "q").mkdir()
    folder = released_folder(tmp_path / "released")
    monkeypatch.setattr(pathlib.Path, "rename", full)
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device.*; choose another folder"):
        folders.import_folder(folder, tmp_path / "q" / "r" / "s" / "run", backbone=TINY)
    assert left_over(tmp_path) == ["q"]
    assert left_over(tmp_path / "q") == []
