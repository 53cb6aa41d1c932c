"""Calibration and abstention: hand-computed cases, extremes, and scikit-learn as an independent implementation."""

import numpy as np
import pytest
import sklearn.metrics

from aujax.errors import UserError
from aujax.results import calibration, statistics


def _overconfident(count=2000, *, factor=3.0, seed=0):
    """Logits `factor` times too large for labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 5))
    chances = calibration.probabilities(logits).cumsum(-1)
    return factor * logits, (rng.random((count, 1)) > chances[:, :-1]).sum(-1)


def risk_coverage_area(confidence, correct):
    return calibration.risk_coverage_area(confidence, correct)(np.ones((1, len(correct))))[0]


def _answers(logits, expression, temperature=1.0):
    chances = calibration.probabilities(logits, temperature=temperature)
    return chances.max(-1), chances.argmax(-1) == expression


def test_temperature_recovers_the_scale_of_the_logits():
    logits, expression = _overconfident()
    assert calibration.fit_temperature(logits, expression) == pytest.approx(3, rel=0.05)
    assert calibration.fit_temperature(logits / 6, expression) == pytest.approx(0.5, rel=0.05)


def test_temperature_maximises_the_likelihood_and_changes_no_prediction():
    logits, expression = _overconfident(300)
    best = calibration.fit_temperature(logits, expression)
    likelihood = [
        calibration.log_losses(logits, expression, temperature=best * factor).mean() for factor in (0.98, 1, 1.02)
    ]
    assert likelihood[1] == min(likelihood)
    np.testing.assert_array_equal(_answers(logits, expression, best)[1], _answers(logits, expression)[1])


def test_temperature_lowers_the_calibration_error_on_other_faces():
    logits, expression = _overconfident(4000)
    temperature = calibration.fit_temperature(logits[:2000], expression[:2000])
    before, after = (
        calibration.expected_calibration_error(*_answers(logits[2000:], expression[2000:], t)) for t in (1, temperature)
    )
    assert before > 0.2
    assert after < 0.04


def test_temperature_is_finite_if_every_prediction_is_correct_or_wrong():
    logits = np.array([[0.5, 0.0], [0.0, 0.5]])
    assert calibration.fit_temperature(logits, np.array([0, 1])) == pytest.approx(1 / 20, rel=1e-3)
    assert calibration.fit_temperature(logits, np.array([1, 0])) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "message"),
    [(np.zeros((0, 7)), "got none; use a validation split"), (np.array([[0.0, np.inf], [0, 0]]), "1 of 2 are not")],
)
def test_logits_to_which_no_temperature_can_be_fitted_are_refused(logits, message):
    with pytest.raises(UserError, match=message):
        calibration.fit_temperature(logits, np.zeros(len(logits), int))


def test_likelihood_and_brier_score_equal_scikit_learn():
    logits, expression = _overconfident(100)
    chances = calibration.probabilities(logits)
    labels = list(range(5))
    found = calibration.log_losses(logits, expression).mean()
    assert found == pytest.approx(sklearn.metrics.log_loss(expression, chances, labels=labels), rel=1e-9)
    expected = sklearn.metrics.brier_score_loss(expression, chances, labels=labels, scale_by_half=False)
    assert calibration.brier_scores(chances, expression).mean() == pytest.approx(expected, rel=1e-9)


def test_likelihood_of_huge_logits_is_finite():
    logits = np.array([[1e4, 0.0]], np.float32)
    assert calibration.log_losses(logits, np.array([1])).mean() == pytest.approx(1e4)
    np.testing.assert_array_equal(calibration.probabilities(logits), [[1, 0]])


def test_bins_include_their_upper_edge_and_the_first_one_zero():
    assert calibration.bin_index(np.array([0.0, 0.25, 0.5, 0.6, 1.0]), bins=4).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(("right", "error"), [([True] * 4, 0.0), ([False] * 4, 1.0)])
def test_certain_predictions_are_calibrated_if_correct_and_not_if_wrong(right, error):
    assert calibration.expected_calibration_error(np.ones(4), np.array(right)) == error


def test_calibration_error_by_hand():
    # (0, 0.5]: one face, confidence 0.4, right: 0.6 apart. (0.5, 1]: three, confidence 0.8, 2 / 3 right.
    probability, correct = np.array([0.4, 0.7, 0.8, 0.9]), np.array([True, True, False, True])
    by_hand = 1 / 4 * 0.6 + 3 / 4 * abs(0.8 - 2 / 3)
    assert calibration.expected_calibration_error(probability, correct, bins=2) == pytest.approx(by_hand)


def test_coverage_by_hand_accepts_equal_confidences_together():
    curve = calibration.selective_accuracy(np.array([0.6, 0.9, 0.6, 0.7]), np.array([False, True, True, False]))
    np.testing.assert_allclose(curve.threshold, [0.9, 0.7, 0.6])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 0.5, 0.5])


def test_risk_is_lowest_if_the_most_confident_predictions_are_correct():
    probability, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False])
    # Right first: (0 + 0 + 1/3 + 2/4) / 4; wrong first: (1 + 1 + 2/3 + 2/4) / 4.
    assert risk_coverage_area(probability, right) == pytest.approx((1 / 3 + 2 / 4) / 4)
    assert risk_coverage_area(probability, ~right) == pytest.approx((2 + 2 / 3 + 2 / 4) / 4)
    assert risk_coverage_area(probability, np.ones(4, bool)) == 0
    assert risk_coverage_area(probability, np.zeros(4, bool)) == 1


def test_risk_of_equal_confidences_is_the_error_rate_in_any_order():
    for correct in ([True, False, False, False], [False, False, True, False]):
        assert risk_coverage_area(np.full(4, 0.5), np.array(correct)) == pytest.approx(0.75)


def test_interval_of_risk_equals_that_of_areas_counted_face_by_face():
    rng = np.random.default_rng(0)
    probability, correct = rng.integers(5, 10, 12) / 10, rng.random(12) < 0.6  # some have the same probability
    subjects = rng.integers(0, 6, 12).astype(str)

    def counted(drawn):
        faces = np.repeat(np.arange(12), drawn.astype(int))
        surest_first = faces[np.argsort(-probability[faces], kind="stable")]
        # Among equal probabilities, each face is wrong as often as all of them are.
        wrong = [(~correct[faces])[probability[faces] == probability[face]].mean() for face in surest_first]
        return np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))

    expected = statistics.bootstrap(lambda weights: np.array([counted(row) for row in weights]), 12, subjects=subjects)
    found = statistics.bootstrap(calibration.risk_coverage_area(probability, correct), 12, subjects=subjects)
    assert found == pytest.approx(expected, rel=1e-9)


def test_threshold_accepts_as_many_faces_as_the_accuracy_allows():
    probability, correct = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False])
    assert calibration.threshold_for_accuracy(probability, correct, 0.75) == 0.6
    assert calibration.threshold_for_accuracy(probability, correct, 0.9) == 0.9
    assert calibration.threshold_for_accuracy(probability, correct, 0.0) == 0.5


def test_no_threshold_if_the_accuracy_is_never_reached():
    assert calibration.threshold_for_accuracy(np.array([0.9, 0.8]), np.array([False, True]), 0.6) is None


def test_error_of_calibrated_probabilities_by_hand():
    """By hand: one face of probability 0.5 is off by 0.5 either way, one of 0.75 by 0.25 in three draws of four."""
    assert calibration.calibration_error_if_calibrated(np.array([0.5])) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = calibration.calibration_error_if_calibrated(np.array([0.75]))
    assert mean == pytest.approx(0.75 * 0.25 + 0.25 * 0.75, abs=0.02)
    assert (low, high) == (0.25, 0.75)


def test_only_miscalibrated_probabilities_exceed_the_error_of_calibrated_ones():
    logits, expression = _overconfident(300)
    for temperature, above in ((3.0, False), (1.0, True)):
        probability, correct = _answers(logits, expression, temperature)
        expected = calibration.calibration_error_if_calibrated(probability)
        assert (calibration.expected_calibration_error(probability, correct) > expected.high) == above


def dependent_outcomes(rng, confidence, subjects, correlation):
    """Outcomes of these probabilities; two of a subject are decided by the same number with this probability."""
    names, numbers = np.unique(subjects, return_inverse=True)
    own, shared = rng.random(len(confidence)), rng.random(len(names))[numbers]
    return np.where(rng.random(len(confidence)) < correlation**0.5, shared, own) < confidence


def test_error_of_calibrated_faces_counts_subjects_if_they_are_all_or_nothing():
    alone = calibration.calibration_error_if_calibrated(np.full(4, 0.5))
    subjects = np.repeat(["a", "b", "c", "d"], 10)
    together = calibration.calibration_error_if_calibrated(np.full(40, 0.5), correlation=1.0, subjects=subjects)
    assert together == pytest.approx(alone, abs=0.02)
    independent = calibration.calibration_error_if_calibrated(np.full(40, 0.5), correlation=0.0, subjects=subjects)
    assert independent == pytest.approx(calibration.calibration_error_if_calibrated(np.full(40, 0.5)))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_within_subject_correlation_is_that_of_the_outcomes(correlation):
    rng = np.random.default_rng(0)
    subjects = rng.integers(500, size=2000).astype(str)
    confidence = rng.uniform(0.3, 0.95, 2000)
    correct = dependent_outcomes(rng, confidence, subjects, correlation)
    found = calibration.within_subject_correlation(confidence, correct, subjects=subjects)
    assert found == pytest.approx(correlation, abs=0.08)


def test_miscalibration_is_not_taken_for_dependence():
    rng = np.random.default_rng(0)
    subjects = rng.integers(500, size=2000).astype(str)
    confidence = rng.uniform(0.5, 0.95, 2000)
    correct = dependent_outcomes(rng, confidence - 0.3, subjects, 0.0)
    assert calibration.within_subject_correlation(confidence, correct, subjects=subjects) < 0.08


def test_within_subject_correlation_by_hand():
    # One bin with accuracy 1 / 2. Residuals of a: +, +; of b: -, -, +. Products of pairs, times 4: 1, and 1 - 1 - 1.
    # The largest covariance of two such outcomes is 1 / 4, of four pairs 1.
    subjects = np.array(["a", "a", "b", "b", "b", ""])
    correct = np.array([True, True, False, False, True, False])
    found = calibration.within_subject_correlation(np.full(6, 0.5), correct, subjects=subjects)
    assert found == pytest.approx(max((1 / 4 - 1 / 4) / 1, 0))
    correct = np.array([True, True, False, False, False, True])
    found = calibration.within_subject_correlation(np.full(6, 0.5), correct, subjects=subjects)
    assert found == 1.0
