"""What a measured number is worth: intervals of 95 %, tests of two runs on the same faces, several seeds, groups.

Arrays have one row per face. Expressions, predictions and groups may be numbers or names. Faces are taken as
independent, unless `people` says who is who: several faces of one person tell less than as many people (see
`bootstrap`). A number that cannot be given is None: the value where nothing was measured, low and high where too few
faces, people or seeds cannot tell a spread.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special

from aujax.bootstrap import (
    LEVEL,
    Interval,
    People,
    Statistic,
    bootstrap,
    draws,
    interval,
    mean_interval,
    of_whom,
    p_value,
)

FEWEST = 20  # of a group with fewer faces nothing is said
_NORMAL_QUANTILE = float(special.ndtri((1 + LEVEL) / 2))

Values = Shaped[np.ndarray, " faces"]  # numbers, or whether something holds
Labels = Shaped[np.ndarray, " faces"]
Mask = Bool[np.ndarray, " faces"]


class PairedTest(NamedTuple):
    """Two runs on the same faces.

    Attributes:
      difference: second minus first.
      p_value: two-sided; how often a difference this large comes by chance alone. None: there are too few faces.
      count: the number of faces.
      higher: faces on which the second run is better.
      lower: faces on which the first run is better.
    """

    difference: Interval
    p_value: float | None
    count: int
    higher: int
    lower: int


class Seeds(NamedTuple):
    """One number over runs that differ in their seed: the mean, the sample standard deviation, how many there are."""

    mean: Interval
    deviation: float | None
    count: int


class Group(NamedTuple):
    """A group of faces, how many there are, and their number; None where there are too few to say."""

    name: str
    count: int
    value: Interval | None


def mean_class_accuracy(expression: Labels, predicted: Labels) -> float | None:
    """Returns the mean, over the expressions that occur, of the share of their faces that is recognised.

    >>> mean_class_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]))
    0.5
    """
    return macro_mean(expression == predicted, expression)


def macro_mean(values: Values, expression: Labels, *, where: Mask | None = None) -> float | None:
    """Returns the mean per expression of the counted values, averaged over the expressions that have any.

    ATT-COS and CAM-COS of the paper are such means, over the faces that have an AU map.

    >>> macro_mean(np.array([1.0, 0.0, 0.5]), np.array([0, 0, 1]))
    0.5
    """
    values, expression = _counted(where, values, expression)
    return float(_macro_mean(values, expression)(np.ones((1, len(values))))[0]) if len(values) else None


def macro_f1(expression: Labels, predicted: Labels) -> float | None:
    """Returns the mean of 2 TP / (2 TP + FP + FN) over the classes that occur as a label or a prediction.

    >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])), 4)
    0.6667
    """
    return float(_macro_f1(expression, predicted)(np.ones((1, len(expression))))[0]) if len(expression) else None


def accuracy_interval(correct: Mask, *, people: People | None = None) -> Interval:
    """Returns the share of right answers with Wilson's score interval (JASA 22, 1927, 209).

    Of independent faces it is known what a bootstrap estimates, and where all answers are right, as they are then in
    every resample, this interval still says how few there were. Faces of the same people are bootstrapped.

    >>> [round(x, 3) for x in accuracy_interval(np.array([True] * 8 + [False] * 2))]
    [0.8, 0.49, 0.943]
    """
    count = len(correct)
    if not count:
        return Interval(None, None, None)
    if _repeats(people, count):
        if 0 < correct.sum() < count:
            return mean_interval(correct, people=people)
        count = int(of_whom(people, count).max()) + 1  # every resample would be the same: people count once
    share, z = float(correct.mean()), _NORMAL_QUANTILE
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def mean_class_accuracy_interval(expression: Labels, predicted: Labels, *, people: People | None = None) -> Interval:
    """Returns `mean_class_accuracy` with its bootstrap interval."""
    return macro_mean_interval(expression == predicted, expression, people=people)


def macro_mean_interval(
    values: Values, expression: Labels, *, where: Mask | None = None, people: People | None = None
) -> Interval:
    """Returns `macro_mean` with its bootstrap interval over the counted faces.

    >>> macro_mean_interval(np.full(6, 0.5), np.array([0, 0, 0, 1, 1, 1]))
    Interval(value=0.5, low=0.5, high=0.5)
    """
    values, expression, people = _counted(where, values, expression, people)
    return bootstrap(_macro_mean(values, expression), len(values), people=people)


def macro_f1_interval(expression: Labels, predicted: Labels, *, people: People | None = None) -> Interval:
    """Returns `macro_f1` with its bootstrap interval."""
    return bootstrap(_macro_f1(expression, predicted), len(expression), people=people)


def mcnemar(first: Mask, second: Mask, *, people: People | None = None) -> PairedTest:
    """Returns whether two runs are right equally often: McNemar's exact test (Psychometrika 12, 1947, 153).

    The p-value is that of a fair coin thrown for each face on which one run alone is right, or for each person, whose
    faces then count for the same run. The interval of the difference is Bonett and Price's (J. Educ. Behav. Stat. 37,
    2012, 479), which has a width without such faces too; of faces of the same people it is the bootstrap's.

    >>> round(mcnemar(np.zeros(6, bool), np.ones(6, bool)).p_value, 5)  # 2 / 2**6
    0.03125
    """
    gain, count = second.astype(float) - first, len(first)
    higher, lower = int((gain > 0).sum()), int((gain < 0).sum())
    if not count:
        return PairedTest(Interval(None, None, None), None, 0, 0, 0)
    if _repeats(people, count) and higher + lower:
        difference = mean_interval(gain, people=people)
    else:
        # Where people repeat, all their answers are alike here: they count once.
        units = int(of_whom(people, count).max()) + 1
        more, less = (higher + 1) / (units + 2), (lower + 1) / (units + 2)
        half = _NORMAL_QUANTILE * float(np.sqrt((more + less - (more - less) ** 2) / (units + 2)))
        ends = max(-1.0, more - less - half), min(1.0, more - less + half)
        difference = Interval((higher - lower) / units, *ends)
    gains = np.bincount(of_whom(people, count), weights=gain).astype(int)
    return PairedTest(difference, _by_coins(gains), count, higher, lower)


def paired_macro_mean(
    first: Values, second: Values, expression: Labels, *, where: Mask | None = None, people: People | None = None
) -> PairedTest:
    """Returns how the `macro_mean` of two runs differs, by a bootstrap that draws both values of a face together.

    The p-value is the smallest at which the interval leaves out 0 (see `bootstrap.p_value`); None where too few faces
    or people cannot tell.

    >>> paired_macro_mean(np.array([0.25, 0.5]), np.array([0.5, 0.75]), np.array([0, 1])).difference.value
    0.25
    """
    gain, expression, people = _counted(where, second.astype(float) - first.astype(float), expression, people)
    drawn = draws(_macro_mean(gain, expression), len(gain), people=people)
    difference = interval(macro_mean(gain, expression), drawn)
    return PairedTest(difference, p_value(drawn), len(gain), int((gain > 0).sum()), int((gain < 0).sum()))


def over_seeds(values: Sequence[float]) -> Seeds:
    """Returns the mean of the runs' numbers with Student's t interval; of one run alone there is no interval.

    >>> over_seeds([0.8])
    Seeds(mean=Interval(value=0.8, low=None, high=None), deviation=None, count=1)
    """
    count = len(values)
    if count < 2:
        return Seeds(Interval(float(values[0]) if count else None, None, None), None, count)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * deviation / count**0.5
    return Seeds(Interval(mean, mean - half, mean + half), deviation, count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values that hold for all the comparisons of a table together (Holm, Scand. J. Stat. 6, 1979, 65).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    return np.minimum(np.maximum.accumulate(scaled), 1.0)[np.argsort(order)].tolist()


def by_group(groups: Sequence[str], statistic: Callable[[Int[np.ndarray, " rows"]], Interval]) -> list[Group]:
    """Returns each group in the order of its name, with what the statistic says of its rows.

    "" is the group of the faces of which nothing is known, and comes last.

    >>> by_group(["b"] * 20 + ["a"], lambda rows: Interval(float(rows.mean()), None, None))
    [Group(name='a', count=1, value=None), Group(name='b', count=20, value=Interval(value=9.5, low=None, high=None))]
    """
    found = []
    for name in sorted(set(groups), key=_natural):
        rows = np.flatnonzero(np.array([group == name for group in groups]))
        found.append(Group(name, len(rows), statistic(rows) if len(rows) >= FEWEST else None))
    return found


def _natural(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts 4 to 19 before 20 to 39, and what has no name last."""
    parts = re.findall(r"\d+|\D+", name)
    return not name, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _counted(where: Mask | None, *columns: Any) -> tuple[Any, ...]:
    return columns if where is None else tuple(None if column is None else column[where] for column in columns)


def _repeats(people: People | None, faces: int) -> bool:
    return bool(faces) and int(of_whom(people, faces).max()) + 1 < faces


def _macro_mean(values: Values, expression: Labels) -> Statistic:
    one_hot = (expression[:, None] == np.unique(expression)).astype(float)
    scaled = one_hot * values.astype(float)[:, None]

    def statistic(weights: Float[np.ndarray, "resamples faces"]) -> Float[np.ndarray, " resamples"]:
        # Without any face of a class it would be the mean of others: NaN, to be drawn again.
        counts, totals = weights @ one_hot, weights @ scaled
        return (totals / np.where(counts > 0, counts, np.nan)).mean(-1)

    return statistic


def _macro_f1(expression: Labels, predicted: Labels) -> Statistic:
    classes = np.union1d(expression, predicted)
    labelled, called = ((labels[:, None] == classes).astype(float) for labels in (expression, predicted))
    right = labelled * called

    def statistic(weights: Float[np.ndarray, "resamples faces"]) -> Float[np.ndarray, " resamples"]:
        seen = weights @ (labelled + called)
        return (2 * (weights @ right) / np.where(seen > 0, seen, np.nan)).mean(-1)

    return statistic


def _by_coins(gains: Int[np.ndarray, " people"]) -> float:
    """Returns how often the sum is at least as far from 0 as it is, if a fair coin gives each gain its sign."""
    sizes, reached = np.abs(gains[gains != 0]), abs(int(gains.sum()))
    chances = np.ones(1)
    for gain in sizes:
        # How likely each sum is from -n to n, before and after the next coin.
        chances = (np.pad(chances, (2 * gain, 0)) + np.pad(chances, (0, 2 * gain))) / 2
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[abs(sums) >= reached].sum()))
