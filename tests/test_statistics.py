"""Intervals and tests: hand-computed cases, extremes, and SciPy and scikit-learn as independent implementations."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from aujax.results import statistics
from aujax.results.statistics import Interval

NOTHING = Interval(None, None, None)


def _labels(count, *, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    expression = rng.choice(classes, count, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    return expression, np.where(rng.random(count) < 0.6, expression, rng.integers(0, classes, count))


def macro_mean_interval(values, classes, *, subjects=None):
    return statistics.bootstrap(statistics.macro_mean(values, classes), len(values), subjects=subjects)


def balanced_accuracy_interval(expression, predicted, *, subjects=None):
    return macro_mean_interval(expression == predicted, expression, subjects=subjects)


def macro_f1_interval(expression, predicted, *, subjects=None):
    return statistics.bootstrap(statistics.macro_f1(expression, predicted), len(expression), subjects=subjects)


def balanced_accuracy(expression, predicted):
    return balanced_accuracy_interval(expression, predicted).value


def macro_f1(expression, predicted):
    return macro_f1_interval(expression, predicted).value


def test_bootstrap_agrees_with_scipy():
    expression, _ = _labels(60, classes=3)
    values = np.random.default_rng(1).normal(expression, 1.0)

    def macro(some, labels):
        return np.mean([some[labels == k].mean() for k in np.unique(labels)])

    expected = scipy.stats.bootstrap(
        *((values, expression), macro),
        **{"paired": True, "vectorized": False, "n_resamples": 2000, "method": "percentile"},
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = macro_mean_interval(values, expression)
    # The ends of 2,000 resamples vary by some 4 % of the width from one generator to another.
    width = expected.high - expected.low
    assert found.value == pytest.approx(macro(values, expression), rel=1e-12)
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.12 * width)


def test_resamples_have_as_many_faces_and_are_always_the_same():
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights @ np.random.default_rng(0).random(5)

    once, again = statistics.bootstrap(statistic, 5), statistics.bootstrap(statistic, 5)
    drawn = seen[1::2]
    assert all((weights.sum(1) == 5).all() and (weights >= 0).all() for weights in drawn)
    assert drawn[0].shape == (2000, 5)
    assert len(np.unique(drawn[0], axis=0)) > 100
    assert once == again


def test_bootstrap_in_chunks_equals_the_bootstrap_at_once(monkeypatch):
    values = np.random.default_rng(0).normal(size=40)

    def statistic(weights):
        return weights @ values / weights.sum(1)

    whole = statistics.bootstrap(statistic, 40)
    monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 1000)
    assert statistics.bootstrap(statistic, 40) == pytest.approx(whole, rel=1e-12)


def test_intervals_have_their_nominal_coverage():
    rng, hits = np.random.default_rng(0), 0
    expression = np.repeat([0, 1], 30)
    for _ in range(100):
        found = macro_mean_interval(rng.normal(expression, 1.0), expression)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 100 <= 0.99


def test_unknown_subjects_are_distinct():
    subjects = np.array(["bob", "", "ann", "bob", ""])
    units = statistics.subject_numbers(subjects, 5).tolist()
    assert units[0] == units[3]
    assert sorted(set(units)) == [0, 1, 2, 3]
    assert statistics.subject_numbers(None, 3).tolist() == [0, 1, 2]


def test_subjects_are_resampled_with_all_their_faces():
    seen, subjects = [], np.array(["ann", "bob", "ann", "", "bob", "", ""])
    statistics.bootstrap(lambda weights: seen.append(weights) or weights.sum(1), 7, subjects=subjects)
    drawn = seen[1]
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3, 5, 6]].sum(1) == 5).all()  # as many subjects as there are


@pytest.mark.parametrize("faces", [6, 10])
def test_few_faces_keep_coverage_and_false_positive_rate(faces):
    rng, hits, false = np.random.default_rng(0), 0, 0
    for _ in range(150):
        found = statistics.paired_difference(np.zeros(faces), rng.normal(size=faces), np.zeros(faces, int))
        hits += found.difference.low <= 0 <= found.difference.high
        false += found.p_value <= 0.05
    assert 0.90 <= hits / 150 <= 0.99
    assert false / 150 <= 0.08


def test_fewer_than_five_faces_or_subjects_have_no_interval_and_no_p_value():
    ones, expression = np.arange(1.0, 5.0), np.zeros(4, int)
    assert macro_mean_interval(ones, expression) == (2.5, None, None)
    assert statistics.paired_difference(np.zeros(4), ones, expression).p_value is None
    values, subjects = np.arange(40.0), np.repeat(["a", "b", "c", "d"], 10)
    assert macro_mean_interval(values, np.zeros(40, int), subjects=subjects) == (19.5, None, None)


def test_p_value_is_at_least_that_of_a_sign_flip_test():
    found = statistics.paired_difference(np.zeros(5), np.full(5, 0.1), np.zeros(5, int))
    assert found.p_value == pytest.approx(2 / 2**5)


def test_resamples_that_lack_an_expression_are_drawn_again():
    # One face of expression 1: without it the mean would be that of expression 0, which is 0.
    values, expression = np.array([0.0] * 9 + [1.0]), np.array([0] * 9 + [1])
    assert macro_mean_interval(values, expression) == (0.5, 0.5, 0.5)
    assert macro_f1_interval(expression, expression) == (1.0, 1.0, 1.0)


def test_no_interval_where_almost_every_resample_lacks_an_expression():
    assert macro_mean_interval(np.arange(9.0), np.arange(9)) == (4.0, None, None)


def test_subjects_with_one_face_each_change_nothing():
    expression, predicted = _labels(40)
    first, second = expression == predicted, np.arange(40) % 3 > 0
    for subjects in (np.array([""] * 40), np.array([f"{face:02d}" for face in range(40)])):
        for measure, arrays in (
            (statistics.accuracy_interval, (first,)),
            (balanced_accuracy_interval, (expression, predicted)),
            (macro_f1_interval, (expression, predicted)),
            (macro_mean_interval, (first, expression)),
            (statistics.mcnemar, (first, second)),
            (statistics.paired_difference, (first, second, expression)),
        ):
            assert measure(*arrays, subjects=subjects) == measure(*arrays)


def test_repeating_faces_of_a_subject_does_not_narrow_an_interval():
    expression, predicted = _labels(40)
    often, subjects = np.repeat(np.arange(40), 9), np.repeat([f"{face:02d}" for face in range(40)], 9)
    correct, values = expression == predicted, np.random.default_rng(0).random(40)
    for measure, arrays in (
        (balanced_accuracy_interval, (expression, predicted)),
        (macro_f1_interval, (expression, predicted)),
        (macro_mean_interval, (values, expression)),
    ):
        repeated = [array[often] for array in arrays]
        assert measure(*repeated, subjects=subjects) == pytest.approx(measure(*arrays), rel=1e-9)
        alone, together = measure(*repeated), measure(*repeated, subjects=subjects)
        assert together.high - together.low > 2.5 * (alone.high - alone.low)  # the root of 9 is 3
    # Wilson's interval is another than the bootstrap's, and about as wide.
    once, again = statistics.accuracy_interval(correct), statistics.accuracy_interval(correct[often], subjects=subjects)
    assert again == pytest.approx(once, abs=0.04)


def test_macro_f1_equals_scikit_learn():
    expression, predicted = _labels(200)
    expected = sklearn.metrics.f1_score(expression, predicted, average="macro")
    assert macro_f1(expression, predicted) == pytest.approx(expected, rel=1e-12)


def test_macro_f1_leaves_out_classes_that_are_neither_label_nor_prediction():
    # Class 0: TP 1, FN 1, no FP: 2/3. Class 3: no TP: 0. Class 5: TP 1: 1. Classes 1, 2 and 4 do not occur.
    assert macro_f1(np.array([0, 0, 5]), np.array([0, 3, 5])) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_balanced_accuracy_equals_scikit_learn():
    expression, predicted = _labels(200)
    expected = sklearn.metrics.balanced_accuracy_score(expression, predicted)
    assert balanced_accuracy(expression, predicted) == pytest.approx(expected, rel=1e-12)


def test_classes_may_be_names():
    expression, predicted = _labels(50)
    names = np.array(["Fear", "Anger", "Sadness", "Neutral"])
    for measure in (macro_f1, balanced_accuracy):
        assert measure(names[expression], names[predicted]) == pytest.approx(measure(expression, predicted))


def test_no_face_has_no_value_and_one_face_no_interval():
    none, one = np.zeros(0, int), np.array([2])
    assert statistics.accuracy_interval(none == none) == NOTHING
    assert macro_f1_interval(none, none) == NOTHING
    assert macro_mean_interval(np.ones(0), none) == NOTHING
    assert statistics.paired_difference(np.ones(0), np.ones(0), none) == (NOTHING, None, 0, 0, 0)
    assert statistics.mcnemar(none == none, none == none) == (NOTHING, None, 0, 0, 0)
    assert macro_f1_interval(one, one) == Interval(1.0, None, None)
    assert balanced_accuracy_interval(one, one) == Interval(1.0, None, None)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (700, 1000), (5, 5)])
def test_accuracy_interval_equals_scipy_wilson(right, count):
    expected = scipy.stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = statistics.accuracy_interval(np.arange(count) < right)
    assert found == pytest.approx((right / count, expected.low, expected.high), abs=1e-12)


def test_perfect_accuracy_of_few_faces_has_a_wide_interval():
    assert statistics.accuracy_interval(np.ones(5, bool)).low < 0.6
    assert statistics.accuracy_interval(np.ones(5, bool)).high == 1.0


def test_macro_f1_interval_equals_the_bootstrap_of_scikit_learn_scores(monkeypatch):
    expression, predicted = _labels(80)

    def statistic(weights):
        scores = [
            sklearn.metrics.f1_score(expression, predicted, sample_weight=row, average="macro") for row in weights
        ]
        return np.array(scores)

    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    expected = statistics.bootstrap(statistic, 80)
    assert macro_f1_interval(expression, predicted) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("higher", "lower", "same"), [(6, 0, 0), (12, 3, 40), (4, 9, 1), (5, 5, 2)])
def test_mcnemar_equals_scipy_exact_binomial_test(higher, lower, same):
    first = np.array([False] * higher + [True] * lower + [True] * same)
    second = np.array([True] * higher + [False] * lower + [True] * same)
    found = statistics.mcnemar(first, second)
    assert found.p_value == pytest.approx(scipy.stats.binomtest(higher, higher + lower).pvalue, rel=1e-9)
    assert found.difference.value == pytest.approx((higher - lower) / len(first))
    assert found[2:] == (len(first), higher, lower)


def test_interval_of_paired_accuracies_by_hand():
    # 12 better and 3 worse of 98: Bonett and Price take 13 / 100 and 4 / 100.
    first, second = np.array([False] * 12 + [True] * 86), np.array([True] * 12 + [False] * 3 + [True] * 83)
    half = 1.959964 * np.sqrt((0.17 - 0.09**2) / 100)
    found = statistics.mcnemar(first, second).difference
    assert found == pytest.approx((9 / 98, 0.09 - half, 0.09 + half), abs=1e-6)


def test_equal_predictions_have_p_value_1_and_an_interval_with_a_width():
    same = np.array([True, False, True])
    found = statistics.mcnemar(same, same)
    assert found.p_value == 1
    assert found.difference.low < found.difference.value == 0 < found.difference.high


def test_swapping_the_runs_negates_the_difference():
    rng = np.random.default_rng(0)
    first, second = rng.random(50) < 0.5, rng.random(50) < 0.8
    for there, back in (
        (statistics.mcnemar(first, second), statistics.mcnemar(second, first)),
        (
            statistics.paired_difference(first, second, np.arange(50) % 3),
            statistics.paired_difference(second, first, np.arange(50) % 3),
        ),
    ):
        assert back.difference == pytest.approx(
            (-there.difference.value, -there.difference.high, -there.difference.low)
        )
        assert (back.p_value, back.higher, back.lower) == pytest.approx((there.p_value, there.lower, there.higher))


def test_paired_test_detects_what_separate_intervals_do_not():
    rng, expression = np.random.default_rng(0), np.arange(200) % 4
    first = rng.normal(size=200)
    second = first + 0.1 + 0.05 * rng.normal(size=200)
    paired = statistics.paired_difference(first, second, expression)
    alone = [macro_mean_interval(values, expression) for values in (first, second)]
    assert alone[0].high > alone[1].low  # as intervals of their own they overlap
    assert paired.difference.low > 0.08
    assert paired.p_value == pytest.approx(2 / 2001, rel=0.3)  # that of 200 faces, and no resample beyond 0
    assert (paired.count, paired.higher + paired.lower) == (200, 200)


def test_paired_test_of_equal_values_has_the_p_value_1():
    values = np.linspace(0, 1, 8)
    found = statistics.paired_difference(values, values, np.arange(8) % 2)
    assert found == (Interval(0, 0, 0), 1, 8, 0, 0)
    assert statistics.paired_difference(values[:1], values[1:2], np.array([0])).p_value is None


def test_paired_tests_count_subjects_instead_of_faces():
    rng, expression = np.random.default_rng(0), np.arange(60) % 2
    first, second = rng.random(60) < 0.5, rng.random(60) < 0.7
    often, subjects = np.repeat(np.arange(60), 5), np.repeat([f"{face:02d}" for face in range(60)], 5)
    once, again = statistics.mcnemar(first, second), statistics.mcnemar(first[often], second[often], subjects=subjects)
    assert again.p_value == pytest.approx(once.p_value)
    assert again.p_value > 2 * statistics.mcnemar(first[often], second[often]).p_value
    assert again.difference.value == pytest.approx(once.difference.value)
    assert again.difference[1:] == pytest.approx(once.difference[1:], abs=0.06)
    assert again[2:] == (300, 5 * once.higher, 5 * once.lower)
    once = statistics.paired_difference(first, second, expression)
    again = statistics.paired_difference(first[often], second[often], expression[often], subjects=subjects)
    assert (*again.difference, again.p_value) == pytest.approx((*once.difference, once.p_value), rel=1e-9)


def test_clustered_mcnemar_equals_enumeration_of_all_sign_flips():
    # Gains of +3, -1, +2, 0: of the 8 throws of three coins, those with a sum of at least 4 or at most -4.
    first = np.array([False] * 3 + [True] + [False] * 2 + [True, False])
    second = np.array([True] * 3 + [False] + [True] * 2 + [False, True])
    subjects = np.array(["a"] * 3 + ["b"] + ["c"] * 2 + ["d"] * 2)
    sums = [abs(np.dot(signs, [3, 1, 2])) for signs in itertools.product([1, -1], repeat=3)]
    assert statistics.mcnemar(first, second, subjects=subjects).p_value == pytest.approx(np.mean(np.array(sums) >= 4))


def test_many_sign_flips_equal_a_simulation():
    rng = np.random.default_rng(0)
    gains = rng.integers(-3, 4, 400)
    flips = rng.choice([-1, 1], (20_000, 400)) @ gains
    expected = np.mean(abs(flips) >= abs(gains.sum()))
    assert statistics._sign_flip_p_value(gains) == pytest.approx(expected, abs=0.01)


def test_mcnemar_of_repeated_subjects_has_the_interval_of_the_bootstrap_over_their_faces():
    rng = np.random.default_rng(0)
    first, second, subjects = rng.random(60) < 0.5, rng.random(60) < 0.7, rng.integers(20, size=60).astype(str)
    gain = second.astype(float) - first
    expected = statistics.bootstrap(statistics.mean(gain), 60, subjects=subjects)
    assert statistics.mcnemar(first, second, subjects=subjects).difference == pytest.approx(expected)


def test_one_subject_has_no_interval():
    correct, subjects = np.array([True, False, True]), np.array(["ann"] * 3)
    assert statistics.accuracy_interval(correct, subjects=subjects) == Interval(pytest.approx(2 / 3), None, None)
    assert statistics.paired_difference(correct, ~correct, np.zeros(3, int), subjects=subjects).p_value is None


def test_paired_test_has_its_nominal_false_positive_rate():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(100, 60))
    p = [statistics.paired_difference(np.zeros(60), row, np.arange(60) % 2).p_value for row in values]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1


def test_interval_over_seeds_equals_scipy():
    values = [0.70, 0.74, 0.69, 0.75]
    found = statistics.over_seeds(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx((0.72, expected.low, expected.high), rel=1e-12)
    assert (found.deviation, found.count) == (pytest.approx(np.std(values, ddof=1)), 4)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert statistics.over_seeds([0.5]) == (Interval(0.5, None, None), None, 1)
    assert statistics.over_seeds([]) == (NOTHING, None, 0)


def test_holm_by_hand_in_any_order():
    # Sorted 0.01 0.02 0.03 0.9: times 4, 3, 2, 1 gives 0.04 0.06 0.06 0.9.
    by_hand = {0.01: 0.04, 0.02: 0.06, 0.03: 0.06, 0.9: 0.9}
    for order in itertools.permutations(by_hand):
        assert statistics.holm(order) == pytest.approx([by_hand[p] for p in order])
    assert statistics.holm([0.6, 0.7]) == [1, 1]
    assert statistics.holm([]) == []


def test_perfect_accuracy_of_repeating_subjects_has_wilson_interval_of_subjects():
    subjects = np.repeat(np.arange(10), 2)
    found = statistics.accuracy_interval(np.ones(20, bool), subjects=subjects)
    # Wilson's, of ten subjects.
    assert (found.value, found.high) == pytest.approx((1.0, 1.0))
    assert found.low == pytest.approx(scipy.stats.binomtest(10, 10).proportion_ci(method="wilson").low)


def test_equal_predictions_of_repeating_subjects_have_an_interval():
    right, subjects = np.ones(20, bool), np.repeat(np.arange(10), 2)
    found = statistics.mcnemar(right, right, subjects=subjects)
    assert (found.difference.value, found.p_value, found.count) == (0.0, 1.0, 20)
    assert found.difference == statistics.mcnemar(right[:10], right[:10]).difference
