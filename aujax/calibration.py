"""Whether a probability means what it says, and what is gained where the network may abstain.

`probability` is that of the predicted class, (faces,); `logits` and `probabilities` are (faces, classes). The
temperature is fitted on one split and used on another. The measures are those of Guo et al., On Calibration of Modern
Neural Networks (ICML 2017), and Geifman and El-Yaniv, Selective Classification (NeurIPS 2017).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from aujax.bootstrap import LEVEL, RESAMPLES, Interval, People, Statistic, bootstrap, mean_interval, of_whom
from aujax.errors import UserError

BINS = 15  # as Guo et al. have
_HIGHEST_TEMPERATURE = 20.0


class Reliability(NamedTuple):
    """Faces by their probability, in bins of equal width (low, high]; confidence and accuracy are 0 in an empty one."""

    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]


class Coverage(NamedTuple):
    """What comes of answering only where the probability is at least the threshold, from high thresholds to low.

    Faces of the same probability are answered together.
    """

    threshold: Float[np.ndarray, " points"]
    coverage: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]


class Threshold(NamedTuple):
    """Answering from this probability on answers this share of the faces, of which this share is right."""

    probability: float
    coverage: float
    accuracy: float


def fit_temperature(logits: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"]) -> float:
    """Returns the number by which to divide the logits so that the labels are most likely, from 1/20 to 20.

    >>> round(fit_temperature(np.log([[9.0, 1.0]] * 4), np.array([0, 0, 0, 1])), 3)  # 3 of 4 are right: log 9 / log 3
    2.0

    Raises:
      UserError: no faces, or logits that are not finite.
    """
    if not len(logits) or not np.isfinite(logits).all():
        came = f"{int((~np.isfinite(logits)).any(-1).sum())} of {len(logits)} are not" if len(logits) else "none"
        raise UserError(
            f"expected finite logits of faces to fit a temperature to, {came}; give a validation split with faces, "
            "and evaluate the run on it again"
        )
    bound = np.log(_HIGHEST_TEMPERATURE)
    found = optimize.minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, expression, temperature=float(np.exp(log_t))),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def probabilities(
    logits: Float[np.ndarray, "faces classes"], *, temperature: float = 1.0
) -> Float[np.ndarray, "faces classes"]:
    """Returns softmax(logits / temperature).

    >>> probabilities(np.log([[1.0, 3.0]])).round(4)
    array([[0.25, 0.75]])
    """
    return special.softmax(np.asarray(logits, float) / temperature, axis=-1)


def negative_log_likelihood(
    logits: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"], *, temperature: float = 1.0
) -> float:
    """Returns the mean of -log p(label), with p = softmax(logits / temperature).

    >>> round(negative_log_likelihood(np.zeros((3, 2)), np.array([0, 1, 1])), 4)  # log 2
    0.6931
    """
    return float(_log_losses(logits, expression, temperature).mean())


def negative_log_likelihood_interval(
    logits: Float[np.ndarray, "faces classes"],
    expression: Int[np.ndarray, " faces"],
    *,
    temperature: float = 1.0,
    people: People | None = None,
) -> Interval:
    """Returns `negative_log_likelihood` with its bootstrap interval."""
    return mean_interval(_log_losses(logits, expression, temperature), people=people)


def brier(probabilities: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"]) -> float:
    """Returns the mean squared distance of the probabilities from the label's one-hot vector, between 0 and 2.

    >>> brier(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]))
    0.25
    """
    return float(_squared_distances(probabilities, expression).mean())


def brier_interval(
    probabilities: Float[np.ndarray, "faces classes"],
    expression: Int[np.ndarray, " faces"],
    *,
    people: People | None = None,
) -> Interval:
    """Returns `brier` with its bootstrap interval."""
    return mean_interval(_squared_distances(probabilities, expression), people=people)


def reliability(
    probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"], *, bins: int = BINS
) -> Reliability:
    """Returns how often the faces of each bin are recognised, beside how often their probability says.

    >>> reliability(np.array([0.5, 0.75, 1.0]), np.array([False, True, True]), bins=2).accuracy
    array([0., 1.])
    """
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = (np.bincount(which, weights=values, minlength=bins) for values in (probability, correct))
    confidence, accuracy = (total / np.maximum(count, 1) for total in sums)
    return Reliability(edges[:-1], edges[1:], count, confidence, accuracy)


def expected_calibration_error(
    probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"], *, bins: int = BINS
) -> float:
    """Returns the mean distance of confidence and accuracy over the bins, weighted by their faces.

    >>> expected_calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
    0.25
    """
    table = reliability(probability, correct, bins=bins)
    return float((table.count * abs(table.confidence - table.accuracy)).sum() / table.count.sum())


def error_of_calibrated(
    probability: Float[np.ndarray, " faces"], *, people: People | None = None, bins: int = BINS, seed: int = 0
) -> Interval:
    """Returns the `expected_calibration_error` of these probabilities if they mean what they say: mean, middle 95 %.

    Whether a face is recognised is drawn by its probability, 2,000 times (consistency resampling: Bröcker and Smith,
    Weather and Forecasting 22, 2007, 651). On few faces the error is never 0, and its bootstrap lies above it. Faces of
    one person are right or wrong together, as far as their probabilities allow: one number is drawn for all of them.

    >>> error_of_calibrated(np.ones(5))
    Interval(value=0.0, low=0.0, high=0.0)
    """
    rng, units = np.random.default_rng(seed), of_whom(people, len(probability))
    found = [
        expected_calibration_error(probability, rng.random(units.max() + 1)[units] < probability, bins=bins)
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean(found)), float(low), float(high))


def coverage_accuracy(probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"]) -> Coverage:
    """Returns the share of right answers for each share of faces that can be answered, the surest first.

    >>> coverage_accuracy(np.array([0.5, 0.5, 0.75]), np.array([True, False, True])).coverage.round(4)
    array([0.3333, 1.    ])
    """
    threshold, count, right = _by_probability(probability, correct)
    answered = count.cumsum()
    return Coverage(threshold, answered / len(probability), right.cumsum() / answered)


def area_under_risk_coverage(probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"]) -> float:
    """Returns the share of wrong answers among the n surest faces, averaged over n; 0 is best.

    Where faces have the same probability, it is the mean over all orders of them.

    >>> area_under_risk_coverage(np.array([0.9, 0.8]), np.array([True, False]))  # (0 / 1 + 1 / 2) / 2
    0.25
    """
    return float(_risk_coverage_areas(probability, correct)(np.ones((1, len(probability))))[0])


def area_under_risk_coverage_interval(
    probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"], *, people: People | None = None
) -> Interval:
    """Returns `area_under_risk_coverage` with its bootstrap interval."""
    return bootstrap(_risk_coverage_areas(probability, correct), len(probability), people=people)


def threshold_for_accuracy(
    probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"], wanted: float
) -> Threshold | None:
    """Returns the lowest threshold from which on the wanted share of answers is right; None where there is none.

    >>> threshold_for_accuracy(np.array([0.5, 0.75, 1.0]), np.array([False, False, True]), 0.5)
    Threshold(probability=0.75, coverage=0.6666666666666666, accuracy=0.5)
    """
    points = coverage_accuracy(probability, correct)
    enough = np.flatnonzero(points.accuracy >= wanted)
    return Threshold(*(float(column[enough[-1]]) for column in points)) if enough.size else None


def _by_probability(
    probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"]
) -> tuple[Float[np.ndarray, " values"], Int[np.ndarray, " values"], Float[np.ndarray, " values"]]:
    """Returns the probabilities that occur, the highest first, how many faces have each, and how many are right."""
    values, which, count = np.unique(probability, return_inverse=True, return_counts=True)
    right = np.bincount(which, weights=correct, minlength=len(values))
    return values[::-1], count[::-1], right[::-1]


def _risk_coverage_areas(probability: Float[np.ndarray, " faces"], correct: Bool[np.ndarray, " faces"]) -> Statistic:
    """Returns the areas of faces that were drawn so and so often.

    Among faces of one probability, c of them and k wrong, after C surer ones and K wrong, the j-th of a random order
    leaves (K + j k/c) / (C + j) wrong on average: summed over j, k + (K - C k/c) (1/(C + 1) + ... + 1/(C + c)).
    """
    order = np.argsort(-probability, kind="stable")
    _, first = np.unique(-probability[order], return_index=True)

    def areas(weights: Float[np.ndarray, "resamples faces"]) -> Float[np.ndarray, " resamples"]:
        weights = weights[:, order]
        count, wrong = (np.add.reduceat(drawn, first, axis=1) for drawn in (weights, weights * ~correct[order]))
        surer, surer_wrong = count.cumsum(1) - count, wrong.cumsum(1) - wrong
        share = wrong / np.maximum(count, 1)
        total = count.sum(1).astype(int)
        harmonic = np.concatenate([[0.0], (1 / np.arange(1, total.max() + 1)).cumsum()])
        between = harmonic[(surer + count).astype(int)] - harmonic[surer.astype(int)]
        return (wrong + (surer_wrong - surer * share) * between).sum(1) / total

    return areas


def _log_losses(
    logits: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"], temperature: float
) -> Float[np.ndarray, " faces"]:
    logs = special.log_softmax(np.asarray(logits, float) / temperature, axis=-1)
    return -np.take_along_axis(logs, expression[:, None], axis=-1)[:, 0]


def _squared_distances(
    probabilities: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"]
) -> Float[np.ndarray, " faces"]:
    one_hot = np.arange(probabilities.shape[-1]) == expression[:, None]
    return ((probabilities - one_hot) ** 2).sum(-1)
