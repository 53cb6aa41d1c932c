from collections import Counter, defaultdict

import numpy as np
import pytest

from aujax.data.splits import assign_splits, join_units
from aujax.errors import UserError


def draw(expressions, given=None, units=None, **options):
    options = {"validation": 0.1, "test": 0.2, "seed": 0} | options
    rows = len(expressions)
    return assign_splits(expressions, given or [""] * rows, units or range(rows), **options)


def test_single_faces_are_split_in_the_asked_proportions_in_every_class():
    expressions = [0] * 100 + [1] * 40 + [2] * 10
    counts = Counter(zip(draw(expressions), expressions, strict=True))
    for expression, total in enumerate((100, 40, 10)):
        assert counts["test", expression] == pytest.approx(0.2 * total, abs=1)
        assert counts["validation", expression] == pytest.approx(0.1 * total, abs=1)


def test_no_subject_is_in_two_splits():
    rng = np.random.default_rng(0)
    people = (rng.zipf(1.5, 600) % 97).tolist()
    splits = defaultdict(set)
    for person, split in zip(people, draw(rng.integers(0, 7, 600).tolist(), units=people), strict=True):
        splits[person].add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_classes_stay_in_proportion_when_subjects_are_kept_together():
    rng = np.random.default_rng(1)
    people = rng.integers(0, 120, 1000)
    expressions = rng.choice(7, 1000, p=[0.3, 0.3, 0.15, 0.1, 0.08, 0.05, 0.02]).tolist()
    splits = draw(expressions, units=people.tolist())
    for expression, total in Counter(expressions).items():
        found = Counter(split for split, e in zip(splits, expressions, strict=True) if e == expression)
        assert found["test"] == pytest.approx(0.2 * total, abs=2 + 0.02 * total)
        assert found["validation"] == pytest.approx(0.1 * total, abs=2 + 0.02 * total)


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    expressions = [0, 1] * 50
    assert draw(expressions, seed=3) == draw(expressions, seed=3)
    assert draw(expressions, seed=3) != draw(expressions, seed=4)


def test_given_test_split_stays_and_validation_comes_from_train():
    given = ["train"] * 80 + ["test"] * 20
    splits = draw([0, 1] * 50, given=given, validation=0.25)
    assert splits[80:] == ["test"] * 20
    assert Counter(splits[:80]) == {"train": 60, "validation": 20}


def test_all_given_splits_are_left_alone():
    given = ["train", "validation", "test"] * 4
    assert draw([0, 1] * 6, given=given) == given


def test_zero_fraction_draws_no_split():
    assert Counter(draw([0] * 20, validation=0.0, test=0.25)) == {"train": 15, "test": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": 1.0}, "--test: expected a fraction"),
        ({"validation": -0.1}, "--validation: expected a fraction"),
        ({"validation": 0.5, "test": 0.5}, "expected a sum below 1"),
        ({"units": [1] * 12}, "expected at least 3 people"),
        ({"given": ["test"] * 12}, "expected faces to train on"),
    ],
)
def test_impossible_splits_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        draw([0] * 12, **options)


def test_units_join_subjects_and_copies_of_one_photograph():
    units = join_units(["ann", "ann", "bob", "", ""], ["1", "2", "2", "3", "3"])
    assert units[0] == units[1] == units[2]
    assert units[3] == units[4] != units[0]


def test_images_without_a_subject_id_are_distinct_subjects():
    assert len(set(join_units(["", "", ""], ["1", "2", "3"]))) == 3
