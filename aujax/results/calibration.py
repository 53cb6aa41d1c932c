"""Calibration of the predicted probabilities, and selective prediction: answering only where the model is confident.

`confidence` is the probability of the predicted class, (faces,); `logits` and `probabilities` are (faces, classes). The
temperature is fitted on one split and applied to another. The measures are those of Guo et al., On Calibration of
Modern Neural Networks (ICML 2017), and Geifman and El-Yaniv, Selective Classification (NeurIPS 2017).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from aujax.errors import UserError
from aujax.results.statistics import LEVEL, RESAMPLES, Interval, Statistic, Subjects, Weights, subject_numbers

BINS = 15  # of equal width, as in Guo et al.
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # where selective accuracy is reported
TARGET_ACCURACY = 0.95  # of the operating point
_MAX_TEMPERATURE = 20.0
_DRAWS_AT_ONCE = 2**20

Confidence = Float[np.ndarray, " faces"]
Correct = Bool[np.ndarray, " faces"]


class Selective(NamedTuple):
    """Accuracy on the faces whose confidence reaches a threshold, from high thresholds to low.

    Faces of equal confidence are accepted together. `coverage` is the share of the faces that is accepted.
    """

    threshold: Float[np.ndarray, " points"]
    coverage: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]


def fit_temperature(logits: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"]) -> float:
    """Returns the temperature, from 1/20 to 20, that maximises the likelihood of the labels (Guo et al., section 4.2).

    >>> round(fit_temperature(np.log([[9.0, 1.0]] * 4), np.array([0, 0, 0, 1])), 3)  # 3 of 4 correct: log 9 / log 3
    2.0

    Raises:
      UserError: no faces, or logits that are not finite.
    """
    if not len(logits) or not np.isfinite(logits).all():
        problem = f"{int((~np.isfinite(logits)).any(-1).sum())} of {len(logits)} are not" if len(logits) else "got none"
        raise UserError(
            f"expected finite logits of faces to fit a temperature, {problem}; use a validation split with faces and "
            "evaluate the run on it again"
        )
    bound = np.log(_MAX_TEMPERATURE)
    result = optimize.minimize_scalar(
        lambda log_t: float(log_losses(logits, expression, temperature=float(np.exp(log_t))).mean()),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(result.x))


def probabilities(
    logits: Float[np.ndarray, "faces classes"], *, temperature: float = 1.0
) -> Float[np.ndarray, "faces classes"]:
    """Returns softmax(logits / temperature).

    >>> probabilities(np.log([[1.0, 3.0]])).round(4)
    array([[0.25, 0.75]])
    """
    return special.softmax(np.asarray(logits, float) / temperature, axis=-1)


def log_losses(
    logits: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"], *, temperature: float = 1.0
) -> Float[np.ndarray, " faces"]:
    """Returns -log p(label) of each face, with p = softmax(logits / temperature).

    >>> log_losses(np.zeros((1, 2)), np.array([1])).round(4)  # log 2
    array([0.6931])
    """
    log_probabilities = special.log_softmax(np.asarray(logits, float) / temperature, axis=-1)
    return -np.take_along_axis(log_probabilities, expression[:, None], axis=-1)[:, 0]


def brier_scores(
    probabilities: Float[np.ndarray, "faces classes"], expression: Int[np.ndarray, " faces"]
) -> Float[np.ndarray, " faces"]:
    """Returns the squared distance of each face's probabilities from the one-hot label, from 0 to 2 (Brier 1950).

    >>> brier_scores(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]))
    array([0.5, 0. ])
    """
    one_hot = np.arange(probabilities.shape[-1]) == expression[:, None]
    return ((probabilities - one_hot) ** 2).sum(-1)


def bin_index(confidence: Confidence, bins: int = BINS) -> Int[np.ndarray, " faces"]:
    """Returns the bin of each confidence, from 0: bins (low, high] are equally wide, and 0 is in the first.

    >>> bin_index(np.array([0.0, 0.5, 0.51, 1.0]), bins=2)
    array([0, 0, 1, 1])
    """
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner_edges, confidence, side="left")


def expected_calibration_error(confidence: Confidence, correct: Correct, *, bins: int = BINS) -> float:
    """Returns the mean gap between confidence and accuracy over the bins, weighted by their faces (ECE).

    >>> expected_calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
    0.25
    """
    # A bin's gap times its faces is the sum of their differences.
    gaps = np.bincount(bin_index(confidence, bins), weights=confidence - correct)
    return float(abs(gaps).sum() / len(confidence))


def within_subject_correlation(confidence: Confidence, correct: Correct, *, subjects: Subjects | None = None) -> float:
    """Returns how dependent the faces of one subject are: 0 independent, 1 as dependent as their accuracies allow.

    A moment estimator: over all pairs of faces of one subject, the sum of the products of their residuals, divided by
    its largest expectation. Two outcomes of probabilities a <= b covary by at most a (1 - b). A residual is the outcome
    minus the accuracy of the face's bin of confidence, so that miscalibration does not count as dependence.

    >>> subjects = np.array(["ann", "ann", "bob", "bob"])
    >>> within_subject_correlation(np.full(4, 0.5), subjects == "ann", subjects=subjects)
    1.0
    """
    numbers = subject_numbers(subjects, len(confidence))
    bin_of_face = bin_index(confidence)
    accuracy = np.bincount(bin_of_face, weights=correct) / np.bincount(bin_of_face).clip(1)
    expected = accuracy[bin_of_face]
    # Sorted by subject and accuracy: each face is the lower one of the pairs with the faces of its subject after it.
    order = np.lexsort((expected, numbers))
    expected = expected[order]
    numbers = numbers[order]
    counts = np.bincount(numbers)
    pairs = counts.cumsum()[numbers] - np.arange(len(order)) - 1
    residual = correct[order] - expected

    def pair_products(values: np.ndarray) -> float:
        return float((np.bincount(numbers, weights=values) ** 2 - np.bincount(numbers, weights=values**2)).sum() / 2)

    most = float((expected * pairs).sum()) - pair_products(expected)
    return float(np.clip(pair_products(residual) / most, 0, 1)) if most > 1e-9 else 0.0


def calibration_error_if_calibrated(
    confidence: Confidence, *, correlation: float = 0.0, subjects: Subjects | None = None
) -> Interval:
    """Returns the ECE to expect of a calibrated model with these confidences: mean and central 95 %.

    Consistency resampling (Bröcker and Smith, Weather and Forecasting 22, 2007, 651): labels are drawn from the
    confidences 2,000 times. With few faces the ECE of a calibrated model is not 0. A face is correct if a random number
    is below its confidence; two faces of one subject share theirs with probability `correlation`, as estimated by
    `within_subject_correlation`, between the bounds 0 and 1.

    >>> calibration_error_if_calibrated(np.ones(5))
    Interval(value=0.0, low=0.0, high=0.0)
    """
    rng = np.random.default_rng(0)
    faces = len(confidence)
    numbers = subject_numbers(subjects, faces)
    bin_of_face = bin_index(confidence)
    rows = max(1, _DRAWS_AT_ONCE // faces)
    errors = []
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        drawn = rng.random((count, faces))
        if correlation:
            of_subject = rng.random((count, numbers.max() + 1))[:, numbers]
            # Both faces of a pair have the subject's number with probability sqrt(correlation) each.
            drawn = np.where(rng.random((count, faces)) < correlation**0.5, of_subject, drawn)
        gaps = (confidence - (drawn < confidence)).ravel()
        slots = (bin_of_face + BINS * np.arange(count)[:, None]).ravel()
        errors.append(abs(np.bincount(slots, weights=gaps, minlength=count * BINS)).reshape(count, BINS).sum(1) / faces)
    errors = np.concatenate(errors)
    low, high = np.quantile(errors, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(errors.mean()), float(low), float(high))


def selective_accuracy(confidence: Confidence, correct: Correct) -> Selective:
    """Returns the accuracy at every coverage, the most confident faces first.

    >>> selective_accuracy(np.array([0.5, 0.5, 0.75]), np.array([True, False, True])).coverage.round(4)
    array([0.3333, 1.    ])
    """
    values, inverse, count = np.unique(confidence, return_inverse=True, return_counts=True)
    right = np.bincount(inverse, weights=correct, minlength=len(values))
    accepted = count[::-1].cumsum()
    return Selective(values[::-1], accepted / len(confidence), right[::-1].cumsum() / accepted)


def threshold_for_accuracy(confidence: Confidence, correct: Correct, accuracy: float) -> float | None:
    """Returns the lowest threshold on confidence that reaches an accuracy; None if there is none.

    >>> threshold_for_accuracy(np.array([0.5, 0.75, 1.0]), np.array([False, False, True]), 0.5)
    0.75
    """
    points = selective_accuracy(confidence, correct)
    reached = np.flatnonzero(points.accuracy >= accuracy)
    return float(points.threshold[reached[-1]]) if reached.size else None


def risk_coverage_area(confidence: Confidence, correct: Correct) -> Statistic:
    """Returns the statistic: the error rate of the n most confident faces, averaged over n (AURC); 0 is best.

    Faces of equal confidence are averaged over all their orders. Let c of them, k wrong, follow C more confident faces,
    K wrong. The j-th of a random order leaves (K + j k/c) / (C + j) wrong on average; summed over j that is
    k + (K - C k/c) (1/(C + 1) + ... + 1/(C + c)).

    >>> risk_coverage_area(np.array([0.9, 0.8]), np.array([True, False]))(np.ones((1, 2)))  # (0 / 1 + 1 / 2) / 2
    array([0.25])
    """
    order = np.argsort(-confidence, kind="stable")
    _, first_of_ties = np.unique(-confidence[order], return_index=True)
    wrong_in_order = ~correct[order]

    def statistic(weights: Weights) -> Float[np.ndarray, " resamples"]:
        weights = weights[:, order]
        count = np.add.reduceat(weights, first_of_ties, axis=1)
        wrong = np.add.reduceat(weights * wrong_in_order, first_of_ties, axis=1)
        before = count.cumsum(1) - count
        wrong_before = wrong.cumsum(1) - wrong
        share = wrong / np.maximum(count, 1)
        total = count.sum(1).astype(int)
        harmonic = np.concatenate([[0.0], (1 / np.arange(1, total.max() + 1)).cumsum()])
        between = harmonic[(before + count).astype(int)] - harmonic[before.astype(int)]
        return (wrong + (wrong_before - before * share) * between).sum(1) / total

    return statistic
