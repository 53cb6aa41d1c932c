"""Intervals by drawing faces or people again: SciPy as an independent implementation, coverage, who is drawn."""

import numpy as np
import pytest
import scipy.stats

from aujax import bootstrap, statistics


def _labels(count, *, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    expression = rng.choice(classes, count, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    return expression, np.where(rng.random(count) < 0.6, expression, rng.integers(0, classes, count))


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
    found = statistics.macro_mean_interval(values, expression)
    # The ends of 2,000 resamples vary by some 4 % of the width from one generator to another.
    width = expected.high - expected.low
    assert found.value == pytest.approx(macro(values, expression), rel=1e-12)
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=0.12 * width)


def test_bootstrap_draws_as_many_faces_as_there_are_and_the_same_for_the_same_seed():
    seen = []

    def statistic(weights):
        seen.append(weights)
        return weights @ np.random.default_rng(0).random(5)

    found = [bootstrap.bootstrap(statistic, 5, seed=seed) for seed in (0, 0, 1)]
    drawn = seen[1::2]
    assert all((weights.sum(1) == 5).all() and (weights >= 0).all() for weights in drawn)
    assert drawn[0].shape == (2000, 5)
    assert len(np.unique(drawn[0], axis=0)) > 100
    assert found[0] == found[1] != found[2]


def test_bootstrap_in_parts_is_the_bootstrap_at_once(monkeypatch):
    values = np.random.default_rng(0).normal(size=40)

    def statistic(weights):
        return weights @ values / weights.sum(1)

    whole = bootstrap.bootstrap(statistic, 40)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 1000)
    assert bootstrap.bootstrap(statistic, 40) == pytest.approx(whole, rel=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    expression = np.repeat([0, 1], 30)
    for _ in range(200):
        found = statistics.macro_mean_interval(rng.normal(expression, 1.0), expression)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_people_are_numbered_and_who_is_unknown_is_somebody_else():
    people = np.array(["bob", "", "ann", "bob", ""])
    units = bootstrap.of_whom(people, 5).tolist()
    assert units[0] == units[3]
    assert sorted(set(units)) == [0, 1, 2, 3]
    assert bootstrap.of_whom(None, 3).tolist() == [0, 1, 2]


def test_people_are_drawn_with_all_their_faces():
    seen, people = [], np.array(["ann", "bob", "ann", "", "bob", "", ""])
    bootstrap.bootstrap(lambda weights: seen.append(weights) or weights.sum(1), 7, people=people)
    drawn = seen[1]
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3, 5, 6]].sum(1) == 5).all()  # as many people as there are


@pytest.mark.parametrize("faces", [6, 10])
def test_intervals_and_tests_of_few_faces_are_as_honest(faces):
    rng, hits, false = np.random.default_rng(0), 0, 0
    for _ in range(300):
        found = statistics.paired_macro_mean(np.zeros(faces), rng.normal(size=faces), np.zeros(faces, int))
        hits += found.difference.low <= 0 <= found.difference.high
        false += found.p_value <= 0.05
    assert 0.90 <= hits / 300 <= 0.99
    assert false / 300 <= 0.08


def test_fewer_than_five_faces_or_people_have_no_interval_and_no_p_value():
    ones, expression = np.arange(1.0, 5.0), np.zeros(4, int)
    assert statistics.macro_mean_interval(ones, expression) == (2.5, None, None)
    assert statistics.paired_macro_mean(np.zeros(4), ones, expression).p_value is None
    values, people = np.arange(40.0), np.repeat(["a", "b", "c", "d"], 10)
    assert statistics.macro_mean_interval(values, np.zeros(40, int), people=people) == (19.5, None, None)


def test_five_differences_of_one_sign_are_no_rarer_than_five_heads():
    found = statistics.paired_macro_mean(np.zeros(5), np.full(5, 0.1), np.zeros(5, int))
    assert found.p_value == pytest.approx(2 / 2**5)


def test_no_resample_is_the_mean_of_other_expressions():
    # One face of expression 1: without it the mean would be that of expression 0, which is 0.
    values, expression = np.array([0.0] * 9 + [1.0]), np.array([0] * 9 + [1])
    assert statistics.macro_mean_interval(values, expression) == (0.5, 0.5, 0.5)
    assert statistics.macro_f1_interval(expression, expression) == (1.0, 1.0, 1.0)


def test_where_hardly_a_resample_has_all_expressions_there_is_no_interval():
    assert statistics.macro_mean_interval(np.arange(9.0), np.arange(9)) == (4.0, None, None)


def test_names_that_come_once_change_nothing():
    expression, predicted = _labels(40)
    first, second = expression == predicted, np.arange(40) % 3 > 0
    for people in (np.array([""] * 40), np.array([f"{face:02d}" for face in range(40)])):
        for measure, arrays in (
            (statistics.accuracy_interval, (first,)),
            (statistics.mean_class_accuracy_interval, (expression, predicted)),
            (statistics.macro_f1_interval, (expression, predicted)),
            (statistics.macro_mean_interval, (first, expression)),
            (statistics.mcnemar, (first, second)),
            (statistics.paired_macro_mean, (first, second, expression)),
        ):
            assert measure(*arrays, people=people) == measure(*arrays)


def test_the_same_face_again_and_again_does_not_narrow_an_interval():
    expression, predicted = _labels(40)
    often, people = np.repeat(np.arange(40), 9), np.repeat([f"{face:02d}" for face in range(40)], 9)
    correct, values = expression == predicted, np.random.default_rng(0).random(40)
    for measure, arrays in (
        (statistics.mean_class_accuracy_interval, (expression, predicted)),
        (statistics.macro_f1_interval, (expression, predicted)),
        (statistics.macro_mean_interval, (values, expression)),
    ):
        repeated = [array[often] for array in arrays]
        assert measure(*repeated, people=people) == pytest.approx(measure(*arrays), rel=1e-9)
        alone, together = measure(*repeated), measure(*repeated, people=people)
        assert together.high - together.low > 2.5 * (alone.high - alone.low)  # the root of 9 is 3
    # Wilson's interval is another than the bootstrap's, and about as wide.
    once, again = statistics.accuracy_interval(correct), statistics.accuracy_interval(correct[often], people=people)
    assert again == pytest.approx(once, abs=0.04)


def test_people_of_faces_that_are_not_counted_do_not_count():
    values, expression = np.array([0.1, 0.2, 0.3, 0.9]), np.zeros(4, int)
    where, people = np.array([True, True, True, False]), np.array(["a", "b", "c", "a"])
    expected = statistics.macro_mean_interval(values[:3], expression[:3])
    assert statistics.macro_mean_interval(values, expression, where=where, people=people) == expected
