"""How often each 95 % interval covers the true value in simulated data, and how often tests of no difference reject."""

import numpy as np
import pytest

from aujax.results import calibration, statistics

pytestmark = pytest.mark.slow

TRIALS = 600


def independent_faces(rng):
    return None, rng.normal(0.5, 0.2, 40)


def faces_of_subjects(rng):
    """Twenty subjects with one to six faces each, whose values are more alike than those of others."""
    numbers = np.repeat(np.arange(20), rng.integers(1, 7, 20))
    return numbers.astype(str), 0.5 + rng.normal(0, 0.15, 20)[numbers] + rng.normal(0, 0.15, len(numbers))


def mean_of(sample):
    def interval(rng):
        subjects, values = sample(rng)
        return statistics.bootstrap(statistics.mean(values), len(values), subjects=subjects)

    return interval


def macro_mean(rng):
    classes = np.repeat([0, 1], [30, 10])
    values = rng.normal(np.array([0.2, 0.8])[classes], 0.2)
    return statistics.bootstrap(statistics.macro_mean(values, classes), 40)


def accuracy(rng):
    return statistics.accuracy_interval(rng.random(40) < 0.75)


def accuracy_of_subjects(rng):
    subjects, values = faces_of_subjects(rng)
    return statistics.accuracy_interval(values > 0.5, subjects=subjects)


def mcnemar(rng):
    return statistics.mcnemar(rng.random(60) < 0.6, rng.random(60) < 0.6).difference


def paired_difference(rng):
    first = rng.normal(0.5, 0.2, 40)
    return statistics.paired_difference(first, first + rng.normal(0.1, 0.2, 40)).difference


def over_seeds(rng):
    return statistics.over_seeds(rng.normal(0.7, 0.02, 3).tolist()).mean


@pytest.mark.parametrize(
    ("interval", "true"),
    [
        pytest.param(mean_of(independent_faces), 0.5, id="expanded percentile bootstrap"),
        pytest.param(mean_of(faces_of_subjects), 0.5, id="cluster bootstrap"),
        pytest.param(macro_mean, 0.5, id="bootstrap of a mean over classes"),
        pytest.param(accuracy, 0.75, id="Wilson"),
        pytest.param(accuracy_of_subjects, 0.5, id="cluster bootstrap of an accuracy"),
        pytest.param(mcnemar, 0.0, id="Bonett and Price"),
        pytest.param(paired_difference, 0.1, id="paired bootstrap"),
        pytest.param(over_seeds, 0.7, id="Student over three seeds"),
    ],
)
def test_interval_covers_the_true_value_in_95_of_100_cases(interval, true):
    rng = np.random.default_rng(0)
    found = [interval(rng) for _ in range(TRIALS)]
    covered = np.mean([each.low <= true <= each.high for each in found])
    assert 0.91 <= covered <= 0.985


def test_intervals_of_means_over_classes_are_too_short_where_one_class_has_three_faces():
    """A known limit, stated in docs/guides/the_numbers.md."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(6), [35, 35, 35, 35, 35, 3])
    covered = []
    for _ in range(TRIALS):
        correct = (rng.random(len(classes)) < 0.5).astype(float)
        interval = statistics.bootstrap(statistics.macro_mean(correct, classes), len(classes))
        covered.append(interval.low <= 0.5 <= interval.high)
    assert 0.75 <= np.mean(covered) <= 0.85


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
def test_calibrated_networks_exceed_the_expected_calibration_error_in_few_cases(correlation):
    """177 subjects with 336 faces, one of them with 57: as in docs/evidence.md."""
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(177), np.concatenate([[57], np.ones(73, int), np.full(103, 2)]))
    subjects = numbers.astype(str)
    exceeded = []
    for _ in range(200):
        confidence = rng.uniform(0.3, 0.95, len(numbers))
        shared = rng.random(len(numbers)) < correlation**0.5
        correct = np.where(shared, rng.random(177)[numbers], rng.random(len(numbers))) < confidence
        estimate = calibration.within_subject_correlation(confidence, correct, subjects=subjects)
        expected = calibration.calibration_error_if_calibrated(confidence, correlation=estimate, subjects=subjects)
        exceeded.append(calibration.expected_calibration_error(confidence, correct) > expected.high)
    assert np.mean(exceeded) <= 0.06


def test_overconfident_networks_exceed_the_expected_calibration_error_in_most_cases():
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(177), np.concatenate([[57], np.ones(73, int), np.full(103, 2)]))
    exceeded = []
    for _ in range(100):
        confidence = rng.uniform(0.3, 0.95, len(numbers))
        shared = rng.random(len(numbers)) < 0.1**0.5
        correct = np.where(shared, rng.random(177)[numbers], rng.random(len(numbers))) < confidence - 0.12
        subjects = numbers.astype(str)
        estimate = calibration.within_subject_correlation(confidence, correct, subjects=subjects)
        expected = calibration.calibration_error_if_calibrated(confidence, correlation=estimate, subjects=subjects)
        exceeded.append(calibration.expected_calibration_error(confidence, correct) > expected.high)
    assert np.mean(exceeded) >= 0.7


def test_tests_of_no_difference_reject_in_at_most_7_of_100_cases():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(TRIALS):
        subjects, values = faces_of_subjects(rng)
        p_values.append(statistics.paired_difference(np.zeros(len(values)), values - 0.5, subjects=subjects).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.07
