"""Intervals of 95 %, paired tests of two runs on the same faces, and means over seeds.

Arrays have one row per face. Expressions and predictions may be numbers or names. `subjects` holds a subject id per
face, "" where the subject is unknown (every such face counts as a subject of its own). Faces of one subject are not
independent, so where subjects repeat, intervals and tests resample whole subjects (cluster bootstrap). A number that
cannot be computed is None: the value where nothing was measured, the bounds where too few faces, subjects or seeds
leave the spread unknown.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special, stats

LEVEL = 0.95
RESAMPLES = 2000
MIN_SUBJECTS = 5  # with fewer, even the widest bootstrap interval is too narrow
_MAX_TRIES = 20  # times RESAMPLES, for statistics that are undefined (NaN) on many resamples
_WEIGHTS_AT_ONCE = 2**21  # resampling weights in memory at a time: about 16 MB
_NEGLIGIBLE = 1e-300  # probability
_NORMAL_QUANTILE = float(special.ndtri((1 + LEVEL) / 2))

Subjects = Shaped[np.ndarray, " faces"]
Labels = Shaped[np.ndarray, " faces"]
Values = Shaped[np.ndarray, "faces *columns"]  # numbers, or booleans
Weights = Float[np.ndarray, "resamples faces"]  # the number of times that each face was drawn, a row per resample
# From the weights to the statistic of each resample.
Statistic = Callable[[Weights], Float[np.ndarray, "resamples *columns"]]


class Interval(NamedTuple):
    """A value with its 95 % confidence interval; None where there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Resamples(NamedTuple):
    """A statistic on every resample (no row if it cannot be resampled), and the number of subjects drawn from."""

    values: Float[np.ndarray, "resamples *columns"]
    subjects: int


class PairedTest(NamedTuple):
    """The comparison of two runs on the same faces.

    Attributes:
      difference: second run minus first.
      p_value: two-sided; None where there are too few faces or subjects.
      count: the number of faces.
      higher: the number of faces on which the second run is better.
      lower: the number of faces on which the first run is better.
    """

    difference: Interval
    p_value: float | None
    count: int
    higher: int
    lower: int


class Seeds(NamedTuple):
    """A number over runs that differ in their seed alone: mean with interval, sample standard deviation, run count."""

    mean: Interval
    deviation: float | None = None
    count: int = 1


def subject_numbers(subjects: Subjects | None, faces: int) -> Int[np.ndarray, " faces"]:
    """Returns the number of each face's subject, counted from 0 without gaps.

    >>> subject_numbers(np.array(["ann", "", "ann", ""]), 4)
    array([0, 1, 0, 2])
    """
    if subjects is None:
        return np.arange(faces)
    known = subjects != ""
    numbers = np.empty(faces, int)
    names, numbers[known] = np.unique(subjects[known], return_inverse=True)
    numbers[~known] = len(names) + np.arange(faces - int(known.sum()))
    return numbers


def count_subjects(subjects: Subjects) -> int:
    """Returns the number of distinct subjects; faces of unknown subjects count one each.

    >>> count_subjects(np.array(["ann", "ann", "", ""]))
    3
    """
    return int(subject_numbers(subjects, len(subjects)).max(initial=-1)) + 1


def resample(statistic: Statistic, faces: int, *, subjects: Subjects | None = None) -> Resamples:
    """Returns the statistic on `RESAMPLES` cluster-bootstrap resamples; no rows below `MIN_SUBJECTS` subjects.

    A resample on which the statistic is NaN, such as one without any face of an expression, is drawn again. If valid
    resamples are too rare there are no rows either.
    """
    numbers = subject_numbers(subjects, faces)
    count = int(numbers.max(initial=-1)) + 1
    if count < MIN_SUBJECTS:
        return Resamples(np.zeros(0), count)
    rng = np.random.default_rng(0)
    rows = min(RESAMPLES, max(1, _WEIGHTS_AT_ONCE // count))
    collected = []
    valid_rows = 0
    for _ in range(0, _MAX_TRIES * RESAMPLES, rows):
        # How often each subject was drawn, by one bincount for all rows: row r counts in the slots from r * count on.
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
        # Indexing costs as much as drawing, and without repeated subjects it would change nothing.
        values = statistic(weights if count == faces else weights[:, numbers])
        valid = ~np.isnan(values.reshape(len(values), -1)).any(1)
        collected.append(values[valid])
        valid_rows += int(valid.sum())
        if valid_rows >= RESAMPLES:
            return Resamples(np.concatenate(collected)[:RESAMPLES], count)
    return Resamples(np.zeros(0), count)


def _widening(subjects: int) -> float:
    return (subjects / (subjects - 1)) ** 0.5


def interval(value: float | None, resamples: Resamples) -> Interval:
    """Returns a value with its expanded percentile interval (Hesterberg, The American Statistician 69, 2015, 371).

    A plain percentile interval is too narrow for few subjects, by sqrt(n / (n - 1)) and by using the normal quantile
    where Student's t applies; expanding the percentiles corrects both.

    >>> [round(end, 3) for end in interval(0.5, Resamples(np.linspace(0, 1, 41), subjects=10**9))]
    [0.5, 0.025, 0.975]
    """
    if not resamples.values.size:
        return Interval(value)
    student = special.stdtrit(resamples.subjects - 1, (1 + LEVEL) / 2)
    tail = float(special.ndtr(-_widening(resamples.subjects) * student))
    low, high = np.quantile(resamples.values, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def p_value(resamples: Resamples) -> float | None:
    """Returns the two-sided p-value that matches `interval`: the smallest level whose interval excludes 0.

    At least 2 / 2^n for n subjects, as in a sign-flip test: all n differences point one way by chance that often.

    >>> round(p_value(Resamples(np.linspace(-1, 39, 41), subjects=10**9)), 3)  # two of 41 are not above 0
    0.143
    """
    values, subjects = resamples
    if not values.size:
        return None
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    percentile = min(1.0, 2 * (tail + 1) / (len(values) + 1))
    student = 2 * float(special.stdtr(subjects - 1, special.ndtri(percentile / 2) / _widening(subjects)))
    return max(student, 2.0 ** (1 - min(subjects, 1000)))


def bootstrap(
    statistic: Statistic, faces: int, *, subjects: Subjects | None = None, resampled: bool = True
) -> Interval:
    """Returns a statistic of the faces with its cluster-bootstrap interval; without one unless `resampled`.

    >>> bootstrap(lambda weights: weights @ np.ones(5) / weights.sum(1), 5)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    options = {"subjects": subjects, "resampled": resampled}
    return bootstrap_columns(lambda weights: statistic(weights)[:, None], faces, 1, **options)[0]


def bootstrap_columns(
    statistic: Statistic,
    faces: int,
    columns: int,
    *,
    subjects: Subjects | None = None,
    resampled: bool = True,
) -> list[Interval]:
    """Returns `bootstrap` of each column of a statistic, all on the same resamples."""
    if not faces:
        return [Interval()] * columns
    values = statistic(np.ones((1, faces)))[0].tolist()
    drawn, count = resample(statistic, faces, subjects=subjects) if resampled else Resamples(np.zeros(0), 0)
    drawn = drawn.reshape(-1, columns)
    return [interval(value, Resamples(drawn[:, column], count)) for column, value in enumerate(values)]


def mean(values: Values) -> Statistic:
    """Returns the statistic: the mean over faces."""
    numbers = values.astype(float)
    return lambda weights: ((weights @ numbers).T / weights.sum(1)).T


def macro_mean(values: Values, classes: Labels) -> Statistic:
    """Returns the statistic: the mean per class, averaged over the classes that occur.

    The paper averages ATT-COS and CAM-COS like this (section 4.1). A resample that lacks a class gives NaN: without
    that class it would be the mean of others.

    >>> macro_mean(np.array([1.0, 0.0, 0.5]), np.array([0, 0, 1]))(np.ones((1, 3)))
    array([0.5])
    """
    numbers = values.astype(float)
    rows_of_class = [np.flatnonzero(classes == each) for each in np.unique(classes)]

    def statistic(weights: Weights) -> Float[np.ndarray, "resamples *columns"]:
        total = 0.0
        for rows in rows_of_class:
            counts = weights[:, rows].sum(1)
            counts = np.where(counts > 0, counts, np.nan)
            total = total + ((weights[:, rows] @ numbers[rows]).T / counts).T
        return np.asarray(total) / len(rows_of_class)

    return statistic


def macro_f1(expression: Labels, predicted: Labels) -> Statistic:
    """Returns the statistic: 2 TP / (2 TP + FP + FN), averaged over the classes that occur as label or prediction.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]))(np.ones((1, 3))).round(4)
    array([0.6667])
    """
    classes = np.union1d(expression, predicted)
    is_label = (expression[:, None] == classes).astype(float)
    is_prediction = (predicted[:, None] == classes).astype(float)

    def statistic(weights: Weights) -> Float[np.ndarray, " resamples"]:
        occurrences = weights @ (is_label + is_prediction)
        true_positives = weights @ (is_label * is_prediction)
        return (2 * true_positives / np.where(occurrences > 0, occurrences, np.nan)).mean(-1)

    return statistic


def accuracy_interval(correct: Bool[np.ndarray, " faces"], *, subjects: Subjects | None = None) -> Interval:
    """Returns the accuracy with Wilson's score interval (JASA 22, 1927, 209), or by cluster bootstrap.

    Wilson's interval needs independent faces and has a width even when every prediction is correct. Where subjects
    repeat, the cluster bootstrap is used, unless all predictions are alike: every resample would be the same, so
    Wilson's interval is computed with subjects as the unit.

    >>> [round(x, 3) for x in accuracy_interval(np.array([True] * 8 + [False] * 2))]
    [0.8, 0.49, 0.943]
    """
    count = len(correct)
    if not count:
        return Interval()
    units = int(subject_numbers(subjects, count).max()) + 1
    if units < count and 0 < correct.sum() < count:
        return bootstrap(mean(correct), count, subjects=subjects)
    share = float(correct.mean())
    ends = stats.binomtest(round(share * units), units).proportion_ci(LEVEL, method="wilson")
    return Interval(share, float(ends.low), float(ends.high))


def mcnemar(
    first: Bool[np.ndarray, " faces"], second: Bool[np.ndarray, " faces"], *, subjects: Subjects | None = None
) -> PairedTest:
    """Returns McNemar's exact test (Psychometrika 12, 1947, 153) of whether two runs are correct equally often.

    Under the null hypothesis a fair coin decides which run is correct on each discordant face; where subjects repeat,
    one coin is tossed per subject and all its discordant faces follow it. The interval of the difference is that of
    Bonett and Price (J. Educ. Behav. Stat. 37, 2012, 479), or the cluster bootstrap's where subjects repeat.

    >>> round(mcnemar(np.zeros(6, bool), np.ones(6, bool)).p_value, 5)  # 2 / 2**6
    0.03125
    """
    gain = second.astype(float) - first
    count = len(first)
    higher, lower = int((gain > 0).sum()), int((gain < 0).sum())
    if not count:
        return PairedTest(Interval(), None, 0, 0, 0)
    numbers = subject_numbers(subjects, count)
    gains, faces = np.bincount(numbers, weights=gain), np.bincount(numbers)
    units = len(gains)
    if units < count and higher + lower:
        # By subject, which is much faster than by face: the same resamples of subjects give the same means.
        difference = bootstrap(lambda weights: (weights @ gains) / (weights @ faces), units)
    else:
        # If subjects repeat here, no face is discordant: each subject counts once.
        more = (higher + 1) / (units + 2)
        less = (lower + 1) / (units + 2)
        half = _NORMAL_QUANTILE * float(np.sqrt((more + less - (more - less) ** 2) / (units + 2)))
        ends = max(-1.0, more - less - half), min(1.0, more - less + half)
        difference = Interval((higher - lower) / units, *ends)
    if units < count:
        p = _sign_flip_p_value(gains.astype(int))
    else:
        p = float(stats.binomtest(higher, higher + lower).pvalue) if higher + lower else 1.0
    return PairedTest(difference, p, count, higher, lower)


def _sign_flip_p_value(gains: Int[np.ndarray, " subjects"]) -> float:
    """Returns how often the sum is at least as far from 0 as observed if a fair coin gives each gain its sign."""
    observed = abs(int(gains.sum()))
    lowest, probabilities = 0, np.ones(1)  # of the sums lowest, lowest + 1, ...
    for size, coins in zip(*np.unique(abs(gains[gains != 0]), return_counts=True), strict=True):
        # The coins of one size add size * (2 heads - coins). Numbers of heads that hardly ever occur are left out.
        heads = np.arange(coins + 1)
        chances = stats.binom.pmf(heads, coins, 0.5)
        heads, chances = heads[chances > _NEGLIGIBLE], chances[chances > _NEGLIGIBLE]
        added = np.zeros(2 * size * (len(heads) - 1) + 1)
        added[:: 2 * size] = chances
        probabilities = np.convolve(probabilities, added)
        lowest += size * (2 * heads[0] - coins)
    sums = lowest + np.arange(len(probabilities))
    return min(1.0, float(probabilities[abs(sums) >= observed].sum()))


def paired_difference(
    first: Values, second: Values, classes: Labels | None = None, *, subjects: Subjects | None = None
) -> PairedTest:
    """Returns how the means of two runs differ, by a bootstrap that draws both values of a face together.

    Means are per class and then over classes; without `classes`, over faces. The p-value matches the interval (see
    `p_value`).

    >>> paired_difference(np.array([0.25, 0.5]), np.array([0.5, 0.75]), np.array([0, 1])).difference.value
    0.25
    """
    gain = second.astype(float) - first.astype(float)
    statistic = mean(gain) if classes is None else macro_mean(gain, classes)
    resamples = resample(statistic, len(gain), subjects=subjects)
    value = float(statistic(np.ones((1, len(gain))))[0]) if len(gain) else None
    higher, lower = int((gain > 0).sum()), int((gain < 0).sum())
    return PairedTest(interval(value, resamples), p_value(resamples), len(gain), higher, lower)


def over_seeds(values: Sequence[float], *, bounds: tuple[float, float] | None = None) -> Seeds:
    """Returns the mean over seeds with Student's t interval, cut to `bounds`; one run alone has no interval.

    >>> over_seeds([0.8])
    Seeds(mean=Interval(value=0.8, low=None, high=None), deviation=None, count=1)
    """
    count = len(values)
    if count < 2:
        return Seeds(Interval(float(values[0]) if count else None), count=count)
    average = float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    half = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * deviation / count**0.5
    low, high = bounds or (-np.inf, np.inf)
    return Seeds(Interval(average, max(average - half, low), min(average + half, high)), deviation, count)


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Returns p-values corrected for the number of tests (Holm, Scand. J. Stat. 6, 1979, 65); None counts as 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = np.array([1.0 if p is None else p for p in p_values])
    order = np.argsort(known, kind="stable")
    scaled = known[order] * np.arange(len(order), 0, -1)
    return np.minimum(np.maximum.accumulate(scaled), 1.0)[np.argsort(order)].tolist()
