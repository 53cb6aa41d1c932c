"""The model's facts and its precision, in explanations.json and explanations.csv."""

import importlib
import json

import pytest

from aujax.explain import tables

explain = importlib.import_module("aujax.explain.explain")


@pytest.mark.parametrize(
    "change",
    [
        lambda metrics: metrics.pop("confusion_matrix"),
        lambda metrics: metrics.pop("checkpoint"),
        lambda metrics: metrics["checkpoint"].update(step=999),
        lambda metrics: metrics["confusion_matrix"].pop(),
    ],
    ids=["no matrix", "no checkpoint", "another checkpoint", "row missing"],
)
def test_evaluation_of_another_checkpoint_is_ignored(change, tiny_run):
    model, path = explain.open_model(tiny_run), tiny_run / "eval" / "test" / "metrics.json"
    before = path.read_text()
    metrics = json.loads(before)
    good = tables.model_facts(model, "none")
    assert (
        sum(precision.count for precision in good.precision.values()) == good.facts["evaluation"]["num_examples"] == 16
    )
    assert good.facts["evaluation"]["model_selection"] == "validation"
    change(metrics)
    try:
        path.write_text(json.dumps(metrics))
        ignored = tables.model_facts(model, "none")
    finally:
        path.write_text(before)
    assert ignored.precision == {}
    assert ignored.facts["evaluation"] is None


def test_precision_has_its_interval():
    assert tables.Precision(8, 10).sentence("Fear") == (
        "Of 10 images of the test split that this model classified as Fear, 80 % [49, 94] were labelled Fear."
    )
    assert tables.Precision(1, 1).sentence("Fear").startswith("Of 1 image of the test split")
    assert tables.Precision(0, 0).sentence("Fear") == ""
