"""The model's facts and its precision, in explanations.json and explanations.csv."""

import importlib
import json

import numpy as np
import pytest

from aujax.explain import tables

explain = importlib.import_module("aujax.explain.explain")


@pytest.fixture
def evaluated(tiny_run):
    """The evaluation of the run, as it was before the test."""
    directory = tiny_run / "eval" / "test"
    before = {path: path.read_bytes() for path in directory.glob("*.*")}
    yield directory
    for path, content in before.items():
        path.write_bytes(content)


def test_accuracy_and_precision_are_those_of_the_evaluation(evaluated, tiny_run):
    facts = tables.model_facts(explain.open_model(tiny_run), "none")
    metrics = json.loads((evaluated / "metrics.json").read_text())
    matrix = np.array(metrics["confusion_matrix"])
    assert facts.facts["evaluation"]["accuracy"] == pytest.approx(metrics["accuracy"], rel=1e-5)
    assert facts.facts["evaluation"]["chance"] == pytest.approx(matrix.sum(1).max() / 16, rel=1e-5)
    assert facts.facts["evaluation"]["num_examples"] == 16
    assert facts.facts["evaluation"]["model_selection"] == "validation"
    counts = {name: (share["correct"], share["count"]) for name, share in facts.precision.items()}
    columns = dict(zip(metrics["expressions"], zip(matrix.diagonal(), matrix.sum(0), strict=True), strict=True))
    assert counts == {name: column for name, column in columns.items() if column[1]}


def change(path, edit):
    metrics = json.loads((path / "metrics.json").read_text())
    edit(metrics)
    (path / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "metrics.json").unlink(),
        lambda path: change(path, lambda metrics: metrics.pop("checkpoint")),
        lambda path: change(path, lambda metrics: metrics["checkpoint"].update(step=999)),
        lambda path: (path / "faces.csv").write_text("face\n"),
    ],
    ids=["no evaluation", "no checkpoint", "another checkpoint", "damaged"],
)
def test_evaluation_of_another_checkpoint_is_ignored(damage, evaluated, tiny_run):
    damage(evaluated)
    ignored = tables.model_facts(explain.open_model(tiny_run), "none")
    assert ignored.precision == {}
    assert ignored.facts["evaluation"] is None


def test_precision_has_its_interval():
    precision = {"correct": 8, "count": 10, "value": 0.8, "low": 0.49, "high": 0.943}
    facts = tables.ModelFacts({}, {"Fear": precision})
    sentence = (
        "Of this model's predictions of Fear on the test split, 8 of 10 were correct: 80 % (95 % interval 49 to 94 %)."
    )
    assert facts.precision_sentence("Fear") == sentence
    assert facts.precision_sentence("Anger") == ""
