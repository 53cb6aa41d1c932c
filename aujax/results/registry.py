"""`METRICS`: every number that aujax reports, one row per metric.

Evaluation, intervals, paired tests, console, pages, the paper's tables, CSV files and the documentation loop over these
rows. A new metric of the classifier is a row with a function of the `Faces`; a new metric of maps or of occlusions is a
row here, and a function where the evaluation computes its value per face.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from aujax.results import calibration, statistics
from aujax.results.statistics import Interval, Statistic, Subjects

UNCALIBRATED, CALIBRATED = "uncalibrated", "calibrated"
ATTENTION, CAM, BASELINE = "attention", "cam", "baseline"  # kinds of maps
RANDOM = "random"
NORMALISED = "_normalised"  # end of the keys of normalised metrics

# Maps that ignore the network, by name: any map should agree with AU maps better than these.
BASELINE_MAPS = {
    "uniform": "uniform map",
    "centred_gaussian": "centred Gaussian",
    "all_au_map": "all action units",
    "class_mean_au_map": "mean AU map of the true expression",
}

# Orderings that ignore the network, by name: perturbation curves of a faithful map are better than theirs.
BASELINE_ORDERINGS = {
    RANDOM: "random ordering",
    "centred_gaussian": "centred Gaussian",
    "label_au_map": "AU map of the label",
}


Counts = Int[np.ndarray, " classes"]  # the number of faces of each expression


class Faces(NamedTuple):
    """The predictions of an evaluation, one row per face; expressions are indices into the list of expressions.

    Attributes:
      expression: the label.
      predicted: the expression with the highest logit.
      logits: of every expression.
      subjects: subject ids, "" where unknown.
      temperature: fitted on the validation split; None where there is none for these weights.
    """

    expression: Int[np.ndarray, " faces"]
    predicted: Int[np.ndarray, " faces"]
    logits: Float[np.ndarray, "faces classes"]
    subjects: Subjects
    temperature: float | None = None

    @property
    def correct(self) -> Bool[np.ndarray, " faces"]:
        """Whether the prediction is correct."""
        return self.expression == self.predicted

    def subset(self, rows: np.ndarray) -> "Faces":
        """Returns the faces of these rows."""
        columns = {name: column[rows] for name, column in self._asdict().items() if name != "temperature"}
        return self._replace(**columns)

    def temperatures(self) -> dict[str, float]:
        """Returns the temperatures at which probabilities are reported, by condition."""
        scaled = {} if self.temperature is None else {CALIBRATED: self.temperature}
        return {UNCALIBRATED: 1.0} | scaled

    def confidence(self, temperature: float) -> Float[np.ndarray, " faces"]:
        """Returns the probability of the predicted expression at a temperature."""
        return calibration.probabilities(self.logits, temperature=temperature).max(1)


# From faces, and whether intervals are wanted, to an interval for each condition ("" where there is only one).
FromFaces = Callable[[Faces, bool], Mapping[str, Interval]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      key: its name in files and code.
      title: its name in tables.
      definition: what it is, in one sentence.
      topic: which part of a report it belongs to.
      unit: how it is formatted: "percent" (a share), "score" (three decimals), "points" (a change of probability, in
        percentage points), "likelihood" (three decimals, no upper bound).
      aggregation: "faces": mean over faces. "classes": mean over the faces of each class, then over classes; classes
        are those of the labels, or of the predictions where the target is the predicted class. "function": `compute`.
      direction: 1 if higher is better, -1 if lower is better, 0 if neither.
      chance: its value for a classifier that ignores the image, or for a constant map: a number or a function of the
        number of faces of each expression; None where that depends on the faces, so that the baseline maps have rows of
        their own.
      maps: the kinds of maps it is computed for; () if it is about the classifier.
      targets: "label" and "predicted": the expression whose CAM and AU map are compared, or whose AUs are targets.
      condition: what distinguishes its rows further, such as the action unit that was occluded; "" if nothing does.
      headline: whether it is one of the main numbers, which are also reported for groups of subjects.
      by_expression: whether it is also computed for the faces of each expression.
      paired: the paired test of two runs on the same faces: McNemar's, a bootstrap, or "" for none. Of metrics of
        predictions only for means of whether each one is correct.
      normalised: whether it is a share of the drop of the probability when everything is imputed, face by face.
      compute: for aggregation "function".
    """

    key: str
    title: str
    definition: str
    topic: Literal["classification", "agreement", "maps", "calibration", "reliance", "perturbation", "sanity"]
    unit: Literal["percent", "score", "points", "likelihood"] = "score"
    aggregation: Literal["faces", "classes", "function"] = "classes"
    direction: int = 1
    chance: float | Callable[[Counts], float] | None = None
    maps: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    condition: str = ""
    headline: bool = False
    by_expression: bool = False
    paired: Literal["", "mcnemar", "bootstrap"] = ""
    normalised: bool = False
    compute: FromFaces | None = None

    def chance_level(self, class_counts: Counts) -> float | None:
        """Returns `chance` for a data set with that many faces of each expression."""
        return self.chance(class_counts) if callable(self.chance) else self.chance


def _bootstrapped(statistic: Statistic, faces: Faces, resampled: bool) -> Interval:
    return statistics.bootstrap(statistic, len(faces.correct), subjects=faces.subjects, resampled=resampled)


def _accuracy(faces: Faces, resampled: bool) -> Mapping[str, Interval]:
    if resampled:
        return {"": statistics.accuracy_interval(faces.correct, subjects=faces.subjects)}
    return {"": _bootstrapped(statistics.mean(faces.correct), faces, False)}


def _balanced_accuracy(faces: Faces, resampled: bool) -> Mapping[str, Interval]:
    return {"": _bootstrapped(statistics.macro_mean(faces.correct, faces.expression), faces, resampled)}


def _macro_f1(faces: Faces, resampled: bool) -> Mapping[str, Interval]:
    return {"": _bootstrapped(statistics.macro_f1(faces.expression, faces.predicted), faces, resampled)}


def _at_temperatures(compute: Callable[[Faces, float], Interval | Statistic]) -> FromFaces:
    """Returns a metric of probabilities: computed as they are and, if there is a temperature, calibrated by it.

    Where `compute` returns a statistic, it is bootstrapped.
    """

    def at_each(faces: Faces, resampled: bool) -> Mapping[str, Interval]:
        intervals = {}
        for name, temperature in faces.temperatures().items():
            result = compute(faces, temperature)
            intervals[name] = _bootstrapped(result, faces, resampled) if callable(result) else result
        return intervals

    return at_each


@_at_temperatures
def _calibration_error(faces: Faces, temperature: float) -> Interval:
    # Without an interval: it is biased upwards, and its bootstrap even more.
    error = calibration.expected_calibration_error(faces.confidence(temperature), faces.correct)
    return Interval(error)


def _error_if_calibrated(correlation: float | None) -> FromFaces:
    """Returns the metric for faces of one subject that correlate by this much, None: by as much as estimated."""

    def compute(faces: Faces, temperature: float) -> Interval:
        confidence, subjects = faces.confidence(temperature), faces.subjects
        known = correlation
        if known is None:
            known = calibration.within_subject_correlation(confidence, faces.correct, subjects=subjects)
        return calibration.calibration_error_if_calibrated(confidence, correlation=known, subjects=subjects)

    return _at_temperatures(compute)


@_at_temperatures
def _within_subject_correlation(faces: Faces, temperature: float) -> Interval:
    confidence = faces.confidence(temperature)
    correlation = calibration.within_subject_correlation(confidence, faces.correct, subjects=faces.subjects)
    return Interval(correlation)


@_at_temperatures
def _confidence(faces: Faces, temperature: float) -> Statistic:
    return statistics.mean(faces.confidence(temperature))


@_at_temperatures
def _negative_log_likelihood(faces: Faces, temperature: float) -> Statistic:
    return statistics.mean(calibration.log_losses(faces.logits, faces.expression, temperature=temperature))


@_at_temperatures
def _brier_score(faces: Faces, temperature: float) -> Statistic:
    probabilities = calibration.probabilities(faces.logits, temperature=temperature)
    return statistics.mean(calibration.brier_scores(probabilities, faces.expression))


@_at_temperatures
def _risk_coverage_area(faces: Faces, temperature: float) -> Statistic:
    return calibration.risk_coverage_area(faces.confidence(temperature), faces.correct)


def _at_coverages(compute: Callable[[Faces, float, np.ndarray, bool], Interval]) -> FromFaces:
    """Returns a metric of the most confident faces, a number for each of `calibration.COVERAGES`.

    `compute` gets all faces, the threshold and the rows of the faces whose confidence reaches it. The threshold is on
    probabilities that are calibrated if possible. Equal confidences are accepted together, so more faces may be
    accepted than asked for.
    """

    def at_each(faces: Faces, resampled: bool) -> Mapping[str, Interval]:
        confidence = faces.confidence(faces.temperature or 1.0)
        points = calibration.selective_accuracy(confidence, faces.correct)
        intervals = {}
        for coverage in calibration.COVERAGES:
            threshold = float(points.threshold[int((points.coverage < coverage - 1e-9).sum())])
            accepted = np.flatnonzero(confidence >= threshold)
            intervals[f"{coverage:g}"] = compute(faces, threshold, accepted, resampled)
        return intervals

    return at_each


@_at_coverages
def _selective_threshold(faces: Faces, threshold: float, accepted: np.ndarray, _: bool) -> Interval:
    return Interval(threshold)


@_at_coverages
def _selective_coverage(faces: Faces, threshold: float, accepted: np.ndarray, _: bool) -> Interval:
    return Interval(len(accepted) / len(faces.correct))


@_at_coverages
def _selective_accuracy(faces: Faces, threshold: float, accepted: np.ndarray, resampled: bool) -> Interval:
    return _accuracy(faces.subset(accepted), resampled)[""]


def _largest_share(counts: Counts) -> float:
    return float(counts.max() / counts.sum())


def _one_in_classes(counts: Counts) -> float:
    return 1 / int((counts > 0).sum())


def _f1_of_largest(counts: Counts) -> float:
    """Returns the macro F1 of always predicting the most frequent class: 2 p / (p + 1) on it, 0 on the others."""
    share = _largest_share(counts)
    return 2 * share / (share + 1) / int((counts > 0).sum())


def _with_normalised(unit: Literal["percent", "score"], *metrics: Metric) -> Iterator[Metric]:
    """Yields metrics of occlusion and, of each, the one that is normalised per face, which alone is tested in pairs.

    A raw drop grows with the probability that there is to lose, so it does not compare networks (or faces) of different
    confidence.
    """
    for metric in metrics:
        yield dataclasses.replace(metric, paired="")
        yield dataclasses.replace(
            metric,
            key=f"{metric.key}{NORMALISED}",
            title=f"{metric.title}, normalised",
            definition=f"{metric.definition} As a share of the drop when everything is imputed.",
            unit=unit,
            normalised=True,
        )


_ALL_MAPS = (ATTENTION, CAM, BASELINE)
# Rows of a topic, with what most of them have in common; a row may replace it.
_agreement = functools.partial(
    Metric, topic="agreement", targets=("label",), headline=True, by_expression=True, paired="bootstrap"
)
_of_maps = functools.partial(Metric, topic="maps", chance=0.0, maps=_ALL_MAPS, targets=("label", "predicted"))
_of_probabilities = functools.partial(
    Metric, topic="calibration", unit="percent", aggregation="function", direction=0, condition="probabilities"
)
_at_coverage = functools.partial(_of_probabilities, condition="coverage")
_reliance = functools.partial(Metric, topic="reliance", unit="points", chance=0.0, targets=("predicted",))
_perturbation = functools.partial(
    Metric, topic="perturbation", aggregation="faces", maps=_ALL_MAPS, targets=("predicted",)
)
_CURVES = {"deletion": "Deletion", "insertion": "Insertion", "road": "ROAD"}
_ROWS = (
    Metric(
        "accuracy", "Accuracy", "Share of the faces whose expression is predicted correctly (CL in the paper).",
        "classification", "percent", "function", chance=_largest_share, headline=True, by_expression=True,
        paired="mcnemar", compute=_accuracy,
    ),
    Metric(
        "balanced_accuracy", "Balanced accuracy", "Accuracy of each expression, averaged over expressions.",
        "classification", "percent", "function", chance=_one_in_classes, headline=True, paired="bootstrap",
        compute=_balanced_accuracy,
    ),
    Metric(
        "macro_f1", "Macro F1", "Harmonic mean of precision and recall of each expression, averaged over expressions.",
        "classification", "percent", "function", chance=_f1_of_largest, headline=True, compute=_macro_f1,
    ),
    _agreement(
        "att_cos", "ATT-COS", "Cosine of the reported attention and the AU map of the label (paper, section 4.1).",
        maps=(ATTENTION,),
    ),
    _agreement(
        "cam_cos", "CAM-COS", "Cosine of the label's class activation map (CAM) and the AU map of the label.",
        maps=(CAM,),
    ),
    _of_maps(
        "cosine", "Cosine", "Cosine of a map and the AU map: 1 if they are equal up to brightness.",
        chance=None, targets=("label",), by_expression=True,
    ),
    _of_maps(
        "pointing", "Pointing game", "Share of the faces whose map peaks inside the AU region (Zhang et al. 2018).",
    ),
    _of_maps("energy", "Energy inside", "Share of the map's sum that lies inside the AU region (Wang et al. 2020)."),
    _of_maps(
        "iou", "IoU", "Intersection over union of the AU region and an equally large area of the map's highest values.",
    ),
    _of_maps(
        "mean_iou", "Mean IoU",
        "Intersection over union of the AU region and the map above 0.1, 0.2, ... 0.9 of its range, averaged.",
    ),
    _of_maps(
        "auc", "AUC", "Area under the ROC curve of the map's values as a classifier of the AU region; 0.5 is chance.",
        chance=0.5,
    ),
    _of_maps("correlation", "Correlation", "Pearson correlation of the map and the AU map; 0 for a uniform map."),
    Metric(
        "degenerate", "Degenerate maps", "Share of the faces whose map is constant or not finite.",
        "maps", "percent", "faces", -1, maps=(ATTENTION, CAM),
    ),
    _of_probabilities(
        "confidence", "Confidence", "Mean probability of the predictions: overconfident if it is above the accuracy.",
        compute=_confidence,
    ),
    _of_probabilities(
        "calibration_error", "ECE", "Expected calibration error: mean gap of confidence and accuracy over 15 bins.",
        direction=-1, compute=_calibration_error,
    ),
    _of_probabilities(
        "calibration_error_if_calibrated", "ECE if calibrated",
        "The ECE to expect of a calibrated model on these faces, which are as dependent within a subject as the "
        "correct predictions are estimated to be; only an ECE above its interval shows miscalibration.",
        compute=_error_if_calibrated(None),
    ),
    _of_probabilities(
        "calibration_error_if_independent", "ECE if calibrated, faces independent",
        "The same if faces of one subject are independent: the lower bound.",
        compute=_error_if_calibrated(0.0),
    ),
    _of_probabilities(
        "calibration_error_if_dependent", "ECE if calibrated, worst case",
        "The same if one random number decides on all faces of a subject: the upper bound, a worst case.",
        compute=_error_if_calibrated(1.0),
    ),
    _of_probabilities(
        "within_subject_correlation", "Within-subject correlation",
        "How dependent the correctness of one subject's faces is: 0 independent, 1 as much as possible.",
        unit="score", compute=_within_subject_correlation,
    ),
    _of_probabilities(
        "negative_log_likelihood", "Negative log-likelihood", "Mean of -log p(label).",
        unit="likelihood", direction=-1, compute=_negative_log_likelihood,
    ),
    _of_probabilities(
        "brier_score", "Brier score", "Mean squared distance of the probabilities from the one-hot label, from 0 to 2.",
        unit="likelihood", direction=-1, compute=_brier_score,
    ),
    _of_probabilities(
        "risk_coverage_area", "Area under risk-coverage",
        "Error rate of the n most confident faces, averaged over n; 0 is best, the error rate is chance.",
        direction=-1, compute=_risk_coverage_area,
    ),
    _at_coverage(
        "selective_coverage", "Coverage", "Share of the faces whose confidence reaches the threshold; those with equal "
        "confidence are accepted together.",
        compute=_selective_coverage,
    ),
    _at_coverage(
        "selective_threshold", "Confidence threshold", "The confidence from which a face is accepted at a coverage.",
        unit="likelihood", compute=_selective_threshold,
    ),
    _at_coverage(
        "selective_accuracy", "Selective accuracy", "Accuracy on the most confident faces, by the share accepted.",
        direction=1, compute=_selective_accuracy,
    ),
    _reliance(
        "probability_drop", "Probability drop",
        "Probability of the predicted expression on the image, minus that with one action unit's region occluded.",
        direction=0, chance=None, condition="action unit", by_expression=True,
    ),
    *_with_normalised(
        "percent",
        _reliance(
            "target_drop", "Target AUs", "Mean probability drop over the AUs that the codebook lists.",
            by_expression=True,
        ),
        _reliance("non_target_drop", "Non-target AUs", "Mean probability drop over all other AUs.", direction=0),
        _reliance(
            "control_drop", "Control",
            "Probability drop by regions of target AUs moved within the face to where they overlap them least.",
            direction=0,
        ),
        _reliance(
            "target_over_non_target", "Target minus non-target AUs", "Drop by target AUs minus drop by non-target AUs.",
            paired="bootstrap",
        ),
        _reliance(
            "target_over_control", "Target AUs minus control", "Drop by target AUs minus drop by the control.",
            paired="bootstrap",
        ),
        _reliance(
            "active_drop", "Active AUs", "Mean probability drop over the AUs that the face shows, if they are known.",
            targets=("label",),
        ),
        _reliance(
            "active_control_drop", "Control of active AUs",
            "Probability drop by regions of active AUs moved within the face to where they overlap them least.",
            direction=0, targets=("label",),
        ),
        _reliance(
            "active_over_control", "Active AUs minus control", "Drop by active AUs minus drop by their control.",
            targets=("label",), paired="bootstrap",
        ),
    ),
    _reliance(
        "full_drop", "Everything imputed",
        "Probability drop when the whole image is imputed. Normalised numbers are shares of it, face by face; faces on "
        "which it is below 0.1 have none.",
        direction=0, chance=None, condition="imputation",
    ),
    _reliance(
        "top_au_is_target", "Top AU is a target", "Share of the faces whose most influential AU is a target AU.",
        unit="percent", chance=None,
    ),
    _reliance(
        "top_au_is_target_by_chance", "By chance", "The same for an AU drawn at random.",
        unit="percent", direction=0, chance=None,
    ),
    *_with_normalised(
        "score",
        _perturbation(
            "deletion", "Deletion",
            "Mean probability of the prediction while the most attributed regions are occluded first.", direction=-1,
        ),
        _perturbation(
            "insertion", "Insertion",
            "Mean probability of the prediction while the most attributed regions are revealed first.",
        ),
        _perturbation("road", "ROAD", "Deletion with noisy linear imputation (Rong et al. 2022).", direction=-1),
        *(
            _perturbation(
                f"{key}_gain", f"{title}, gain over random ordering",
                f"By how much {title} is better than for a random ordering.", chance=0.0, paired="bootstrap",
            )
            for key, title in _CURVES.items()
        ),
    ),
    *(
        _perturbation(
            f"{key}_curve", f"{title} curve",
            f"Probability of the prediction at each share of the image in the {title if key == 'road' else key} curve.",
            direction=0, condition="share of the image",
        )
        for key, title in _CURVES.items()
    ),
    Metric(
        "randomisation_similarity", "Similarity after randomisation",
        "Correlation of a map with that of a network whose stages, from the head down, are newly initialised "
        "(Adebayo et al. 2018).",
        "sanity", aggregation="faces", direction=0, maps=(ATTENTION, CAM), targets=("predicted",), condition="stage",
    ),
    Metric(
        "view_similarity", "Similarity under small changes",
        "Correlation of the maps of an image and of its mirrored or slightly shifted view.",
        "sanity", aggregation="faces", maps=(ATTENTION, CAM), targets=("predicted",), condition="view",
    ),
    Metric(
        "same_prediction", "Same prediction", "Share of the faces with the same prediction for another view.",
        "sanity", "percent", "faces", condition="view",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ROWS}
HEADLINE = tuple(metric.key for metric in _ROWS if metric.headline)


def by_topic(topic: str) -> list[Metric]:
    """Returns the metrics of a topic, in order."""
    return [metric for metric in METRICS.values() if metric.topic == topic]
