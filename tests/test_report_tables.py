import copy
import csv
import io
import json
import pathlib
import re

import fake_runs
import numpy as np
import pytest

from aujax import statistics
from aujax.errors import UserError
from aujax.report import (
    changes,
    confidence,
    evaluations,
    groups,
    intervals,
    provenance,
    scores,
    seeds,
    tables,
)
from aujax.report.tables import Table


def metrics_of(folder: pathlib.Path) -> dict:
    return json.loads((folder / "eval/test/metrics.json").read_text())


def evaluation_of(folder: pathlib.Path) -> evaluations.Evaluation:
    return evaluations.read(folder / "eval/test")


def test_most_frequent_expression_is_a_baseline_of_accuracy(tmp_path):
    run = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(run, confusion_matrix=np.diag([0, 6, 1, 1, 0, 1, 1]).tolist())
    rows = tables.results(evaluation_of(run)).rows
    assert ["most frequent expression", "", "", "60.0", "20.0", "15.0", "–", "–"] in rows


def test_different_codebooks_are_warned_of_and_have_their_own_baselines(tmp_path):
    folders = [fake_runs.make_run(tmp_path / name) for name in ("a", "b")]
    baselines = dict.fromkeys(tables.BASELINES, 0.3) | {"uniform": 0.1}
    fake_runs.change_metrics(folders[1], codebook="REFERENCE", baselines=baselines)
    runs = evaluations.open_runs(folders, "test")
    assert any("codebooks" in warning for warning in provenance.warnings(runs))
    rows = intervals.summary([intervals.measure(run) for run in runs]).rows
    assert ["flat map (REFERENCE)", "", "", "–", "–", "–", "0.100", "0.100"] in rows


def test_printed_evaluation_holds_its_numbers(two_runs, capsys):
    tables.print_evaluation(two_runs[0] / "eval/test")
    printed = capsys.readouterr().out
    assert f"{metrics_of(two_runs[0])['per_class']['Fear']['cam_cos']:.3f}" in printed
    assert str(two_runs[0] / "eval/test") in printed


def opened(*folders):
    return evaluations.open_runs(folders, "test")


def test_table_is_escaped_in_every_form():
    table = Table(["Run", "A | B (%)"], [["a_b & <c> `x`", "−2.5 [−3.0, −2.0]"], ["50 % \\\\ λ", "–"]])
    markup = table.html("By **run**")
    assert '<th scope="row">a_b &amp; &lt;c&gt; <code>x</code></th>' in markup
    assert "<caption><span>By <strong>run</strong></span></caption>" in markup
    assert 'aria-label="By run"' in markup
    assert "| Run | A &#124; B (%) |" in table.markdown()
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["Run", "A | B (%)"],
        ["a_b & <c> x", "-2.5 [-3.0, -2.0]"],
        ["50 % \\\\ λ", ""],
    ]
    lines = table.latex("50 % of #1", label="tab:runs").splitlines()
    assert r"\caption{50 \% of \#1}" in lines
    assert r"a\_b \& <c> \texttt{x} & $-$2.5 [$-$3.0, $-$2.0] \\" in lines
    assert r"50 \% \textbackslash{}\textbackslash{} $\lambda$ & -- \\" in lines


def test_trivial_maps_are_rows_of_the_main_tables(two_runs):
    measured = [intervals.measure(run) for run in opened(*two_runs)]
    for table in (tables.results(measured[0].run.evaluation), intervals.summary(measured)):
        last = {row[0]: row[-2:] for row in table.rows}
        assert last["flat map"] == ["0.471", "0.471"]
        assert last["average AU map of the true expression"] == ["0.814", "0.814"]


def test_intervals_are_those_of_the_faces(two_runs):
    (run,) = opened(two_runs[0])
    one = intervals.measure(run)
    rows = run.evaluation.examples()
    assert one.accuracy == statistics.accuracy_interval(rows.correct)
    assert one.accuracy.value == pytest.approx(run.metrics["cl"])
    assert one.attention.value == pytest.approx(run.metrics["att_cos"]["layer5"], abs=1e-6)
    assert one.attention.low < one.attention.value < one.attention.high
    (row,) = [row for row in intervals.by_expression(one).rows if row[0] == "Neutral"]
    assert row[4:] == ["–"] * 6
    rows = intervals.by_expression_and_run([one, one]).rows
    assert [row[:2] for row in rows[2:4]] == [["Happiness", one.name]] * 2
    fear = next(row for row in intervals.by_expression(one).rows if row[0] == "Fear")
    assert [row[2:7] for row in rows if row[0] == "Fear"] == [fear[1:6]] * 2
    assert {row[-1] for row in rows} == {"–", "0.814"}


def test_method_without_cam_has_dashes(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")
    fake_runs.change_metrics(folder, cam_cos=None, cam_without_pattern=None)
    (run,) = opened(folder)
    one = intervals.measure(run)
    assert one.cam is None
    assert intervals.summary([one]).rows[0][-1] == "–"
    assert "CAM" not in [row[0] for row in intervals.by_layer(one).rows]
    assert "CAM-COS" not in groups.table(one, "gender").header


def test_map_scores_are_those_of_the_metrics(two_runs):
    (run,) = opened(two_runs[1])
    table = scores.table([intervals.measure(run)], "label")
    row = dict(zip(table.header, table.rows[2], strict=True))
    assert row["Map"] == "CAM"
    value, low, high = map(float, re.findall(r"[\d.]+", row["AUC"]))
    assert value == pytest.approx(run.metrics["map_scores"]["label"]["cam"]["auc"], abs=6e-4)
    assert low < value < high


def test_scores_of_trivial_maps_follow_those_of_the_networks(two_runs):
    shown = [intervals.measure(run) for run in opened(*two_runs)]
    trivial = [[name, "", *[cosine] * len(scores.SCORES)] for name, cosine in TRIVIAL.items()]
    assert scores.table(shown, "label").rows[6:] == trivial
    # What the networks predict differs, and with it the AU map.
    assert [row[:2] for row in scores.table(shown, "predicted").rows[6:]] == [
        [name, one.name] for one in shown for name in TRIVIAL
    ]
    older = {name: value for name, value in shown[0].run.metrics.items() if name != "baseline_scores"}
    run = shown[0].run._replace(evaluation=shown[0].run.evaluation._replace(metrics=older))
    assert len(scores.table([shown[0]._replace(run=run)], "label").rows) == 3


TRIVIAL = {"flat map": "0.471", "Gaussian in the middle": "0.552", "all action units at once": "0.723"}


def test_groups_of_several_runs_are_rows_side_by_side(two_runs):
    shown = [intervals.measure(run) for run in opened(*two_runs)]
    table = groups.by_run(shown, "gender")
    assert [row[:3] for row in table.rows] == [
        [group, name, count] for group, count in (("female", "21"), ("male", "7")) for name in ("without", "with")
    ]
    group, _, *cells = table.rows[1]
    assert [group, *cells] == groups.table(shown[1], "gender").rows[0]


def test_small_groups_have_no_numbers(two_runs):
    (run,) = opened(two_runs[0])
    one = intervals.measure(run)
    female, male = groups.table(one, "gender").rows
    correct = one.examples.correct[np.arange(28) % 4 > 0]
    assert female[:3] == ["female", "21", intervals.percent(statistics.accuracy_interval(correct))]
    assert female[-4:] == [f"{fake_runs.BASELINES[name]:.3f}" for name in tables.BASELINES]
    assert male == ["male", "7", *["too few"] * 8]


def test_difference_is_second_minus_first(two_runs):
    before, after = (intervals.measure(run) for run in opened(*two_runs))
    change = changes.measure(before, after)
    found = {name: test.difference.value for name, test in change.tests.items()}
    assert found["Accuracy"] == pytest.approx(after.accuracy.value - before.accuracy.value)
    assert found["ATT-COS"] == pytest.approx(after.attention.value - before.attention.value)
    rows = {row[1]: row for row in changes.table([change]).rows}
    assert float(rows["ATT-COS"][-1].strip("< ")) >= float(rows["ATT-COS"][-2].strip("< "))
    assert rows["ATT-COS"][2].startswith("+0.1")


def test_other_faces_cannot_be_paired(two_runs, tmp_path):
    other = fake_runs.make_run(tmp_path / "other")
    path = other / "eval/test/examples.csv"
    path.write_text(path.read_text().replace("\n0,test/0", "\n99,test/0"))
    with pytest.raises(UserError, match=r"expected the same faces in the same order"):
        changes.measure(*(intervals.measure(run) for run in opened(two_runs[0], other)))


def test_several_seeds_give_means_and_paired_differences(tmp_path):
    folders = [
        fake_runs.make_run(tmp_path / f"{weight}-{seed}", au_weight=weight, seed=seed)
        for weight in (0.0, 4.0)
        for seed in (0, 1, 2)
    ]
    shown = [intervals.measure(run) for run in opened(*folders)]
    without, aligned, difference = seeds.table([one.run for one in shown], seeds.MAIN).rows
    cosines = np.array([one.attention.value for one in shown]).reshape(2, 3)
    assert without[4].startswith(f"{cosines[0].mean():.3f} ± {cosines[0].std(ddof=1):.3f}")
    assert difference[4].startswith(f"+{(cosines[1] - cosines[0]).mean():.3f}")
    assert [row[-1] for row in (without, aligned, difference)] == ["3"] * 3
    assert seeds.table([shown[0].run], seeds.MAIN) is None


def test_temperature_is_that_of_the_run(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("test", "validation"))
    (run,) = opened(folder)
    plain, fitted = confidence.versions(intervals.measure(run))
    assert (plain.temperature, fitted.temperature) == (1.0, 1.25)
    assert fitted.fitted_on.path.parent.name == "validation"
    measured = intervals.measure(run)
    assert [row[:3] for row in confidence.measures_by_run([measured]).rows] == [
        ["run", "as the network gives them", "1.000"],
        ["run", "after temperature 1.25", "1.250"],
    ]
    accuracy = intervals.percent(measured.accuracy)
    assert [row[2] for row in confidence.abstention_by_run([measured]).rows] == [accuracy] * 2
    assert fitted.probabilities().argmax(1).tolist() == run.evaluation.examples().predicted.tolist()
    answered = confidence.abstention(plain).rows
    assert answered[0][0] == "100.0"
    assert answered[0][2] == accuracy


def test_without_validation_the_command_is_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "a run")
    (run,) = opened(folder)
    assert len(confidence.versions(intervals.measure(run))) == 1
    assert f"eval.py --workdir='{folder}' --split=validation" in confidence.missing(run)


def test_damaged_temperature_is_named(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("test", "validation"))
    (folder / "calibration.json").write_text('{"temperature": 0}')
    (run,) = opened(folder)
    with pytest.raises(UserError, match=r"calibration\.json: expected a temperature above 0.*--split=validation"):
        confidence.missing(run)


def test_temperature_of_other_data_is_not_used(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("test", "validation"))
    content = json.loads((folder / "calibration.json").read_text()) | {"data": {"fingerprint": "ffff", "dir": "other"}}
    (folder / "calibration.json").write_text(json.dumps(content))
    (run,) = opened(folder)
    assert "was fitted to other data, other." in confidence.missing(run)
    assert len(confidence.versions(intervals.measure(run))) == 1


def test_threshold_that_no_face_reaches_answers_none(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("test", "validation"))
    (run,) = opened(folder)
    plain, fitted = confidence.versions(intervals.measure(run))
    unsure = fitted._replace(temperature=plain.temperature, rows=copy.copy(fitted.rows))
    unsure.rows.logits = np.zeros_like(fitted.rows.logits)
    assert confidence.certainty(unsure, 0.5).endswith("answers none of these faces.")


def test_temperature_is_not_fitted_on_the_answers_of_other_weights(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run", splits=("test", "validation"))
    fake_runs.change_metrics(folder, checkpoint={"step": 60, "epoch": 3, "which": "latest"})
    (run,) = opened(folder)
    assert "those of step 40 instead of step 60" in confidence.missing(run)
    assert len(confidence.versions(intervals.measure(run))) == 1


def test_attributes_without_a_large_group_are_told_apart(tmp_path):
    folder = fake_runs.make_run(tmp_path / "run")

    def with_file_and_note(row):
        # "" is no group, however many faces have it.
        return [row | {"attribute:file": f"{row['index']}.jpg", "attribute:note": "x" * (int(row["index"]) < 5)}]

    fake_runs.change_rows(folder, with_file_and_note)
    (run,) = opened(folder)
    assert groups.told_apart(intervals.measure(run)) == {"gender": True, "age": False, "file": False, "note": False}
