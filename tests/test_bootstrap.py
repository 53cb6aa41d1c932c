"""Intervals by drawing faces or people again: SciPy as an independent implementation, coverage, who is drawn."""

import time

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


def test_interval_of_a_test_split_takes_less_than_a_second():
    expression, _ = _labels(3068, classes=7)
    values = np.random.default_rng(0).random(3068)
    start = time.process_time()
    statistics.macro_mean_interval(values, expression)
    assert time.process_time() - start < 1.0


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
    seen, people = [], np.array(["ann", "bob", "ann", "", "bob"])
    bootstrap.bootstrap(lambda weights: seen.append(weights) or weights.sum(1), 5, people=people)
    drawn = seen[1]
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()  # as many people as there are


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
