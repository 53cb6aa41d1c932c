"""Every method from weights to the files of an evaluation, and the two scripts as a user calls them."""

import json
import pathlib
import subprocess
import sys

import jax
import pytest

from aujax import methods, metrics, runs
from aujax.data.batch import abstract, data_mesh
from aujax.evaluation import evaluate
from aujax.results.registry import BASELINE_MAPS

ROOT = pathlib.Path(__file__).parents[1]
TINY = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}
SMALLER = {"ACoL": "channels=16"}


# One row of those that train alike: the read-outs of the others are tested in test_methods.py.
TRAINED = list({row.training: name for name, row in reversed(methods.METHODS.items())}.values())


def tiny(with_options, name):
    row = methods.METHODS[name]
    config = with_options(method=name, backbone=TINY[row.backbone], method_options=SMALLER.get(name, ""))
    return row, config, runs.build_model(config, 7)


# By shapes alone. Every method is trained in test_step.py; `tiny_run` of conftest.py is CAM from data to files.
@pytest.mark.parametrize("name", TRAINED)
def test_every_method_is_scored_by_its_own_maps(name, with_options):
    row, config, model = tiny(with_options, name)
    mesh = data_mesh(jax.devices()[:1])
    step = evaluate.make_full_eval_step(model, config, mesh)
    outputs = jax.eval_shape(step, runs.abstract_variables(model, config), abstract(8, config.input_size, mesh))
    maps = {*row.layers, *([] if row.readout is None else ["cam"])}
    assert outputs.maps.keys() == maps
    for metric in ("cosine", *metrics.SCORES):
        assert {key.map for key in outputs.scores if key.metric == metric} - BASELINE_MAPS.keys() == maps, metric


def test_method_without_cam_is_evaluated(with_options, tmp_path):
    row, config, model = tiny(with_options, "APViT")
    variables = runs.initial_variables(model, config)
    runs.write_imported(tmp_path, config, variables, {"from": "new weights"}, dataset="none")
    folder = evaluate.evaluate_run(tmp_path, "validation")
    described = json.loads((folder / "metrics.json").read_text())
    assert described["attention_layer"] == row.tap
    assert set(described["att_cos_by_layer"]) == set(row.layers)
    assert described["cam_cos"] is None


def run_script(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train.py", "--workdir=x", "--config.au_wieght=1"],
            "error: --config.au_wieght: no such option. Did you mean --config.au_weight?",
        ),
        (
            ["train.py", "--workdir=x", "config.au_weight=0"],
            "error: expected options that begin with --, got 'config.au_weight=0'",
        ),
        (["train.py"], "error: the following arguments are required: --workdir"),
        (["eval.py", "--workdir=no_such_folder"], "error: --workdir: no_such_folder is not a run folder"),
    ],
    ids=["option", "stray word", "no folder", "eval"],
)
def test_a_mistake_ends_in_two_lines_and_status_2(arguments, message):
    ended = run_script(*arguments)
    assert ended.returncode == 2
    first, second = ended.stderr.strip().splitlines()
    assert first.startswith(message)
    verb = arguments[0].removesuffix(".py")
    assert second == f"aujax {verb} --help shows the options."
