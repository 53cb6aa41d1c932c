"""Intervals and tests: hand-computed cases, extremes, and SciPy and scikit-learn as independent implementations."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from aujax import bootstrap, statistics
from aujax.bootstrap import Interval

NOTHING = Interval(None, None, None)


def _labels(count, *, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    expression = rng.choice(classes, count, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    return expression, np.where(rng.random(count) < 0.6, expression, rng.integers(0, classes, count))


def test_macro_f1_is_that_of_scikit_learn():
    expression, predicted = _labels(200)
    expected = sklearn.metrics.f1_score(expression, predicted, average="macro")
    assert statistics.macro_f1(expression, predicted) == pytest.approx(expected, rel=1e-12)


def test_macro_f1_leaves_out_classes_that_are_neither_label_nor_prediction():
    # Class 0: TP 1, FN 1, no FP: 2/3. Class 3: no TP: 0. Class 5: TP 1: 1. Classes 1, 2 and 4 do not occur.
    assert statistics.macro_f1(np.array([0, 0, 5]), np.array([0, 3, 5])) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_mean_class_accuracy_is_that_of_scikit_learn():
    expression, predicted = _labels(200)
    expected = sklearn.metrics.balanced_accuracy_score(expression, predicted)
    assert statistics.mean_class_accuracy(expression, predicted) == pytest.approx(expected, rel=1e-12)


def test_names_of_expressions_serve_as_well_as_numbers():
    expression, predicted = _labels(50)
    names = np.array(["Fear", "Anger", "Sadness", "Neutral"])
    for measure in (statistics.macro_f1, statistics.mean_class_accuracy):
        assert measure(names[expression], names[predicted]) == pytest.approx(measure(expression, predicted))


def test_macro_mean_counts_only_what_the_mask_has_and_only_expressions_that_have_any():
    values, expression = np.array([0.5, 0.25, 9.0, 1.0, 9.0]), np.array([0, 0, 0, 1, 2])
    where = np.array([True, True, False, True, False])
    assert statistics.macro_mean(values, expression, where=where) == pytest.approx((0.375 + 1) / 2)
    # What is masked may be anything.
    values[~where] = np.nan
    assert statistics.macro_mean_interval(values, expression, where=where).value == pytest.approx((0.375 + 1) / 2)


def test_nothing_measured_has_no_value_and_one_face_has_no_interval():
    none, one = np.zeros(0, int), np.array([2])
    assert statistics.accuracy_interval(none == none) == NOTHING
    assert statistics.macro_f1_interval(none, none) == NOTHING
    assert statistics.macro_mean_interval(np.ones(1), one, where=np.array([False])) == NOTHING
    assert statistics.paired_macro_mean(np.ones(0), np.ones(0), none) == (NOTHING, None, 0, 0, 0)
    assert statistics.mcnemar(none == none, none == none) == (NOTHING, None, 0, 0, 0)
    assert statistics.macro_f1_interval(one, one) == Interval(1.0, None, None)
    assert statistics.mean_class_accuracy_interval(one, one) == Interval(1.0, None, None)


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (700, 1000), (5, 5)])
def test_accuracy_interval_is_the_score_interval_of_scipy(right, count):
    expected = scipy.stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = statistics.accuracy_interval(np.arange(count) < right)
    assert found == pytest.approx((right / count, expected.low, expected.high), abs=1e-12)


def test_perfect_accuracy_of_a_few_faces_is_no_certainty():
    assert statistics.accuracy_interval(np.ones(5, bool)).low < 0.6
    assert statistics.accuracy_interval(np.ones(5, bool)).high == 1.0


def test_macro_f1_interval_is_the_bootstrap_of_the_score_of_scikit_learn(monkeypatch):
    expression, predicted = _labels(80)

    def statistic(weights):
        scores = [
            sklearn.metrics.f1_score(expression, predicted, sample_weight=row, average="macro") for row in weights
        ]
        return np.array(scores)

    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)
    expected = bootstrap.bootstrap(statistic, 80)
    assert statistics.macro_f1_interval(expression, predicted) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("higher", "lower", "same"), [(6, 0, 0), (12, 3, 40), (4, 9, 1), (5, 5, 2)])
def test_mcnemar_is_the_exact_binomial_test_of_scipy(higher, lower, same):
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


def test_runs_that_agree_on_every_face_do_not_differ_but_a_difference_is_not_excluded():
    same = np.array([True, False, True])
    found = statistics.mcnemar(same, same)
    assert found.p_value == 1
    assert found.difference.low < found.difference.value == 0 < found.difference.high


def test_swapping_the_runs_turns_the_difference_round():
    rng = np.random.default_rng(0)
    first, second = rng.random(50) < 0.5, rng.random(50) < 0.8
    for there, back in (
        (statistics.mcnemar(first, second), statistics.mcnemar(second, first)),
        (
            statistics.paired_macro_mean(first, second, np.arange(50) % 3),
            statistics.paired_macro_mean(second, first, np.arange(50) % 3),
        ),
    ):
        assert back.difference == pytest.approx(
            (-there.difference.value, -there.difference.high, -there.difference.low)
        )
        assert (back.p_value, back.higher, back.lower) == pytest.approx((there.p_value, there.lower, there.higher))


def test_paired_difference_is_found_where_faces_differ_more_than_runs():
    rng, expression = np.random.default_rng(0), np.arange(200) % 4
    first = rng.normal(size=200)
    second = first + 0.1 + 0.05 * rng.normal(size=200)
    paired = statistics.paired_macro_mean(first, second, expression)
    alone = [statistics.macro_mean_interval(values, expression) for values in (first, second)]
    assert alone[0].high > alone[1].low  # as intervals of their own they overlap
    assert paired.difference.low > 0.08
    assert paired.p_value == pytest.approx(2 / 2001, rel=0.3)  # that of 200 faces, and no resample beyond 0
    assert (paired.count, paired.higher + paired.lower) == (200, 200)


def test_paired_test_of_equal_values_has_the_p_value_1():
    values = np.linspace(0, 1, 8)
    found = statistics.paired_macro_mean(values, values, np.arange(8) % 2)
    assert found == (Interval(0, 0, 0), 1, 8, 0, 0)
    assert statistics.paired_macro_mean(values[:1], values[1:2], np.array([0])).p_value is None


def test_tests_of_two_runs_count_people_and_not_their_faces():
    rng, expression = np.random.default_rng(0), np.arange(60) % 2
    first, second = rng.random(60) < 0.5, rng.random(60) < 0.7
    often, people = np.repeat(np.arange(60), 5), np.repeat([f"{face:02d}" for face in range(60)], 5)
    once, again = statistics.mcnemar(first, second), statistics.mcnemar(first[often], second[often], people=people)
    assert again.p_value == pytest.approx(once.p_value)
    assert again.p_value > 2 * statistics.mcnemar(first[often], second[often]).p_value
    assert again.difference.value == pytest.approx(once.difference.value)
    assert again.difference[1:] == pytest.approx(once.difference[1:], abs=0.60)
    assert again[2:] == (300, 5 * once.higher, 5 * once.lower)
    once = statistics.paired_macro_mean(first, second, expression)
    again = statistics.paired_macro_mean(first[often], second[often], expression[often], people=people)
    assert (*again.difference, again.p_value) == pytest.approx((*once.difference, once.p_value), rel=1e-9)


def test_chances_of_people_with_several_faces_are_those_of_all_throws():
    # Gains of +3, -1, +2, 0: of the 8 throws of three coins, those with a sum of at least 4 or at most -4.
    first = np.array([False] * 3 + [True] + [False] * 2 + [True, False])
    second = np.array([True] * 3 + [False] + [True] * 2 + [False, True])
    people = np.array(["a"] * 3 + ["b"] + ["c"] * 2 + ["d"] * 2)
    sums = [abs(np.dot(signs, [3, 1, 2])) for signs in itertools.product([1, -1], repeat=3)]
    assert statistics.mcnemar(first, second, people=people).p_value == np.mean(np.array(sums) >= 4)


def test_one_person_alone_has_no_interval():
    correct, people = np.array([True, False, True]), np.array(["ann"] * 3)
    assert statistics.accuracy_interval(correct, people=people) == Interval(pytest.approx(2 / 3), None, None)
    assert statistics.paired_macro_mean(correct, ~correct, np.zeros(3, int), people=people).p_value is None


def test_paired_test_is_wrong_as_often_as_it_says():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 60))
    p = [statistics.paired_macro_mean(np.zeros(60), row, np.arange(60) % 2).p_value for row in values]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1


def test_paired_test_leaves_out_what_the_mask_leaves_out():
    first, second = np.array([0.0, 0.0, 5.0]), np.array([0.5, 0.25, 0.0])
    found = statistics.paired_macro_mean(first, second, np.array([0, 1, 1]), where=np.array([True, True, False]))
    assert found.difference.value == pytest.approx(0.375)
    assert found[2:] == (2, 2, 0)


def test_seeds_have_the_t_interval_of_scipy():
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


def test_groups_come_in_the_order_of_their_numbers_and_the_unknown_last():
    names = ["20 to 39", "", "4 to 19", "0 to 3", "70 and more"]
    found = statistics.by_group(names * 20, lambda rows: Interval(float(rows[0]), None, None))
    assert [group.name for group in found] == ["0 to 3", "4 to 19", "20 to 39", "70 and more", ""]
    assert [group.value.value for group in found] == [3, 2, 0, 4, 1]


def test_of_a_small_group_nothing_is_said():
    correct = np.arange(39) < 25
    found = statistics.by_group(
        ["male"] * 20 + ["female"] * 19, lambda rows: statistics.accuracy_interval(correct[rows])
    )
    assert found[0] == ("female", 19, None)
    assert found[1][:2] == ("male", 20)
    assert found[1].value == statistics.accuracy_interval(np.ones(20, bool))


def test_answers_that_are_all_right_still_have_an_interval_where_people_repeat():
    people = np.repeat(np.arange(10), 2)
    found = statistics.accuracy_interval(np.ones(20, bool), people=people)
    # Wilson's, of ten people.
    assert (found.value, found.high) == pytest.approx((1.0, 1.0))
    assert found.low == pytest.approx(scipy.stats.binomtest(10, 10).proportion_ci(method="wilson").low)


def test_runs_that_never_differ_still_have_an_interval_where_people_repeat():
    right, people = np.ones(20, bool), np.repeat(np.arange(10), 2)
    found = statistics.mcnemar(right, right, people=people)
    assert (found.difference.value, found.p_value, found.count) == (0.0, 1.0, 20)
    assert found.difference == statistics.mcnemar(right[:10], right[:10]).difference
