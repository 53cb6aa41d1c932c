"""The spread of a number over faces, or people, drawn again and again from those there are.

Several faces of one person resemble each other: where `people` says who is who, whole people are drawn, with all their
faces. It holds a name per face; "" is somebody else each time. A number that cannot be given is None.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 5  # of fewer faces, or people, even the widest interval of a bootstrap is too narrow
_MOST_TRIES = 20  # times that number, where a statistic is often NaN
_AT_ONCE = 2**21  # numbers drawn at a time: some 16 MB

People = Shaped[np.ndarray, " faces"]
# Takes how often each face was drawn, a row for each resample; what is made of weighted sums is a matrix product.
Statistic = Callable[[Float[np.ndarray, "resamples faces"]], Float[np.ndarray, " resamples"]]


class Interval(NamedTuple):
    """A value and the interval meant to cover the true one in 95 of 100 repetitions; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


def bootstrap(statistic: Statistic, faces: int, *, people: People | None = None, seed: int = 0) -> Interval:
    """Returns a statistic with its expanded percentile interval (Hesterberg, The American Statistician 69, 2015, 371).

    A plain percentile interval is too narrow for few faces, by the root of n / (n - 1) and by the normal quantile in
    place of Student's. There is no value without a face, and no interval below `FEWEST` faces, or people.

    >>> bootstrap(lambda weights: weights @ np.ones(5) / weights.sum(1), 5)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    value = float(statistic(np.ones((1, faces)))[0]) if faces else None
    return interval(value, draws(statistic, faces, people=people, seed=seed))


def mean_interval(values: Shaped[np.ndarray, " faces"], *, people: People | None = None) -> Interval:
    """Returns the mean of the faces with its bootstrap interval.

    >>> mean_interval(np.full(6, 0.5))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    return bootstrap(lambda weights: weights @ values / weights.sum(1), len(values), people=people)


class Draws(NamedTuple):
    """A statistic of every resample, none where it cannot be drawn, and the number of faces, or people, behind it."""

    found: Float[np.ndarray, " resamples"]
    units: int


def interval(value: float | None, drawn: Draws) -> Interval:
    """Returns the value with the ends of its expanded percentile interval.

    >>> [round(end, 3) for end in interval(0.5, Draws(np.linspace(0, 1, 41), units=10**9))]
    [0.5, 0.025, 0.975]
    """
    if not drawn.found.size:
        return Interval(value, None, None)
    beyond = float(special.ndtr(-_widening(drawn.units) * special.stdtrit(drawn.units - 1, (1 + LEVEL) / 2)))
    low, high = np.quantile(drawn.found, [beyond, 1 - beyond])
    return Interval(value, float(low), float(high))


def p_value(drawn: Draws) -> float | None:
    """Returns the smallest level at which that interval leaves out 0; None where there are no draws.

    It is at least 2 / 2^n: with the signs of n differences thrown by a coin, all point one way as often.

    >>> round(p_value(Draws(np.linspace(-1, 39, 41), units=10**9)), 3)  # two of 41 are not above 0
    0.143
    """
    found, units = drawn
    if not found.size:
        return None
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    plain = min(1.0, 2 * (beyond + 1) / (len(found) + 1))
    student = 2 * float(special.stdtr(units - 1, special.ndtri(plain / 2) / _widening(units)))
    return max(student, 2.0 ** (1 - min(units, 1000)))


def _widening(units: int) -> float:
    return (units / (units - 1)) ** 0.5


def draws(statistic: Statistic, faces: int, *, people: People | None = None, seed: int = 0) -> Draws:
    """Returns the statistic of each resample; none where there are fewer than `FEWEST` faces, or people, to draw from.

    A resample of which the statistic is NaN, such as one without any face of an expression, is drawn again; where
    hardly any other is found there are none.
    """
    units = of_whom(people, faces)
    count = int(units.max(initial=-1)) + 1
    if count < FEWEST:
        return Draws(np.zeros(0), count)
    # Looking the draws up face by face takes as long as drawing, and most data sets do not tell who is who.
    spread = (lambda weights: weights) if count == faces else (lambda weights: weights[:, units])
    found = np.zeros(0)
    for weights in _weights(count, seed):
        some = statistic(spread(weights))
        found = np.concatenate([found, some[~np.isnan(some)]])
        if len(found) >= RESAMPLES:
            return Draws(found[:RESAMPLES], count)
    return Draws(np.zeros(0), count)


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
    """Yields how often each unit was drawn, in as many resamples as are needed at most."""
    rng, rows = np.random.default_rng(seed), min(RESAMPLES, max(1, _AT_ONCE // count))
    for _ in range(0, _MOST_TRIES * RESAMPLES, rows):
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
