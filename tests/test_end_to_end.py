"""Every method from data to files, and the two scripts as a user calls them."""

import json
import pathlib
import subprocess
import sys

import pytest

from aujax import methods
from aujax.config import OptimizerConfig
from aujax.evaluation import evaluate
from aujax.training.loop import train_and_evaluate

ROOT = pathlib.Path(__file__).parents[1]
TINY = {"resnet50": "resnet_tiny", "deit_small": "vit_tiny", "apvit": "apvit_tiny"}
SMALLER = {"ACoL": "channels=16"}


# One row of those that train alike: the read-outs of the others are tested in test_methods.py.
TRAINED = list({row.training: name for name, row in reversed(methods.METHODS.items())}.values())


# Without action units here, and with them in test_step.py; `tiny_run` is CAM with them.
@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_without_action_units_and_is_evaluated(name, with_options, tmp_path):
    row = methods.METHODS[name]
    slow = OptimizerConfig(learning_rate=1e-4)
    options = {"backbone": TINY[row.backbone], "method_options": SMALLER.get(name, "")}
    config = with_options(method=name, au_weight=0.0, epochs=1, optimizer=slow, **options)
    train_and_evaluate(config, tmp_path / "run")
    folder = evaluate.evaluate_run(tmp_path / "run", "validation")
    described = json.loads((folder / "metrics.json").read_text())
    assert described["attention_layer"] == row.tap
    assert set(described["att_cos_by_layer"]) == set(row.layers)
    assert (described["cam_cos"] is None) == (row.readout is None)


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
