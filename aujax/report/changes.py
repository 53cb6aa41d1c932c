"""How pairs of runs differ on the same faces, by paired tests; and what several seeds give together.

Differences are second minus first: with action-unit (AU) cues minus without.
"""

from collections.abc import Sequence
from typing import NamedTuple

from aujax import statistics
from aujax.errors import UserError
from aujax.report import evaluations, intervals, tables
from aujax.report.intervals import Measured
from aujax.report.seeds import Number
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


def by_seeds(shown: Sequence[Measured]) -> Table | None:
    """Returns the mean over the seeds of every setting, and of the differences; None where no setting has several."""
    by_run = {one.run.folder: one for one in shown}
    groups = [[by_run[run.folder] for run in group] for group in evaluations.replicates([one.run for one in shown])]
    if all(len(group) < 2 for group in groups):
        return None
    rows = [[_setting(group), *_means([_values(one) for one in group]), str(len(group))] for group in groups]
    place = {one.run.folder: number for number, group in enumerate(groups) for one in group}
    differences: dict[tuple[int, int], list[list[float | None]]] = {}
    for before, after in evaluations.pairs([one.run for one in shown]):
        values = zip(_values(by_run[before.folder]), _values(by_run[after.folder]), strict=True)
        difference = [None if a is None or b is None else b - a for a, b in values]
        differences.setdefault((place[before.folder], place[after.folder]), []).append(difference)
    for (a, b), found in differences.items():
        cells = [
            words(number.interval)
            for words, number in zip((*[intervals.points] * 3, *[intervals.change] * 2), _numbers(found), strict=True)
        ]
        rows.append([f"{_setting(groups[b])} − {_setting(groups[a])}", *cells, str(len(found))])
    rows += [[row[0], *row[-5:], ""] for row in tables.baseline_rows([one.run.evaluation for one in shown])]
    header = ["Setting", "Accuracy (%)", "Mean-class accuracy (%)", "Macro F1 (%)", "ATT-COS", "CAM-COS", "Seeds"]
    return Table(header, rows)


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


def _values(one: Measured) -> list[float | None]:
    return [each and each.value for each in (one.accuracy, one.mean_class, one.macro_f1, one.attention, one.cam)]


def _setting(group: Sequence[Measured]) -> str:
    if len(group) == 1:
        return group[0].name
    metrics = group[0].run.metrics
    return f"{metrics['method']}, AU weight {metrics['au_weight']:g} ({group[0].name}, …)"


def _means(rows: Sequence[Sequence[float | None]]) -> list[str]:
    return [number.percent() if place < 3 else number.cosine() for place, number in enumerate(_numbers(rows))]


def _numbers(rows: Sequence[Sequence[float | None]]) -> list[Number]:
    """Each column over the seeds."""
    columns = ([value for value in column if value is not None] for column in zip(*rows, strict=True))
    return [Number(*statistics.over_seeds(column)) if column else Number(None) for column in columns]
