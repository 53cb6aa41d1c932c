"""What a run's decisions depend on, from faithfulness.json and faithfulness.csv, in tables and words."""

import fake_runs
import pytest

from aujax import statistics
from aujax.errors import UserError
from aujax.report import (
    evaluations,
    interventions,
    reliance,
)


def opened(*folders):
    return evaluations.open_runs(folders, "test")


def measured_interventions(tmp_path, after):
    weights = {"without": 0.0, "with": after}
    folders = [fake_runs.make_run(tmp_path / name, au_weight=w, faithfulness=True) for name, w in weights.items()]
    return [interventions.read(run) for run in opened(*folders)]


def test_stronger_own_units_are_a_yes_with_both_tests(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    found = reliance.measure(before, after)
    assert found.over_others.difference.value == pytest.approx(0.12, abs=0.02)
    assert "Training with AU cues made the network rely more" in reliance.verdict(found)
    others, control = (flipped(test) for test in (found.over_others, found.over_control))
    assert "rely less" in reliance.verdict(found._replace(over_others=others, over_control=control))


def flipped(test):
    value, low, high = test.difference
    return test._replace(difference=statistics.Interval(-value, -high, -low))


def test_difference_that_may_be_chance_is_left_open(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    found = reliance.measure(before, after)
    unsure = found.over_control._replace(difference=statistics.Interval(0.1, -0.1, 0.3))
    assert "No difference" in reliance.verdict(found._replace(over_control=unsure))


def test_missing_interventions_are_none_and_damaged_ones_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    (run,) = opened(folder)
    assert interventions.read(run) is None
    (folder / "eval/test/faithfulness.json").write_text('{"aus": []}')
    with pytest.raises(UserError, match=r"lacks num_examples.*--faithfulness"):
        interventions.read(run)


def test_interventions_that_were_measured_differently_are_not_compared(tmp_path):
    before, after = measured_interventions(tmp_path, 4.0)
    other = after._replace(content=after.content | {"filling": "mean"})
    assert "different fillings" in reliance.answer(before, other)
    assert f"`{interventions.command(after.run)}`" in reliance.answer(before, other)
    assert reliance.answer(before, after) == reliance.verdict(reliance.measure(before, after))


def test_drops_of_regions_are_those_of_the_summary(tmp_path):
    for found in measured_interventions(tmp_path, 4.0):
        # Three faces of different expressions, of which one has no control.
        rows = [("Fear", "0.1", "0.2", "0.3"), ("Anger", "0.5", "0.6", "0.7"), ("Fear", "0.9", "0.9", "")]
        names = ("predicted", *interventions.REGIONS)
        fake_runs.change_rows(
            found.run.folder,
            lambda row, rows=rows, names=names: (
                [row | dict(zip(names, rows[int(row["index"])], strict=True))] if int(row["index"]) < 3 else []
            ),
            of="faithfulness",
        )
        again = interventions.read(found.run)
        values = [interventions.region_interval(again, name).value for name in interventions.REGIONS]
        assert values == pytest.approx([0.3, 0.4, 0.5])


def test_interventions_on_other_weights_or_faces_are_left_out(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", faithfulness=True)
    (run,) = opened(folder)
    assert interventions.read(run) is not None
    fake_runs.change_metrics(folder, checkpoint={"step": 60, "epoch": 3, "which": "latest"})
    (run,) = opened(folder)
    assert interventions.read(run) is None
    words = interventions.missing(run)
    assert "those of step 40 instead of step 60" in words
    assert f"`python eval.py --workdir={folder} --split=test --checkpoint=latest --faithfulness`" in words
    fake_runs.change_metrics(folder, checkpoint=fake_runs.CHECKPOINT)
    fake_runs.change_rows(folder, lambda row: [row | {"index": "99" + row["index"]}], of="faithfulness")
    (run,) = opened(folder)
    assert interventions.read(run) is None
    assert "other faces" in interventions.missing(run)
