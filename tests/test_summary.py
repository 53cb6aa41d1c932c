"""The summary of an evaluation, by hand: aggregation, missing values, groups."""

import numpy as np
import pytest
import scipy.special
import sklearn.calibration

from aujax.results import METRICS, schema, summary
from aujax.results.registry import Faces
from aujax.results.schema import ScoreKey

EXPRESSIONS = ("Neutral", "Happiness", "Sadness")
NAN = np.nan


def faces(**changed):
    """Five faces: one neutral, two happy, two sad."""
    table = {
        "expression": np.array([0, 1, 1, 2, 2]),
        "predicted": np.array([0, 1, 2, 2, 0]),
        "logits": np.eye(3)[[0, 1, 2, 2, 0]],
        "subjects": np.full(5, ""),
    }
    return Faces(**(table | changed))


def scores():
    """Neutral has no AU map, and the last face no landmarks."""
    return {
        ScoreKey("att_cos"): np.array([NAN, 0.2, 0.4, 0.7, NAN]),
        ScoreKey("cam_cos"): np.array([NAN, 0.1, 0.3, 0.6, NAN]),
        ScoreKey("cosine", "uniform", "label"): np.array([NAN, 0.5, 0.5, 0.4, NAN]),
        ScoreKey("degenerate", "layer5"): np.array([0, 1, 0, 0, 1.0]),
        ScoreKey("auc", "cam", "predicted"): np.array([NAN, 0.6, 0.8, 1.0, NAN]),
    }


def rows(expressions=EXPRESSIONS, **options):
    table = summary.summarize(options.pop("of", faces()), options.pop("scores", scores()), expressions, **options)
    return {
        (row.metric, row.attribute, row.group): row
        for row in table.itertuples()
        if row.condition in ("", "uncalibrated")
    }


def test_accuracy_counts_every_face():
    assert rows()["accuracy", "", ""].value == pytest.approx(3 / 5)


def test_balanced_accuracy_is_the_mean_over_expressions():
    assert rows()["balanced_accuracy", "", ""].value == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_cosines_are_averaged_per_expression_over_faces_with_a_map():
    # Happiness (0.2 + 0.4) / 2, Sadness 0.7 alone, Neutral has none.
    row = rows()["att_cos", "", ""]
    assert (row.value, row.faces) == (pytest.approx((0.3 + 0.7) / 2), 3)


def test_scores_of_the_predicted_expression_are_averaged_over_predictions():
    # Predicted as Happiness 0.6 alone, as Sadness 0.8 and 1.
    assert rows()["auc", "", ""].value == pytest.approx((0.6 + 0.9) / 2)


def test_degenerate_maps_are_counted_over_all_faces():
    assert rows()["degenerate", "", ""].value == pytest.approx(2 / 5)


def test_numbers_of_an_expression_are_those_of_its_faces():
    table = rows()
    assert table["accuracy", "expression", "Happiness"].value == pytest.approx(0.5)
    assert table["cam_cos", "expression", "Happiness"].value == pytest.approx(0.2)
    assert table["cosine", "expression", "Sadness"].value == pytest.approx(0.4)


def test_an_expression_without_maps_has_no_cosine():
    assert rows()["cam_cos", "expression", "Neutral"].faces == 0
    assert np.isnan(rows()["cam_cos", "expression", "Neutral"].value)


def test_an_expression_without_faces_does_not_count():
    table = rows((*EXPRESSIONS, "Fear"))
    assert table["balanced_accuracy", "", ""].value == pytest.approx(2 / 3)
    assert ("accuracy", "expression", "Fear") not in table


def test_without_intervals_the_values_are_the_same():
    with_intervals, without = rows(), rows(resampled=False)
    keys = [key for key in without if key[0] in ("accuracy", "balanced_accuracy", "macro_f1", "att_cos", "auc")]
    assert len(keys) > 8
    for key in keys:
        assert without[key].value == pytest.approx(with_intervals[key].value, nan_ok=True)
        assert without[key].low is None or np.isnan(without[key].low)


def test_numbers_of_a_validation_are_the_headline_metrics():
    table = summary.summarize(faces(), scores(), EXPRESSIONS, resampled=False)
    numbers = summary.headline(table, {"uniform": "baseline"})
    assert numbers.keys() == {key for key, row in METRICS.items() if row.headline} | {"att_cos_by_layer", "baselines"}
    assert numbers["cam_cos"] == pytest.approx((0.2 + 0.6) / 2)
    assert numbers["baselines"] == {"uniform": pytest.approx(0.45)}


def test_a_missing_number_is_none():
    table = summary.summarize(faces(), {}, EXPRESSIONS, resampled=False)
    assert summary.headline(table, {})["cam_cos"] is None


def test_rows_of_the_confusion_matrix_are_true_expressions():
    assert summary.confusion_matrix(faces(), 3).tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]


def grouped(values, correct):
    """The rows of accuracy by a made-up attribute, in order."""
    count = len(values)
    labels = np.zeros(count, int)
    of = Faces(labels, np.where(correct, 0, 1), np.zeros((count, 2)), np.full(count, ""))
    table = summary.summarize(of, {}, ("A", "B"), attributes={"age": values}, resampled=False)
    return table[(table["attribute"] == "age") & (table["metric"] == "accuracy")]


def test_groups_are_sorted_by_their_numbers_and_the_unknown_last():
    names = ["20 to 39", "", "4 to 19", "0 to 3", "70 and more"]
    table = grouped(names * 20, np.arange(100) % 2 == 0)
    assert table["group"].tolist() == ["0 to 3", "4 to 19", "20 to 39", "70 and more", ""]


def test_a_group_of_fewer_than_twenty_faces_has_a_count_and_no_number():
    table = grouped(["male"] * 20 + ["female"] * 19, np.arange(39) < 15).set_index("group")
    assert np.isnan(table.loc["female", "value"])
    assert table.loc["female", "faces"] == 19
    assert table.loc["male", "value"] == pytest.approx(0.75)


def test_chance_of_a_classifier_that_ignores_the_image():
    counts = np.array([6, 3, 1])
    assert METRICS["accuracy"].chance_level(counts) == pytest.approx(0.6)
    assert METRICS["balanced_accuracy"].chance_level(counts) == pytest.approx(1 / 3)
    # Always the first of three: precision 0.6 and recall 1, that is 0.75, and 0 for the others.
    assert METRICS["macro_f1"].chance_level(counts) == pytest.approx(0.75 / 3)
    assert METRICS["auc"].chance_level(counts) == 0.5


def test_calibrated_probabilities_have_rows_of_their_own_once_a_temperature_is_known():
    of = faces(temperature=2.0)
    table = summary.summarize(of, {}, EXPRESSIONS, resampled=False)
    found = table[table["metric"] == "negative_log_likelihood"].set_index("condition")["value"]
    # p(label) of a correct face is e^x / (e^x + 2), of a wrong one 1 / (e^x + 2), with x = 1 or 1 / 2.
    for condition, x in (("uncalibrated", 1.0), ("calibrated", 0.5)):
        by_hand = np.log(np.exp(x) + 2) - 3 / 5 * x
        assert found[condition] == pytest.approx(by_hand)


def test_accuracy_by_prediction_is_the_precision():
    table = rows()
    assert table["accuracy", "predicted", "Neutral"].value == 0.5
    assert table["accuracy", "predicted", "Happiness"].value == 1.0
    assert (table["accuracy", "predicted", "Sadness"].value, table["accuracy", "predicted", "Sadness"].faces) == (
        0.5,
        2,
    )


def test_accuracy_by_confidence_equals_scikit_learn():
    rng = np.random.default_rng(0)
    expression, logits = rng.integers(3, size=500), 2 * rng.normal(size=(500, 3))
    of = Faces(expression, logits.argmax(1), logits, np.full(500, ""), temperature=2.0)
    table = summary.summarize(of, {}, EXPRESSIONS, resampled=False)
    for condition, temperature in (("uncalibrated", 1.0), ("calibrated", 2.0)):
        bins = table[table["attribute"] == f"{condition} confidence"]
        correct, chances = of.correct, of.confidence(temperature)
        accuracy, confidence = sklearn.calibration.calibration_curve(correct, chances, n_bins=15)
        np.testing.assert_allclose(bins.loc[bins["metric"] == "accuracy", "value"], accuracy)
        own = (bins["metric"] == "confidence") & (bins["condition"] == condition)
        np.testing.assert_allclose(bins.loc[own, "value"], confidence)
        edges = np.unique(np.ceil(15 * chances) - 1) / 15
        np.testing.assert_allclose(bins.loc[own, "group"].astype(float), edges, atol=1e-4)


def test_faces_at_the_threshold_are_accepted():
    """Four faces of confidence 0.9, 0.8, 0.8 and 0.6: half of them cannot be accepted without a third."""
    confidence = np.array([0.9, 0.8, 0.8, 0.6])
    of = Faces(
        np.array([0, 0, 1, 0]), np.zeros(4, int), np.log(np.stack([confidence, 1 - confidence], 1)), np.full(4, "")
    )
    table = summary.summarize(of, {}, ("A", "B"), resampled=False)
    found = {
        metric: table[(table["metric"] == metric) & (table["attribute"] == "")].set_index("condition")["value"]
        for metric in ("selective_threshold", "selective_coverage", "selective_accuracy")
    }
    for coverage, threshold, accepted, accuracy in (("0.2", 0.9, 1, 1.0), ("0.5", 0.8, 3, 2 / 3), ("1", 0.6, 4, 3 / 4)):
        assert found["selective_threshold"][coverage] == pytest.approx(threshold)
        assert found["selective_coverage"][coverage] == accepted / 4
        assert found["selective_accuracy"][coverage] == pytest.approx(accuracy)


def test_the_operating_point_is_chosen_on_validation_and_applied_to_calibrated_probabilities(two_runs):
    for folder in two_runs:
        run, other = (schema.open_run(folder, split) for split in ("test", "validation"))
        temperature = run.metadata["temperature"]["value"]
        first, second = (
            scipy.special.softmax(faces.logits.astype(float) / temperature, axis=1).max(1)
            for faces in (other.predictions, run.predictions)
        )
        reached = [c for c in first if other.predictions.correct[first >= c].mean() >= 0.95]
        point = run.metadata["operating_point"]
        assert point["threshold"] == (pytest.approx(min(reached)) if reached else None)
        if reached:
            accepted = second >= min(reached) - 1e-9
            assert point["coverage"] == pytest.approx(accepted.mean())
            assert point["accuracy"]["value"] == pytest.approx(run.predictions.correct[accepted].mean())
    assert reached  # at least of the second run


def test_every_metric_has_a_title_a_definition_and_a_way_to_compute_it():
    for key, metric in METRICS.items():
        assert key == metric.key
        assert metric.title
        assert metric.definition.endswith(".")
        assert (metric.compute is not None) == (metric.aggregation == "function")
