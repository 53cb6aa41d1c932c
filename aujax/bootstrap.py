"""The spread of a number over faces, or people, drawn again and again from those there are.

Several faces of one person resemble each other: where `people` says who is who, whole people are drawn, with all their
faces. It holds a name per face; "" is somebody else each time. A number that cannot be given is None.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

LEVEL = 0.95
RESAMPLES = 2000
_AT_ONCE = 2**21  # numbers drawn at a time: some 16 MB

People = Shaped[np.ndarray, " faces"]
# Takes how often each face was drawn, a row for each resample; what is made of weighted sums is a matrix product.
Statistic = Callable[[Float[np.ndarray, "resamples faces"]], Float[np.ndarray, " resamples"]]


class Interval(NamedTuple):
    """A value and the interval that covers the true one in 95 of 100 repetitions; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


def bootstrap(statistic: Statistic, faces: int, *, people: People | None = None, seed: int = 0) -> Interval:
    """Returns a statistic with its percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3).

    There is no value without a face, and no interval of one face, or one person, alone.

    >>> bootstrap(lambda weights: weights @ np.ones(3) / weights.sum(1), 3)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    value = float(statistic(np.ones((1, faces)))[0]) if faces else None
    return interval(value, draws(statistic, faces, people=people, seed=seed))


def interval(value: float | None, found: Float[np.ndarray, " resamples"]) -> Interval:
    """Returns the value with the ends between which the middle 95 % of the draws lie.

    >>> [round(end, 3) for end in interval(0.5, np.linspace(0, 1, 41))]
    [0.5, 0.025, 0.975]
    """
    if not found.size:
        return Interval(value, None, None)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def draws(
    statistic: Statistic, faces: int, *, people: People | None = None, seed: int = 0
) -> Float[np.ndarray, " resamples"]:
    """Returns the statistic of each resample; none where there are not two faces, or people, to draw from."""
    units = of_whom(people, faces)
    count = int(units.max(initial=-1)) + 1
    if count < 2:
        return np.zeros(0)
    # Looking the draws up face by face takes as long as drawing, and most data sets do not tell who is who.
    spread = (lambda weights: weights) if count == faces else (lambda weights: weights[:, units])
    return np.concatenate([statistic(spread(weights)) for weights in _weights(count, seed)])


def of_whom(people: People | None, faces: int) -> Int[np.ndarray, " faces"]:
    """Returns the number of each face's person, from 0 and without a gap.

    >>> of_whom(np.array(["ann", "", "ann", ""]), 4)
    array([0, 1, 0, 2])
    """
    if people is None:
        return np.arange(faces)
    known, units = people != "", np.empty(faces, int)
    names, units[known] = np.unique(people[known], return_inverse=True)
    units[~known] = len(names) + np.arange(faces - int(known.sum()))
    return units


def _weights(count: int, seed: int) -> Iterator[Float[np.ndarray, "some units"]]:
    rng, at_once = np.random.default_rng(seed), max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
