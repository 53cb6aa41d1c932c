"""Whether the probabilities mean what they say, and what is gained by leaving the unsure faces to a person."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from aujax import calibration, statistics
from aujax.errors import UserError
from aujax.report import curves, evaluations, intervals, tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.examples import Examples
from aujax.report.intervals import Measured
from aujax.report.tables import Table

FITTED_ON = "validation"
_COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)


class Calibrated(NamedTuple):
    """The probabilities of the predicted classes: as the network gives them, or after division of the logits."""

    title: str
    temperature: float
    rows: Examples
    fitted_on: Examples | None

    def probabilities(self) -> Float[np.ndarray, "faces classes"]:
        """Returns the probabilities of all classes."""
        return calibration.probabilities(self.rows.logits, temperature=self.temperature)


def versions(one: Measured) -> list[Calibrated]:
    """Returns the probabilities as they are and, where a validation evaluation allows it, with a fitted temperature."""
    found = [Calibrated("as the network gives them", 1.0, one.examples, None)]
    if not missing(one.run):
        fitted_on = evaluations.read(one.run.folder / "eval" / FITTED_ON).examples()
        temperature = calibration.fit_temperature(fitted_on.logits, fitted_on.expression)
        found.append(Calibrated(f"after temperature {temperature:.2f}", temperature, one.examples, fitted_on))
    return found


def missing(run: EvaluatedRun) -> str:
    """Returns why no temperature can be fitted, with the command that changes it; "" where it can."""
    if run.metrics["split"] == FITTED_ON:
        return (
            "This page is about the validation split, on which a temperature would be fitted: it cannot be judged "
            "there. See the page of the test split."
        )
    try:
        other = evaluations.read_metrics(run.folder / "eval" / FITTED_ON)
    except UserError:
        return f"No temperature was fitted, because the run was not evaluated on its validation split. {_renewed(run)}"
    if other["expressions"] != run.metrics["expressions"]:
        return "No temperature was fitted: the validation split was evaluated with other expressions."
    if other["checkpoint"]["step"] != run.metrics["checkpoint"]["step"]:
        return (
            "No temperature was fitted: the evaluation of the validation split is one of other weights, those of step "
            f"{other['checkpoint']['step']} instead of step {run.metrics['checkpoint']['step']}. {_renewed(run)}"
        )
    return ""


def _renewed(run: EvaluatedRun) -> str:
    return f"To fit one: `{run.command(FITTED_ON)}`, then write this page again."


def measures(found: list[Calibrated]) -> Table:
    """Returns the errors of the probabilities."""
    header = ["Probabilities", "Temperature", "ECE (%)", "Negative log-likelihood", "Brier score"]
    rows = []
    for one in found:
        shares, true = one.probabilities(), one.rows.expression
        error = calibration.expected_calibration_error(shares.max(1), one.rows.correct)
        likelihood = calibration.negative_log_likelihood(one.rows.logits, true, temperature=one.temperature)
        scores = [tables.percent(error), tables.cosine(likelihood), tables.cosine(calibration.brier(shares, true))]
        rows.append([one.title, f"{one.temperature:.3f}", *scores])
    return Table(header, rows)


def abstention(one: Calibrated) -> Table:
    """Returns how often the answers are right when only the surest share of the faces is answered."""
    probability, correct = one.probabilities().max(1), one.rows.correct
    points = calibration.coverage_accuracy(probability, correct)
    rows = []
    for wanted in _COVERAGES:
        # The threshold that answers at least that share, and hardly more: equal probabilities are answered together.
        place = int((points.coverage < wanted - 1e-9).sum())
        threshold, share = points.threshold[place], points.coverage[place]
        rows.append([tables.percent(share), f"{threshold:.3f}", tables.percent(points.accuracy[place])])
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
    here = intervals.percent(statistics.accuracy_interval(one.rows.correct[answered], people=one.rows.people[answered]))
    return (
        f"A threshold that makes {100 * wanted:.0f} % of the answers right on the validation split, a probability of "
        f"{found.probability:.3f}, answers {tables.percent(float(answered.mean()))} % of these faces, {here} % of them "
        "rightly."
    )


def draw(found: list[Calibrated], folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Draw the reliability diagrams and the accuracy by coverage; return the paths."""
    bins, covered = {}, {}
    for one in found:
        probability = one.probabilities().max(1)
        bins[one.title] = calibration.reliability(probability, one.rows.correct)
        covered[one.title] = calibration.coverage_accuracy(probability, one.rows.correct)
    return curves.reliability(bins, folder / "reliability.svg"), curves.coverage(covered, folder / "coverage.svg")
