"""Whether the probabilities mean what they say, and what is gained by leaving the unsure faces to a person.

The temperature is the one that eval.py fitted on the validation split: RUN/calibration.json.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aujax import calibration, run_files, statistics
from aujax.report import curves, evaluations, intervals, tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.examples import Examples
from aujax.report.intervals import Measured
from aujax.report.tables import Table
from aujax.run_files import Temperature

FITTED_ON = "validation"
RISK = "Area under risk-coverage (%)"
CALIBRATED = "ECE if calibrated (%)"
DEFINITIONS = (
    f"**ECE**, the expected calibration error: the mean gap of probability and accuracy, over {calibration.BINS} bins.",
    f"**{CALIBRATED.removesuffix(' (%)')}**: the calibration error, and its middle 95 %, if probabilities meant what "
    "they say. On few faces, or people, whose faces may all be right or wrong together, it is not 0; only an error "
    "above says that the network is not calibrated.",
    f"**{RISK.removesuffix(' (%)')}**: the share of wrong answers among the n surest faces, averaged over n; 0 is "
    "best, and a network whose probabilities say nothing has its share of wrong answers.",
)
_COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)


class Calibrated(NamedTuple):
    """The probabilities of the predicted classes: as the network gives them, or after division of the logits.

    `fitted_on` holds the answers of the same weights on the validation split; None where they are not used or missing.
    """

    title: str
    temperature: float
    rows: Examples
    fitted_on: Examples | None

    def probabilities(self) -> Float[np.ndarray, "faces classes"]:
        """Returns the probabilities of all classes."""
        return calibration.probabilities(self.rows.logits, temperature=self.temperature)


def versions(one: Measured) -> list[Calibrated]:
    """Returns the probabilities as they are and, where one was fitted to these weights, after the temperature."""
    found = [Calibrated("as the network gives them", 1.0, one.examples, None)]
    temperature = None if one.run.metrics["split"] == FITTED_ON else _fitted(one.run).value
    if temperature is not None:
        about = f"after temperature {temperature:.2f}"
        found.append(Calibrated(about, temperature, one.examples, _answers(one.run)))
    return found


def missing(run: EvaluatedRun) -> str:
    """Returns why there is no temperature to use here, with the command that changes it; "" where there is one."""
    if run.metrics["split"] == FITTED_ON:
        return (
            "This page is about the validation split, on which the temperature is fitted: it cannot be judged "
            "there. See the page of the test split."
        )
    problem = _fitted(run).problem
    return problem and f"{problem} To fit one: `{run.command(FITTED_ON)}`, then write this page again."


def _fitted(run: EvaluatedRun) -> Temperature:
    step, fingerprint = run.metrics["checkpoint"]["step"], run.metrics["data"]["fingerprint"]
    remedy = f"run {run.command(FITTED_ON)}"
    return run_files.read_temperature(run.folder, step=step, fingerprint=fingerprint, remedy=remedy)


def _answers(run: EvaluatedRun) -> Examples | None:
    """What the same weights said on the validation split; None where that evaluation is gone, or not theirs."""
    folder = run.folder / "eval" / FITTED_ON
    if not (folder / "metrics.json").is_file():
        return None
    other = evaluations.read(folder)
    alike = other.metrics["expressions"] == run.metrics["expressions"]
    same = alike and other.metrics["checkpoint"]["step"] == run.metrics["checkpoint"]["step"]
    return other.examples() if same else None


def measures(found: list[Calibrated]) -> Table:
    """Returns the errors of the probabilities."""
    header = ["Probabilities", "Temperature", "ECE (%)", CALIBRATED, "Negative log-likelihood", "Brier score", RISK]
    rows = []
    for one in found:
        shares, true, people = one.probabilities(), one.rows.expression, one.rows.people
        error = calibration.expected_calibration_error(shares.max(1), one.rows.correct)
        chance = calibration.error_of_calibrated(shares.max(1), people=people)
        errors = [tables.percent(error), intervals.percent(chance)]
        likelihood = calibration.negative_log_likelihood_interval(
            one.rows.logits, true, temperature=one.temperature, people=people
        )
        scores = [
            intervals.cosine(likelihood),
            intervals.cosine(calibration.brier_interval(shares, true, people=people)),
        ]
        risk = calibration.area_under_risk_coverage_interval(shares.max(1), one.rows.correct, people=people)
        rows.append([one.title, f"{one.temperature:.3f}", *errors, *scores, intervals.percent(risk)])
    return Table(header, rows)


def measures_by_run(shown: Sequence[Measured]) -> Table:
    """Returns the errors of the probabilities of several runs."""
    return _by_run(shown, measures)


def abstention_by_run(shown: Sequence[Measured]) -> Table:
    """Returns how often several runs are right where they are surest."""

    def right(found: list[Calibrated]) -> Table:
        rows = [[one.title, *(row[-1] for row in abstention(one).rows)] for one in found]
        return Table(["Probabilities", *(f"Surest {100 * wanted:.0f} % (%)" for wanted in _COVERAGES)], rows)

    return _by_run(shown, right)


def _by_run(shown: Sequence[Measured], table: Callable[[list[Calibrated]], Table]) -> Table:
    tables_of = {one.name: table(versions(one)) for one in shown}
    header = next(iter(tables_of.values())).header
    return Table(["Run", *header], [[name, *row] for name, found in tables_of.items() for row in found.rows], left=2)


def abstention(one: Calibrated) -> Table:
    """Returns how often the answers are right when only the surest share of the faces is answered."""
    probability, correct = one.probabilities().max(1), one.rows.correct
    points = calibration.coverage_accuracy(probability, correct)
    rows = []
    for wanted in _COVERAGES:
        # The threshold that answers at least that share, and hardly more: equal probabilities are answered together.
        place = int((points.coverage < wanted - 1e-9).sum())
        threshold, share = points.threshold[place], points.coverage[place]
        answered = probability >= threshold
        right = statistics.accuracy_interval(correct[answered], people=one.rows.people[answered])
        rows.append([tables.percent(share), f"{threshold:.3f}", intervals.percent(right)])
    return Table(["Answered (%)", "From probability", "Right (%)"], rows)


def certainty(one: Calibrated, wanted: float) -> str:
    """Returns what a threshold read off the validation split, to have that share right, gives here, in a sentence."""
    if one.fitted_on is None:
        return ""
    shares = calibration.probabilities(one.fitted_on.logits, temperature=one.temperature)
    found = calibration.threshold_for_accuracy(shares.max(1), one.fitted_on.correct, wanted)
    if found is None:
        return f"On the validation split no threshold makes {100 * wanted:.0f} % of the answers right."
    answered = one.probabilities().max(1) >= found.probability
    if not answered.any():
        return (
            f"A threshold that makes {100 * wanted:.0f} % of the answers right on the validation split, a probability "
            f"of {found.probability:.3f}, answers none of these faces."
        )
    here = intervals.percent(statistics.accuracy_interval(one.rows.correct[answered], people=one.rows.people[answered]))
    return (
        f"A threshold that makes {100 * wanted:.0f} % of the answers right on the validation split, a probability of "
        f"{found.probability:.3f}, answers {tables.percent(float(answered.mean()))} % of these faces, {here} % of them "
        "rightly."
    )


def draw(found: list[Calibrated], folder: pathlib.Path, *, about: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Draw the reliability diagrams and the accuracy by coverage; return the paths."""
    bins, covered = {}, {}
    for one in found:
        probability = one.probabilities().max(1)
        bins[one.title] = calibration.reliability(probability, one.rows.correct)
        covered[one.title] = calibration.coverage_accuracy(probability, one.rows.correct)
    return (
        curves.reliability(bins, folder / "reliability.svg", about=about),
        curves.coverage(covered, folder / "coverage.svg", about=about),
    )
