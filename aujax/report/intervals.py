"""What one run reached, with intervals of 95 % (see `statistics`), as tables."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aujax import statistics
from aujax.report import tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.examples import Examples
from aujax.report.tables import NONE, Table
from aujax.statistics import Interval


def _title(words: str) -> str:
    return words[0].upper() + words[1:]


TRIVIAL = tuple(map(_title, tables.BASELINES.values()))


class Measured(NamedTuple):
    """A run with its faces and its main numbers; a cosine that does not exist (no CAM, no AU map) is None."""

    run: EvaluatedRun
    examples: Examples
    accuracy: Interval
    mean_class: Interval
    macro_f1: Interval
    attention: Interval | None
    cam: Interval | None

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def label(self) -> str:
        """The split and the protocol, to stand beside every number."""
        return self.run.label


def measure(run: EvaluatedRun) -> Measured:
    """Returns the run with its main numbers, from its examples.csv."""
    rows = run.evaluation.examples()
    return Measured(
        run,
        rows,
        statistics.accuracy_interval(rows.correct, people=rows.people),
        statistics.mean_class_accuracy_interval(rows.expression, rows.predicted, people=rows.people),
        statistics.macro_f1_interval(rows.expression, rows.predicted, people=rows.people),
        cosine_interval(rows, f"att_cos_{run.evaluation.layer}"),
        cosine_interval(rows, "cam_cos") if run.has_cam else None,
    )


def cosine_interval(rows: Examples, name: str, *, of: str = "") -> Interval | None:
    """Returns a cosine, averaged per expression and then over expressions; None where no face has an AU map.

    `of` is an expression to which it is confined, "" for none.
    """
    values, known = rows.numbers(name)
    if of:
        known = known & (rows.expression == rows.expressions.index(of))
    if not known.any():
        return None
    return statistics.macro_mean_interval(values, rows.expression, where=known, people=rows.people)


def summary(shown: Sequence[Measured]) -> Table:
    """Returns the main table: a row per run, then what needs no network."""
    rows, evaluations = [], [one.run.evaluation for one in shown]
    for one in shown:
        about = [one.name, f"{one.run.metrics['au_weight']:g}", one.run.metrics["protocol"]]
        shares = [percent(value) for value in (one.accuracy, one.mean_class, one.macro_f1)]
        attention = cosine(one.attention) + tables.of_layer(one.run.evaluation, evaluations)
        rows.append([*about, *shares, attention, cosine(one.cam)])
    header = [*tables.RESULTS, tables.attention_heading(evaluations), "CAM-COS"]
    return Table(header, rows + tables.baseline_rows(evaluations))


def overview(one: Measured) -> Table:
    """Returns the main numbers of a run, a row each, beside what needs no network."""
    evaluation = one.run.evaluation
    names = [*tables.RESULTS[3:], tables.attention_heading([evaluation]), "CAM-COS"]
    shares = [percent(value) for value in (one.accuracy, one.mean_class, one.macro_f1)]
    values = [*shares, cosine(one.attention), cosine(one.cam)]
    trivial = tables.baseline_rows([evaluation])
    header = ["Measure", "This run", *(_title(row[0]) for row in trivial)]
    cells = zip(names, values, *(row[-len(names) :] for row in trivial), strict=True)
    return Table(header, [list(row) for row in cells])


def by_layer(one: Measured) -> Table:
    """Returns the cosine of every layer's attention and of CAM, then those of maps that need no network."""
    metrics = one.run.metrics
    names = {f"Attention, {layer}": f"att_cos_{layer}" for layer in metrics["att_cos"]}
    names |= {"CAM": "cam_cos"} if one.run.has_cam else {}
    rows = [[name, cosine(cosine_interval(one.examples, column))] for name, column in names.items()]
    rows += [[words, tables.cosine(metrics["baselines"][name])] for name, words in tables.BASELINES.items()]
    return Table(["Map", "Cosine with the AU map"], rows)


def by_expression(one: Measured) -> Table:
    """Returns the numbers of every expression, beside the cosines of maps that need no network."""
    header = ["Expression", "Faces", "With AU map", "Accuracy (%)", f"ATT-COS ({one.run.evaluation.layer})", "CAM-COS"]
    rows = []
    for expression in one.examples.expressions:
        rows.append([expression, *_of_expression(one, expression), *_trivial(one, expression)])
    return Table([*header, *TRIVIAL], rows)


def by_expression_and_run(shown: Sequence[Measured]) -> Table:
    """Returns the same of several runs, a row per expression and run."""
    header = ["Expression", "Run", "Faces", "With AU map", "Accuracy (%)", "ATT-COS", "CAM-COS", *TRIVIAL]
    rows = [
        [expression, one.name, *_of_expression(one, expression), *_trivial(one, expression)]
        for expression in shown[0].examples.expressions
        for one in shown
    ]
    return Table(header, rows, left=2)


def _trivial(one: Measured, expression: str) -> list[str]:
    baselines = one.run.metrics["per_class"][expression]["baselines"]
    return [tables.cosine(baselines[name]) for name in tables.BASELINES]


def _of_expression(one: Measured, expression: str) -> list[str]:
    """The numbers of faces and of AU maps, accuracy, ATT-COS and CAM-COS."""
    rows, values = one.examples, one.run.metrics["per_class"][expression]
    here = rows.expression == rows.expressions.index(expression)
    counts = [str(values["num_examples"]), str(values["num_maps"])]
    accuracy = statistics.accuracy_interval(rows.correct[here], people=rows.people[here])
    attention = cosine_interval(rows, f"att_cos_{one.run.evaluation.layer}", of=expression)
    cam = cosine_interval(rows, "cam_cos", of=expression) if one.run.has_cam else None
    return [*counts, percent(accuracy), cosine(attention), cosine(cam)]


def percent(interval: Interval | None) -> str:
    """Returns a share in percent with its interval.

    >>> percent(Interval(0.75, 0.7, 0.8))
    '75.0 [70.0, 80.0]'
    """
    return _words(interval, tables.percent)


def cosine(interval: Interval | None) -> str:
    """Returns a cosine with its interval.

    >>> cosine(Interval(0.75, None, None)), cosine(None)
    ('0.750', '–')
    """
    return _words(interval, tables.cosine)


def points(interval: Interval | None) -> str:
    """Returns a difference of shares in percentage points, with signs.

    >>> points(Interval(-0.025, -0.05, 0.0))
    '−2.5 [−5.0, +0.0]'
    """
    return _words(interval, lambda value: tables.difference(0.0, value, decimals=1, scale=100))


def change(interval: Interval | None) -> str:
    """Returns a difference of cosines, with signs.

    >>> change(Interval(0.125, 0.1, 0.15))
    '+0.125 [+0.100, +0.150]'
    """
    return _words(interval, lambda value: tables.difference(0.0, value))


def _words(interval: Interval | None, words: Callable[[float | None], str]) -> str:
    if interval is None or interval.value is None:
        return NONE
    ends = "" if interval.low is None else f" [{words(interval.low)}, {words(interval.high)}]"
    return words(interval.value) + ends
