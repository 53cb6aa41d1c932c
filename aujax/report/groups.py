"""Whether a network serves all groups of people alike: accuracy and cosines by attribute, with intervals and counts."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from aujax import statistics
from aujax.report import intervals, people, tables
from aujax.report.examples import Examples
from aujax.report.intervals import Measured
from aujax.report.tables import Table
from aujax.statistics import Group, Interval

Measure = Callable[[Examples, Int[np.ndarray, " rows"]], Interval]
TOO_FEW = "too few"


def told_apart(one: Measured) -> dict[str, bool]:
    """Returns the attributes, and whether any of the groups that each makes is large enough to say something of it.

    File names and measurements, of which hardly two faces have the same, tell of no group of people.
    """
    found = {}
    for attribute, names in one.examples.attributes.items():
        counts = collections.Counter(name for name in names if name)
        found[attribute] = max(counts.values(), default=0) >= statistics.FEWEST
    return found


def table(one: Measured, attribute: str) -> Table:
    """Returns the numbers of every group that an attribute makes; of groups that are too small, that they are."""
    layer = one.run.evaluation.layer
    columns: dict[str, tuple[Measure, Callable[[Interval], str]]] = {
        "Accuracy (%)": (_accuracy, intervals.percent),
        "Mean-class accuracy (%)": (_mean_class, intervals.percent),
        f"ATT-COS ({layer})": (_cosine(f"att_cos_{layer}"), intervals.cosine),
    }
    if one.run.has_cam:
        columns["CAM-COS"] = _cosine("cam_cos"), intervals.cosine
    for name, words in zip(tables.BASELINES, intervals.TRIVIAL, strict=True):
        columns[words] = _trivial(name), intervals.cosine
    names = one.examples.attributes[attribute]
    cells = [[_words(group, words) for group in _by_group(one, names, measure)] for measure, words in columns.values()]
    # Twenty faces of one person are a group of one.
    repeated = ["People"] if people.repeat(one.examples.people) else []
    rows = []
    for group, *row in zip(_by_group(one, names, _accuracy), *cells, strict=True):
        here = np.array([name == group.name for name in names])
        counts = [str(group.count), str(people.count(one.examples.people[here]))]
        rows.append([group.name or "not known", *counts[: 1 + len(repeated)], *row])
    return Table([attribute.capitalize(), "Faces", *repeated, *columns], rows)


def by_run(shown: Sequence[Measured], attribute: str) -> Table:
    """Returns the same of several runs on the same faces, a row per group and run; of a single run, its table."""
    found = [(one, table(one, attribute)) for one in shown if attribute in one.examples.attributes]
    if len(found) == 1:
        return found[0][1]
    # A method without CAM lacks a column.
    header = list(dict.fromkeys(name for _, each in sorted(found, key=_columns, reverse=True) for name in each.header))
    rows = []
    for these in zip(*(each.rows for _, each in found), strict=True):
        for (one, each), row in zip(found, these, strict=True):
            cells = dict(zip(each.header, row, strict=True))
            group, *others = (cells.get(name, tables.NONE) for name in header)
            rows.append([group, one.name, *others])
    return Table([header[0], "Run", *header[1:]], rows, left=2)


def _columns(found: tuple[Measured, Table]) -> int:
    return len(found[1].header)


def _by_group(one: Measured, names: Sequence[str], measure: Measure) -> list[Group]:
    return statistics.by_group(names, lambda rows: measure(one.examples, rows))


def _words(group: Group, words: Callable[[Interval], str]) -> str:
    return TOO_FEW if group.value is None else words(group.value)


def _accuracy(rows: Examples, at: Int[np.ndarray, " rows"]) -> Interval:
    return statistics.accuracy_interval(rows.correct[at], people=rows.people[at])


def _mean_class(rows: Examples, at: Int[np.ndarray, " rows"]) -> Interval:
    return statistics.mean_class_accuracy_interval(rows.expression[at], rows.predicted[at], people=rows.people[at])


def _cosine(name: str) -> Measure:
    def measure(rows: Examples, at: Int[np.ndarray, " rows"]) -> Interval:
        values, known = rows.numbers(name)
        return statistics.macro_mean_interval(values[at], rows.expression[at], where=known[at], people=rows.people[at])

    return measure


def _trivial(name: str) -> Measure:
    """The cosine of a map that needs no network: it is that of the faces, whatever the run, without an interval."""

    def measure(rows: Examples, at: Int[np.ndarray, " rows"]) -> Interval:
        values, known = rows.numbers(f"baseline:{name}")
        return Interval(statistics.macro_mean(values[at], rows.expression[at], where=known[at]), None, None)

    return measure
