"""Tables of runs: the numbers of the summaries, in units, with baselines, groups, seeds and paired tests."""

import pathlib
import re

import evaluated_runs
import numpy as np
import pytest
from evaluated_runs import COSINES, make_run, open_test

from aujax.report import html, page, tables
from aujax.report.tables import Table
from aujax.results import compare, schema, statistics
from aujax.results.registry import HEADLINE, METRICS, Metric
from aujax.results.schema import ScoreKey
from aujax.results.statistics import Interval


@pytest.fixture(scope="module")
def runs(two_runs):
    return schema.open_runs(two_runs, "test")[0]


@pytest.fixture(scope="module")
def comparison(runs):
    return compare.compare(runs)


def variables_of(section, runs, figures=pathlib.Path()):
    """Returns the variables of a section of the page about these runs."""
    functions = {name: function for name, _, function in page.SECTIONS}
    return functions[section](compare.compare(runs), figures)


def value_of(cell: str) -> float:
    return float(cell.replace("−", "-").split()[0])


def test_table_is_escaped_in_every_format():
    table = Table(["Run", "A | B (%)"], [["a_b & <c> `x`", "−2.5 [−3.0, −2.0]"], ["50 % \\\\ λ", "–"]])
    assert "| Run | A &#124; B (%) |" in table.markdown()
    lines = table.latex("50 % of #1", label="tab:runs").splitlines()
    assert r"\caption{50 \% of \#1}" in lines
    assert r"a\_b \& <c> \texttt{x} & $-$2.5 [$-$3.0, $-$2.0] \\" in lines
    assert r"50 \% \textbackslash{}\textbackslash{} $\lambda$ & -- \\" in lines


def test_results_are_those_of_the_summary_with_intervals(runs):
    table = tables.results_table(runs)
    for run, row in zip(runs, table.rows, strict=False):
        assert row[0] == run.name
        for key, cell in zip(HEADLINE, row[3:], strict=True):
            metric = METRICS[key]
            assert cell == tables.with_interval(run.tables.interval(key), metric.unit)
            scale = 100 if metric.unit == "percent" else 1
            assert value_of(cell) == pytest.approx(scale * run.metadata[key], abs=0.051 if scale == 100 else 6e-4)


def test_row_of_the_registry_is_a_column_of_the_results(tmp_path, monkeypatch):
    definition = "Agreement of labels and predictions beyond chance."
    kappa = Metric(
        "kappa", "Kappa", definition, "classification", "score", "function",
        compute=lambda faces, resampled: {"": Interval(0.25, 0.125, 0.375)},
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "kappa", kappa)
    table = tables.results_table([open_test(make_run(tmp_path / "run"))])
    assert table.rows[0][table.header.index("Kappa")] == "0.250 [0.125, 0.375]"


def test_most_frequent_expression_and_baseline_maps_are_rows_of_the_results(runs):
    last = {row[0]: row[3:] for row in tables.results_table(runs).rows}
    assert last["most frequent expression"] == ["14.3", "14.3", "3.6", "–", "–"]
    assert last["uniform map"] == ["–", "–", "–", "0.471", "0.471"]
    assert last["mean AU map of the true expression"][-1] == "0.814"


def test_codebooks_have_their_own_baselines_and_a_warning(tmp_path):
    def other_codebook(content):
        content.metadata["codebook"] = "REFERENCE"
        for key, values in content.scores.items():
            if key.map == "uniform":
                values[:] = np.where(np.isnan(values), np.nan, 0.1)

    opened = [open_test(make_run(tmp_path / "a")), open_test(make_run(tmp_path / "b", edit=other_codebook))]
    rows = {row[0]: row[-1] for row in tables.results_table(opened).rows}
    assert (rows["uniform map (FACS)"], rows["uniform map (REFERENCE)"]) == ("0.471", "0.100")
    assert any("codebooks" in warning for warning in html.sentences("warnings", opened))


def test_idea_table_has_both_sides_the_tested_difference_and_the_best_baseline(comparison):
    table = tables.idea_table(comparison)
    assert table.header == ["Measure", "Without AU cues", "With AU cues", "Difference", "Best baseline"]
    rows = {row[0]: row[1:] for row in table.rows}
    (pair,) = comparison.pairs
    for key, title in (("accuracy", "Accuracy (%)"), ("att_cos", "ATT-COS (layer5)"), ("cam_cos", "CAM-COS")):
        unit = METRICS[key].unit
        before, after, difference, best = rows[title]
        assert [before, after] == [tables.with_interval(run.tables.interval(key), unit) for run in pair]
        test = comparison.test(pair, key)
        expected = Interval(test["difference"], test["low"], test["high"])
        assert difference == tables.with_interval(expected, unit, signed=True)
        assert best == "14.3 (most frequent expression)" if unit == "percent" else best.startswith("0.814 (mean AU map")


def test_idea_table_of_several_seeds_is_over_seeds(seed_runs):
    opened, _ = schema.open_runs([seed_runs], "test")
    table = tables.idea_table(compare.compare(opened))
    assert table.header[:3] == ["Runs", "Measure", "Without AU cues"]
    row = next(row for row in table.rows if row[:2] == [f"{opened[0].name} → {opened[4].name}, 2 seeds", "CAM-COS"])
    by_weight = [[run.metadata["cam_cos"] for run in opened[at : at + 2]] for at in (0, 4)]
    assert value_of(row[2]) == pytest.approx(np.mean(by_weight[0]), abs=6e-4)
    assert "±" in row[2]
    changes = [after - before for before, after in zip(*by_weight, strict=True)]
    mean = statistics.over_seeds(changes).mean
    assert row[4] == tables.with_interval(mean, "score", signed=True)


def test_no_pair_has_no_idea_table(runs):
    assert tables.idea_table(compare.compare(runs[:1])) is None


def test_expressions_have_counts_numbers_and_baselines(runs):
    single = tables.expression_table(runs[:1])
    assert single.header[:4] == ["Expression", "Faces", "With AU map", "Accuracy (%)"]
    neutral = next(row for row in single.rows if row[0] == "Neutral")
    assert neutral[1:3] == ["4", "0"]
    assert neutral[4:] == ["–"] * 6
    fear = next(row for row in single.rows if row[0] == "Fear")
    own = runs[0].faces[runs[0].faces["expression"] == "Fear"]
    assert fear[3] == tables.with_interval(statistics.accuracy_interval(own["correct"].to_numpy() > 0), "percent")
    assert value_of(fear[4]) == pytest.approx(own["att_cos"].mean(), abs=6e-4)
    assert fear[-1].startswith("0.814")
    both = tables.expression_table(runs).rows
    assert [row[:2] for row in both[2:4]] == [["Happiness", run.name] for run in runs]
    assert next(row for row in both if row[:2] == ["Fear", runs[0].name])[2:] == fear[1:]


def test_printed_evaluation_has_its_numbers_and_its_path(runs, capsys):
    tables.print_evaluation(runs[0])
    printed = capsys.readouterr().out
    assert f"{runs[0].metadata['per_expression']['Fear']['cam_cos']:.3f}" in printed
    assert "0.814" in printed
    assert str(runs[0].directory) in "".join(printed.split("\n"))


def test_map_metrics_are_those_of_the_summary_with_baseline_maps_below(runs):
    targets = variables_of("maps", runs)["targets"]
    label = targets["label"]["scores"]
    assert label.header[:3] == ["Map", "Run", "Cosine"]
    row = dict(zip(label.header, next(row for row in label.rows if row[:2] == ["CAM", "with"]), strict=True))
    interval = runs[1].tables.interval("auc", map="cam", target="label")
    assert row["AUC"] == tables.with_interval(interval, "score")
    assert interval.low < interval.value < interval.high
    last = {row[0]: row[2:] for row in label.rows[6:]}
    assert [value_of(cell) for cell in last["Uniform map"]] == pytest.approx([0.471] * 7)
    assert last["Mean AU map of the true expression"][1:] == ["–"] * 6
    predicted = targets["predicted"]["scores"]
    assert "Cosine" not in predicted.header
    assert [row[0] for row in predicted.rows[6:]] == [
        name for name in ("Uniform map", "Centred Gaussian", "All action units") for _ in range(2)
    ]


def test_groups_have_numbers_if_they_are_large_enough(runs):
    data = variables_of("groups", runs)
    assert data["attributes"] == ["gender", "age"]
    assert data["left_out"] == ["age"]
    table = data["groups"]["gender"]
    assert [row[:3] for row in table.rows] == [
        [group, run.name, count] for group, count in (("female", "21"), ("male", "7")) for run in runs
    ]
    women = runs[0].faces[runs[0].faces["attribute_gender"] == "female"]
    accuracy = statistics.accuracy_interval(women["correct"].to_numpy() > 0)
    assert table.rows[0][3] == tables.with_interval(accuracy, "percent")
    assert [value_of(cell) for cell in table.rows[0][-4:]] == pytest.approx(list(COSINES.values()), abs=6e-4)
    assert table.rows[2][3:] == ["too few"] * 9
    single = variables_of("groups", runs[:1])["groups"]["gender"]
    assert single.rows[0] == [table.rows[0][0], *table.rows[0][2:]]


def test_attributes_without_a_large_group_are_named(tmp_path):
    def add_attributes(content):
        for face, record in enumerate(content.records):
            # "" is no group, however many faces have it.
            record["attributes"] |= {"file": f"{face}.jpg", "note": "x" * (face < 5)}

    data = variables_of("groups", [open_test(make_run(tmp_path / "run", edit=add_attributes))])
    assert list(data["groups"]) == ["gender"]
    assert data["left_out"] == ["age", "file", "note"]


def test_groups_of_subjects_who_repeat_are_counted_as_subjects(tmp_path):
    def repeat(content):
        evaluated_runs.repeat_faces(content, named=True)

    table = variables_of("groups", [open_test(make_run(tmp_path / "run", edit=repeat))])["groups"]["gender"]
    assert table.header[:3] == ["Gender", "Faces", "Subjects"]
    assert table.rows[0][:3] == ["female", "42", "21"]


def test_tests_have_differences_in_points_and_corrected_p_values(comparison):
    table = page.test_table(comparison, "headline")
    rows = {row[1]: row for row in table.rows}
    assert rows["Accuracy (points)"][0] == "without → with"
    att_cos = rows["ATT-COS"]
    assert value_of(att_cos[2]) == pytest.approx(0.2, abs=0.1)
    assert att_cos[2].startswith("+")
    assert float(att_cos[-1].strip("< ")) >= float(att_cos[-2].strip("< "))


def test_several_seeds_have_means_deviations_and_differences(seed_runs):
    opened, _ = schema.open_runs([seed_runs], "test")
    table = page.seed_table(compare.compare(opened), [ScoreKey("att_cos"), ScoreKey("accuracy")])
    cosines = np.array([run.metadata["att_cos"] for run in opened]).reshape(3, 2)
    assert table.rows[0][1].startswith(f"{cosines[0].mean():.3f} ± {cosines[0].std(ddof=1):.3f} [")
    assert table.rows[-1][1].startswith(f"+{(cosines[2] - cosines[0]).mean():.3f} [")
    assert " − " in table.rows[-1][0]
    assert {row[-1] for row in table.rows} == {"2"}
    assert page.seed_table(compare.compare(opened[:1]), [ScoreKey("att_cos")]) is None


def test_seeds_have_the_numbers_of_baseline_maps(seed_runs):
    opened, _ = schema.open_runs([seed_runs], "test")
    rows = schema.select(compare.compare(opened).seeds, metric="cosine", map="uniform", setting=opened[0].name)
    means = [run.interval("cosine", map="uniform", target="label").value for run in opened[:2]]
    assert rows["value"].tolist() == pytest.approx([np.mean(means)])


def test_calibration_has_a_row_without_and_with_the_temperature(runs, tmp_path):
    data = variables_of("confidence", runs[:1], tmp_path)
    assert [row[:2] for row in data["measures"].rows] == [["uncalibrated", "1.000"], ["calibrated", "1.250"]]
    everything = data["selective"].rows[0]
    assert everything[:2] == ["100 %", "100.0"]
    assert everything[3] == tables.with_interval(runs[0].tables.interval("accuracy"), "percent")
    assert html.sentence("temperature_missing", runs[0]) == ""
    several = variables_of("confidence", runs, tmp_path)["measures"]
    assert several.header[:3] == ["Probabilities", "Run", "Temperature"]


@pytest.mark.usefixtures("blank_figures")
def test_without_validation_the_commands_are_named(tmp_path):
    run = open_test(make_run(tmp_path / "a run"))
    data = variables_of("confidence", [run], tmp_path)
    assert len(data["measures"].rows) == 1
    sentence = html.sentence("temperature_missing", run)
    assert f"aujax eval --workdir='{tmp_path / 'a run'}' --split=validation,test" in sentence
    assert html.sentence("operating_point", run) == ""


def test_operating_point_is_that_of_the_validation_split(runs):
    point = runs[0].metadata["operating_point"]
    sentence = html.sentence("operating_point", runs[0])
    accepted = runs[0].predictions.confidence(1.25) >= point["threshold"]
    assert f"{point['threshold']:.3f}, accepts {100 * accepted.mean():.1f} % of these faces" in sentence
    accuracy = statistics.accuracy_interval(runs[0].predictions.correct[accepted])
    assert f"an accuracy of {tables.with_interval(accuracy, 'percent')} %" in sentence


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"threshold": None}, "No confidence threshold gives 95 %"), ({"coverage": 0.0}, "accepts none of these faces.")],
)
def test_threshold_that_does_not_exist_or_accepts_nothing_is_reported(tmp_path, changes, expected):
    folder = make_run(tmp_path / "run")
    point = {"target_accuracy": 0.95, "threshold": 0.9, "coverage": 0.5, "accuracy": None}
    evaluated_runs.change_json(folder, operating_point=point | changes)
    assert expected in html.sentence("operating_point", open_test(folder))


# --- What numbers depend on: subjects, model selection, differences of options.


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        ([""] * 28, "The data have no subject ids"),
        ([str(face) for face in range(28)], "No two faces are known to be of one subject"),
        (["ann"] * 2 + [str(face) for face in range(26)], "resample subjects, with all their faces."),
        (["ann"] * 2 + [""] * 26, "with all their faces; the 26 faces without a subject id count as one each."),
    ],
)
def test_unit_of_resampling_is_reported(tmp_path, subjects, expected):
    def name_subjects(content):
        for record, subject in zip(content.records, subjects, strict=True):
            record["subject_id"] = subject

    assert expected in html.sentence("independence", open_test(make_run(tmp_path / "run", edit=name_subjects)))


def test_second_image_of_a_subject_adds_no_precision(tmp_path):
    """Every face twice: of one subject, intervals are those of the faces once; of unknown subjects, narrower."""
    intervals = []
    for name, named in (("once", None), ("twice", True), ("unknown", False)):

        def edit(content, named=named):
            if named is not None:
                evaluated_runs.repeat_faces(content, named=named)

        run = open_test(make_run(tmp_path / name, au_weight=4.0, faithfulness=True, edit=edit))
        where = {"attribute": "gender", "group": "female"}
        found = {key: run.interval(key) for key in HEADLINE}
        found |= {f"{key} of women": run.interval(key, **where) for key in HEADLINE}
        for key in ("target_drop", "non_target_drop", "control_drop"):
            found[key] = run.interval(key, target="predicted")
        intervals.append(found)
    for name in intervals[0]:
        single, named, unknown = (found[name] for found in intervals)
        assert named.value == pytest.approx(single.value), name
        # A share of independent faces has Wilson's interval, of subjects who repeat the bootstrap's.
        assert named.high - named.low == pytest.approx(single.high - single.low, rel=0.25), name
        assert unknown.high - unknown.low < 0.9 * (named.high - named.low), name


def test_runs_that_differ_in_au_weight_alone_have_no_warning(runs):
    assert html.sentences("warnings", runs) == []


def test_other_differences_are_warned_about_with_their_values(tmp_path):
    folders = [
        make_run(tmp_path / "a", optimizer={"learning_rate": 0.1}),
        make_run(tmp_path / "b", au_weight=4.0, optimizer={"learning_rate": 0.2}),
    ]
    opened, _ = schema.open_runs(folders, "test")
    (warning,) = html.sentences("warnings", opened)
    assert "optimizer.learning_rate (0.1 in a; 0.2 in b)" in warning
    assert ["optimizer.learning_rate", "0.1", "0.2"] in variables_of("provenance", opened)["table"].rows


def test_degenerate_maps_are_warned_about(tmp_path, runs):
    def some_degenerate(content):
        for name, count in (("cam", 3), ("layer5", 1)):
            content.scores[ScoreKey("degenerate", name)][:count] = 1

    other = open_test(make_run(tmp_path / "other", edit=some_degenerate))
    (warning,) = html.sentences("warnings", [runs[1], other])
    assert warning.startswith("other: Degenerate maps")
    assert "the attention at layer5 of 1, the CAM of 3 of 28 faces" in warning
    assert "faces.csv" in warning


def test_seeds_are_no_difference_if_every_weight_has_the_same(seed_runs):
    opened, _ = schema.open_runs([seed_runs], "test")
    assert html.sentences("warnings", opened) == []
    (warning,) = html.sentences("warnings", [opened[0], opened[3]])
    assert "seed (0 in au_weight=0,seed=0; 1 in au_weight=0.5,seed=1)" in warning


def test_model_selections_are_explained_and_their_difference_is_warned_about(tmp_path):
    folders = [make_run(tmp_path / name, model_selection=name) for name in ("validation", "test")]
    opened, _ = schema.open_runs(folders, "test")
    (warning,) = html.sentences("warnings", opened)
    assert "model_selection (validation in validation; test in test)" in warning
    assert "selected on the validation split; the faces of this split were not used" in html.sentence(
        "selection", opened[0]
    )
    assert "higher than on new faces" in html.sentence("selection", opened[1])


def test_numbers_of_faces_that_were_trained_or_selected_on_are_named(tmp_path):
    folder = make_run(tmp_path / "run", splits=("validation", "train", "test"))
    for split in ("validation", "train"):
        (run,), _ = schema.open_runs([folder], split)
        assert "on these very faces" in html.sentence("selection", run)
    evaluated_runs.change_json(folder, checkpoint=evaluated_runs.CHECKPOINT | {"which": "latest"})
    assert "no split was used to select them" in html.sentence("selection", open_test(folder))


# --- Faithfulness


def test_verdict_is_yes_or_no_only_if_both_tests_agree(comparison):
    (pair,) = comparison.pairs
    tests = [comparison.test(pair, metric) for metric in compare.RELIANCE]
    assert tests[0]["difference"] == pytest.approx(0.12 / evaluated_runs.FULL_DROP, abs=0.02)
    assert "**Yes: the network trained with AU cues relies more on the codebook's AUs.**" in html.sentence(
        "verdict", pair, tests
    )
    flipped = [test.copy() for test in tests]
    for test in flipped:
        test["low"], test["high"] = -test["high"], -test["low"]
    assert "No: the network trained with AU cues relies less" in html.sentence("verdict", pair, flipped)
    unsure = tests[1].copy()
    unsure["low"] = -0.1
    assert "**Inconclusive" in html.sentence("verdict", pair, [tests[0], unsure])
    assert html.sentences("verdicts", comparison) == [html.sentence("verdict", pair, tests)]


def test_runs_that_differ_in_more_are_called_by_their_names(tmp_path):
    options = {"without": {"au_weight": 0.0}, "with": {"au_weight": 4.0, "optimizer": {"learning_rate": 0.5}}}
    folders = [make_run(tmp_path / name, faithfulness=True, **each) for name, each in options.items()]
    (sentence,) = html.sentences("verdicts", compare.compare(schema.open_runs(folders, "test")[0]))
    assert "Yes: `with` relies more on the codebook's AUs than `without`." in sentence
    assert "trained with AU cues" not in sentence


def test_seeds_are_summarised_by_the_mean_of_the_tests(seed_runs):
    opened, _ = schema.open_runs([seed_runs], "test")
    comparison = compare.compare(opened)
    sentence = html.sentences("verdicts", comparison)[-1]
    changes = [comparison.test(pair, compare.RELIANCE[0])["difference"] for pair in comparison.contrasts[-1].pairs]
    mean = statistics.over_seeds(changes).mean
    assert sentence.startswith(f"Over 2 seeds of **{opened[0].name}** and **{opened[4].name}**")
    assert f"non-target AUs changes by {tables.with_interval(mean, 'points')} points" in sentence


def test_faithfulness_that_was_measured_differently_is_not_compared(tmp_path):
    folders = [
        make_run(tmp_path / name, au_weight=weight, faithfulness=True) for name, weight in (("a", 0.0), ("b", 4.0))
    ]
    evaluated_runs.change_json(folders[1], "faithfulness.json", imputation="mean")
    opened, _ = schema.open_runs(folders, "test")
    comparison = compare.compare(opened)
    (sentence,) = html.sentences("verdicts", comparison)
    assert "different imputations" in sentence
    assert f"`{opened[1].command('--faithfulness')}`" in sentence
    assert set(comparison.tests["family"]) == {"headline"}


def test_faces_behind_the_drops_are_counted_and_the_others_explained(tmp_path):
    # Faces 0 to 6 are predicted as Happiness, 5 has no landmarks, 6 no control, 7 is Fear, 8 and 9 one subject's Anger.
    predicted = np.array([1] * 7 + [3, 4, 4])

    def edit(content):
        content.columns = {name: column[:10] for name, column in content.columns.items()}
        content.columns["predicted"] = predicted
        content.records = [
            record | {"subject_id": f"subject {min(8, face)}"} for face, record in enumerate(content.records[:10])
        ]
        for scores in (content.scores, content.faithfulness):
            for key, values in scores.items():
                scores[key] = values[:10].copy()
        for key, values in content.faithfulness.items():
            if METRICS[key.metric].topic == "reliance":
                values[np.isnan(values)] = 0.1
                values[5] = np.nan
                if not METRICS[key.metric].condition:
                    values[6] = np.nan
                if METRICS[key.metric].normalised:
                    values[0] = np.nan

    run = open_test(make_run(tmp_path / "run", faithfulness=True, edit=edit))
    assert html.sentence("occlusion", run).startswith("On 8 faces of 7 subjects, the region of one action unit")
    assert "Of the 10 sampled faces, 1 without landmarks and 1 without target AUs" in html.sentence("occlusion", run)
    assert "On 7 of them, imputing the whole image lowers" in html.sentence("occlusion", run)
    assert html.sentence("drop_counts", run) == "Happiness 5; Fear 1; Anger 2 of 1 subjects"
    assert "the drops of Fear, Anger, which" in html.sentence("few_subjects", run)


def test_drops_are_averaged_by_prediction(runs, comparison, tmp_path):
    table = page.reliance(comparison, tmp_path)["regions"]
    drops = runs[0].faithfulness.scores(runs[0].faces)[ScoreKey("target_drop", "", "predicted")]
    predicted = runs[0].faces["predicted"].to_numpy()
    means = [drops[(predicted == name) & ~np.isnan(drops)].mean() for name in set(predicted) - {"Neutral"}]
    assert value_of(table.rows[0][1]) == pytest.approx(100 * np.mean(means), abs=0.051)
    assert table.header[1:4] == ["Target AUs (points)", "Non-target AUs (points)", "Control (points)"]


def test_gain_is_how_much_better_a_map_is_than_a_random_ordering(runs, comparison, tmp_path):
    table = page.attribution(comparison, tmp_path)["raw_gains"]
    row = next(row for row in table.rows if row[:2] == ["CAM", "without"])
    scores = runs[0].faithfulness.scores(runs[0].faces)
    for cell, kind, sign in zip(row[2:], ("deletion", "insertion", "road"), (-1, 1, -1), strict=True):
        own, random = (scores[ScoreKey(kind, name, "predicted")] for name in ("cam", "random"))
        assert cell.startswith(tables.number(float(np.nanmean(sign * (own - random))), "score", signed=True))


def test_gains_of_a_pair_are_tested_on_the_same_faces(runs, comparison):
    rows = page.test_table(comparison, "perturbation").rows
    assert [row[1].partition(",")[0] for row in rows[:3]] == [
        f"Attention: {kind}" for kind in ("Deletion", "Insertion", "ROAD")
    ]
    gains = [run.per_face("deletion_gain_normalised", map="attention") for run in runs]
    sampled = ~np.isnan(gains[0])
    test = statistics.paired_difference(*(gain[sampled] for gain in gains))
    assert rows[0][2] == tables.with_interval(test.difference, "score", signed=True)
    assert rows[0][5] == tables.p_value(test.p_value)


def test_method_without_cam_has_gains_of_the_attention_alone(tmp_path, runs):
    other = open_test(make_run(tmp_path / "other", au_weight=4.0, has_cam=False, faithfulness=True))
    comparison = compare.compare([runs[0], other])
    assert len(page.test_table(comparison, "perturbation").rows) == 3
    gains = page.attribution(comparison, tmp_path)["gains"].rows
    maps = ("Attention", "CAM", "Centred Gaussian", "AU map of the label")
    both = [[name, run] for name in maps for run in ("without", "other")]
    assert [row[:2] for row in gains] == [row for row in both if row != ["CAM", "other"]]


def test_sanity_has_a_row_per_stage_and_view(comparison, tmp_path):
    data = page.attribution(comparison, tmp_path)
    stages = dict.fromkeys(row[0] for row in data["randomisation"].rows)
    assert list(stages) == list(evaluated_runs.STAGES)
    assert data["randomisation"].rows[-1][2:] == ["0.400 [0.400, 0.400]"] * 3
    mirrored = data["views"].rows[0]
    assert mirrored[2:] == ["0.900 [0.900, 0.900]"] * 3 + ["95.0 [95.0, 95.0]"]


def test_seeds_have_the_mean_gain_and_how_often_the_prediction_stays(seed_runs, tmp_path):
    opened, _ = schema.open_runs([seed_runs], "test")
    table = page.attribution(compare.compare(opened), tmp_path)["seeds"]
    row = dict(zip(table.header, table.rows[0], strict=True))
    gains = [run.interval("deletion_gain_normalised", map="attention", target="predicted").value for run in opened[:2]]
    expected = statistics.over_seeds(gains)
    assert row["Attention: Deletion, gain over random ordering, normalised"] == tables.with_interval(
        expected.mean, "score", deviation=expected.deviation
    )
    assert row["Same prediction (%)"].startswith("95.0")


def test_names_of_maps_and_headings_have_units():
    assert tables.heading(METRICS["accuracy"]) == "Accuracy (%)"
    assert tables.heading(METRICS["target_drop"]) == "Target AUs (points)"
    assert re.fullmatch(r"Attention, layer\d", tables.map_title("layer5"))
