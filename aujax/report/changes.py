"""How pairs of runs differ on the same faces, by paired tests.

Differences are second minus first: with action-unit (AU) cues minus without.
"""

from collections.abc import Sequence
from typing import NamedTuple

from aujax import statistics
from aujax.errors import UserError
from aujax.report import intervals, tables
from aujax.report.intervals import Measured
from aujax.report.tables import Table
from aujax.statistics import PairedTest


class Change(NamedTuple):
    """A pair of runs and its tests by name; one that does not exist for both runs is absent."""

    before: Measured
    after: Measured
    tests: dict[str, PairedTest]


def measure(before: Measured, after: Measured) -> Change:
    """Returns the paired tests of two runs on the same faces; different faces are a UserError."""
    a, b = before.examples, after.examples
    if a.faces() != b.faces():
        raise UserError(f"{a.path} and {b.path}: expected the same faces in the same order; evaluate both runs again")
    tests = {
        "Accuracy": statistics.mcnemar(a.correct, b.correct, people=a.people),
        "Mean-class accuracy": statistics.paired_macro_mean(a.correct, b.correct, a.expression, people=a.people),
    }
    columns = {"ATT-COS": [f"att_cos_{one.run.evaluation.layer}" for one in (before, after)]}
    if before.run.has_cam and after.run.has_cam:
        columns["CAM-COS"] = ["cam_cos", "cam_cos"]
    for name, (of_a, of_b) in columns.items():
        (first, known), (second, too) = a.numbers(of_a), b.numbers(of_b)
        if (known & too).any():
            where = known & too
            tests[name] = statistics.paired_macro_mean(first, second, a.expression, where=where, people=a.people)
    return Change(before, after, tests)


def table(changes: Sequence[Change]) -> Table:
    """Returns a row per pair and measure, with p-values corrected for all rows of the table (Holm)."""
    rows = [(change, name, test) for change in changes for name, test in change.tests.items()]
    corrected = statistics.holm([_p_value(test) for _, _, test in rows])
    lines = []
    for (change, name, test), together in zip(rows, corrected, strict=True):
        share = "accuracy" in name.lower()
        words, unit = (intervals.points, " (points)") if share else (intervals.change, "")
        counts = [str(test.higher), str(test.lower)]
        p_values = [p_words(test), _p_words(together)]
        lines.append(
            [f"{change.before.name} → {change.after.name}", name + unit, words(test.difference), *counts, *p_values]
        )
    header = ["Runs", "Measure", "Difference", "Faces better", "Faces worse", "p", "p, all rows together"]
    return Table(header, lines, left=2)


def sentence(change: Change) -> str:
    """Returns what came out for a pair, in words."""
    before, after = change.before, change.after
    parts = [
        f"accuracy goes from {tables.percent(before.accuracy.value)} to {tables.percent(after.accuracy.value)} % "
        f"({intervals.points(change.tests['Accuracy'].difference)} points)"
    ]
    if before.attention and after.attention and "ATT-COS" in change.tests:
        ends = f"{tables.cosine(before.attention.value)} to {tables.cosine(after.attention.value)}"
        parts.append(f"ATT-COS from {ends} ({intervals.change(change.tests['ATT-COS'].difference)})")
    return f"From **{before.name}** to **{after.name}**, {' and '.join(parts)}."


def p_words(test: PairedTest) -> str:
    """Returns the p-value in words; too few faces to tell are "1.000".

    >>> nobody = statistics.Interval(None, None, None)
    >>> [p_words(PairedTest(nobody, p_value, 0, 0, 0)) for p_value in (0.0312, 0.0004, None)]
    ['0.031', '< 0.001', '1.000']
    """
    return _p_words(_p_value(test))


def _p_words(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _p_value(test: PairedTest) -> float:
    return 1.0 if test.p_value is None else test.p_value
