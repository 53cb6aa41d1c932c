"""What explanations take from a run folder: how its faces were prepared, and how often it is right."""

import json

import pytest

from aujax.data.sources import SOURCES
from aujax.errors import UserError
from aujax.explain import model
from aujax.explain.background import Record, background


def test_faces_are_aligned_as_the_data_of_the_run_were(tiny_run):
    opened = model.open_model(tiny_run)
    assert not model.is_warped(opened, "run", "one")
    assert model.is_warped(opened, "five-point", "all")
    with pytest.raises(UserError, match=r"--faces=all: the whole photograph .* use --align=five-point"):
        model.is_warped(opened, "run", "all")
    elsewhere = opened.run._replace(config=opened.run.config.__class__())
    assert model.is_warped(opened._replace(run=elsewhere), "run", "one")


@pytest.mark.parametrize(("source", "warped"), [("rafdb", True), ("folds", True), ("folder", False)])
def test_faces_of_photographs_are_cut_out_where_those_of_training_were(source, warped, tiny_run, monkeypatch):
    monkeypatch.setattr(model, "_prepared", lambda run: {"align": "none", "cropped": SOURCES[source].cropped})
    opened = model.open_model(tiny_run)
    assert model.keeps_cut_out(opened, "run") == warped
    assert model.is_warped(opened, "run", "one") == warped
    if warped:
        assert model.is_warped(opened, "run", "all")
    assert not model.is_warped(opened, "none", "one")
    assert not model.keeps_cut_out(opened, "five-point")


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
def test_evaluation_that_is_not_of_this_checkpoint_is_left_aside(change, tiny_run):
    opened, path = model.open_model(tiny_run), tiny_run / "eval" / "test" / "metrics.json"
    before = path.read_text()
    metrics = json.loads(before)
    good = background(opened, warped=True)
    assert sum(one.count for one in good.records.values()) == good.facts["evaluation"]["num_examples"] == 16
    assert "Of the 16 faces of its test split, which had no part in choosing" in good.lines[-1]
    change(metrics)
    try:
        path.write_text(json.dumps(metrics))
        found = background(opened, warped=True)
    finally:
        path.write_text(before)
    assert found.records == {}
    assert found.facts["evaluation"] is None
    assert "was not evaluated on a test split" in found.lines[-1]


def test_record_has_its_interval():
    assert Record(8, 10).sentence("Fear") == (
        "Of the 10 faces of the test split that this model called Fear, 80 % [49, 94] were labelled so."
    )
    assert Record(0, 0).sentence("Fear") == ""
