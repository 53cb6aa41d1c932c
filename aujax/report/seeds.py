"""One number of a training: of one run with its interval over the faces, or of runs that differ in their seed alone.

Of several seeds it is their mean, with Student's t interval over them and the standard deviation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aujax import statistics
from aujax.report import evaluations, intervals, tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.tables import Table
from aujax.statistics import Interval

HOW = (
    "Brackets hold 95 % intervals: over the faces, or people, for one training, and over the seeds (Student's t) for "
    "several, of which mean ± standard deviation are shown."
)


class Number(NamedTuple):
    """A share or a cosine: the interval, the standard deviation over `count` seeds; None where it does not exist."""

    interval: Interval | None
    deviation: float | None = None
    count: int = 1

    def percent(self) -> str:
        """Returns a share in percent.

        >>> Number(Interval(0.75, 0.7, 0.8), 0.01, 3).percent()
        '75.0 ± 1.0 [70.0, 80.0]'
        """
        return self._words(intervals.percent(self.interval), tables.percent(self.deviation))

    def cosine(self) -> str:
        """Returns a cosine.

        >>> Number(Interval(0.75, None, None)).cosine()
        '0.750'
        """
        return self._words(intervals.cosine(self.interval), tables.cosine(self.deviation))

    def plain(self) -> list[str]:
        """Returns value, low, high and standard deviation with six digits, "" where there is none."""
        known = (*(self.interval or (None, None, None)), self.deviation)
        return ["" if value is None else f"{value:.6g}" for value in known]

    def _words(self, words: str, deviation: str) -> str:
        value, bracket, interval = words.partition(" [")
        return words if self.deviation is None else f"{value} ± {deviation}{bracket}{interval}"


class Column(NamedTuple):
    """A number of every run, None where it does not exist: its heading, and whether it is a share, shown in percent."""

    heading: str
    read: Callable[[EvaluatedRun], float | None]
    is_share: bool = False


MAIN = (
    Column("Accuracy (%)", lambda run: run.metrics["cl"], is_share=True),
    Column("Mean-class accuracy (%)", lambda run: run.metrics["balanced_accuracy"], is_share=True),
    Column("Macro F1 (%)", lambda run: run.metrics["macro_f1"], is_share=True),
    Column("ATT-COS", lambda run: run.metrics["att_cos"][run.evaluation.layer]),
    Column("CAM-COS", lambda run: run.metrics["cam_cos"]),
)


def table(runs: Sequence[EvaluatedRun], columns: Sequence[Column]) -> Table | None:
    """Returns the mean over the seeds of every setting, and of the differences; None where no setting has several."""
    groups = evaluations.replicates(runs)
    if all(len(group) < 2 for group in groups):
        return None
    rows = []
    for group in groups:
        numbers = [_over_seeds([column.read(run) for run in group]) for column in columns]
        words = [n.percent() if column.is_share else n.cosine() for n, column in zip(numbers, columns, strict=True)]
        rows.append([_setting(group), *words, str(len(group))])
    place = {run.folder: number for number, group in enumerate(groups) for run in group}
    pairs: dict[tuple[int, int], list[tuple[EvaluatedRun, EvaluatedRun]]] = {}
    for before, after in evaluations.pairs(runs):
        pairs.setdefault((place[before.folder], place[after.folder]), []).append((before, after))
    for (a, b), these in pairs.items():
        words = [
            (intervals.points if column.is_share else intervals.change)(_difference(column, these).interval)
            for column in columns
        ]
        rows.append([f"{_setting(groups[b])} − {_setting(groups[a])}", *words, str(len(these))])
    return Table(["Setting", *(column.heading for column in columns), "Seeds"], rows)


def _difference(column: Column, pairs: Sequence[tuple[EvaluatedRun, EvaluatedRun]]) -> Number:
    values = [(column.read(before), column.read(after)) for before, after in pairs]
    return _over_seeds([b - a for a, b in values if a is not None and b is not None])


def _setting(group: Sequence[EvaluatedRun]) -> str:
    if len(group) == 1:
        return group[0].name
    metrics = group[0].metrics
    return f"{metrics['method']}, AU weight {metrics['au_weight']:g} ({group[0].name}, …)"


def accuracy(runs: Sequence[EvaluatedRun]) -> Number:
    """Returns the share of recognised faces; without runs, that there is none."""
    if len(runs) == 1:
        rows = runs[0].evaluation.examples()
        return Number(statistics.accuracy_interval(rows.correct, people=rows.people))
    return _over_seeds([run.metrics["cl"] for run in runs], least=0.0)


def cam_cosine(runs: Sequence[EvaluatedRun]) -> Number:
    """Returns CAM-COS; None for a method without CAM."""
    if not all(run.has_cam for run in runs):
        return Number(None, count=len(runs))
    if len(runs) == 1:
        return Number(intervals.cosine_interval(runs[0].evaluation.examples(), "cam_cos"))
    return _over_seeds([run.metrics["cam_cos"] for run in runs])


def attention_cosine(runs: Sequence[EvaluatedRun], layer: str) -> Number:
    """Returns ATT-COS of a layer."""
    if len(runs) == 1:
        return Number(intervals.cosine_interval(runs[0].evaluation.examples(), f"att_cos_{layer}"))
    return _over_seeds([run.metrics["att_cos"][layer] for run in runs])


def _over_seeds(values: Sequence[float | None], *, least: float = -1.0) -> Number:
    known = [value for value in values if value is not None]
    if not known:
        return Number(None, count=len(values))
    (value, low, high), deviation, count = statistics.over_seeds(known)
    if low is not None and high is not None:
        low, high = max(low, least), min(high, 1.0)  # the intervals of two or three seeds may be wider than the scale
    return Number(Interval(value, low, high), deviation, count)
