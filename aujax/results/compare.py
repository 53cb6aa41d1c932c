"""Run folders side by side: which runs form pairs, paired tests on the same faces, and means over seeds.

Everything is computed once, by `compare`, and written beside the report: comparison.csv (`TEST_COLUMNS`) and seeds.csv
(`SEED_COLUMNS`). Differences are second run minus first: with action-unit (AU) cues minus without.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aujax.errors import UserError
from aujax.results import schema, statistics
from aujax.results.registry import ATTENTION, BASELINE_MAPS, BASELINE_ORDERINGS, CAM, METRICS, Metric
from aujax.results.schema import EvaluatedRun, ScoreKey
from aujax.results.statistics import Interval

AU_WEIGHT, SEED = "au_weight", "seed"  # the options in which compared runs usually differ
TESTS, SEEDS = "comparison.csv", "seeds.csv"
_NOT_SET = "not set"

TEST_COLUMNS = {
    "before": "name of the first run",
    "after": "name of the second run",
    "metric": "key of `METRICS`",
    "map": "attention (of each run's reported layer), cam, or empty",
    "difference": "second run minus first",
    "low": "lower end of its 95 % interval",
    "high": "upper end of its 95 % interval",
    "p_value": "two-sided; empty if there are too few faces or subjects",
    "p_corrected": "corrected for all tests of the same family (Holm)",
    "family": "headline, reliance or perturbation",
    "faces": "number of faces compared",
    "subjects": "number of subjects on them",
    "higher": "faces on which the second run is better",
    "lower": "faces on which the first run is better",
}
SEED_COLUMNS = {
    "setting": "name of the first run of the seeds",
    "minus": "for a difference, name of the first run of the other setting; otherwise empty",
    "metric": "key of `METRICS`",
    "map": "attention, cam, name of a baseline map, or empty",
    "target": "as in summary.csv",
    "condition": "as in summary.csv",
    "value": "mean over seeds",
    "low": "lower end of Student's 95 % t interval",
    "high": "upper end of the interval",
    "deviation": "sample standard deviation over seeds",
    "seeds": "number of runs",
}
# The paired tests of a pair: metric and map.
_TESTED = [
    (metric, map)
    for map in ("", ATTENTION, CAM)
    for metric in METRICS.values()
    if metric.paired and map in (metric.maps if metric.topic == "perturbation" else ("",))
]
# Those whose summaries average by prediction, on which two runs may disagree; the tests average by label.
RELIANCE = [metric.key for metric, _ in _TESTED if metric.topic == "reliance" and metric.targets == ("predicted",)]


class Pair(NamedTuple):
    """Two runs that were evaluated on the same faces."""

    before: EvaluatedRun
    after: EvaluatedRun


class Contrast(NamedTuple):
    """Two settings, such as two AU weights, and the pairs of runs from both, one per seed."""

    before: list[EvaluatedRun]
    after: list[EvaluatedRun]
    pairs: list[Pair]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs on the same faces, their pairs, and the tables of tests and seeds."""

    runs: list[EvaluatedRun]
    pairs: list[Pair]
    contrasts: list[Contrast]  # the pairs by the settings of their runs
    tests: pd.DataFrame
    seeds: pd.DataFrame

    def test(self, pair: Pair, metric: str, map: str = "") -> pd.Series | None:
        """Returns a row of the tests; None if that test does not exist."""
        rows = schema.select(self.tests, before=pair.before.name, after=pair.after.name, metric=metric, map=map)
        return rows.iloc[0] if len(rows) else None

    def difference(self, contrast: Contrast, metric: str, map: str = "") -> Interval | None:
        """Returns the difference of two settings: of one pair as tested, of several as the mean over seeds."""
        if len(contrast.pairs) == 1:
            row = self.test(contrast.pairs[0], metric, map)
        else:
            before, after = contrast.before[0].name, contrast.after[0].name
            rows = schema.select(self.seeds, minus=before, setting=after, metric=metric, map=map)
            row = rows.iloc[0] if len(rows) else None
        return None if row is None else schema.interval_of(row)

    def write(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Writes comparison.csv and seeds.csv, where they have rows; returns the paths."""
        written = []
        for name, table in ((TESTS, self.tests), (SEEDS, self.seeds)):
            if len(table):
                table.to_csv(out / name, index=False)
                written.append(out / name)
        return written


def differences(runs: Sequence[EvaluatedRun]) -> dict[str, list[Any]]:
    """Returns the options in which the trainings differ, by dotted name, with the value of each run."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    values = {name: [run.options.get(name, _NOT_SET) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def find_pairs(runs: Sequence[EvaluatedRun]) -> list[Pair]:
    """Returns (without AU cues, with AU cues) for the runs that are equal otherwise.

    Where there are none, two runs form a pair, and of more each one that differs in more than its seed forms a pair
    with the first.
    """
    if pairs := equal_but_for(runs, {AU_WEIGHT}):
        return pairs
    if len(runs) == 2:
        return [Pair(*sorted(runs, key=lambda run: run.metadata["au_weight"]))]
    return [Pair(runs[0], other) for other in runs[1:] if not differences([runs[0], other]).keys() <= {SEED}]


def equal_but_for(runs: Sequence[EvaluatedRun], options: Set[str]) -> list[Pair]:
    """Returns (without AU cues, with AU cues) for the runs that differ in no other options."""
    without = [run for run in runs if run.metadata["au_weight"] == 0]
    aligned = [run for run in runs if run.metadata["au_weight"] > 0]
    return [Pair(a, b) for b in aligned for a in without if differences([a, b]).keys() <= options]


def replicates(runs: Sequence[EvaluatedRun], options: Set[str] = frozenset({SEED})) -> list[list[EvaluatedRun]]:
    """Returns the runs in groups whose members differ in their seed alone, or in these options."""
    groups = []
    for run in runs:
        for group in groups:
            if differences([group[0], run]).keys() <= options:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def expected_differences(runs: Sequence[EvaluatedRun]) -> tuple[str, ...]:
    """Returns the options in which compared runs may differ: the AU weight, and the seed if every weight had all."""
    seeds = [{run.config.get(SEED) for run in group} for group in replicates(runs)]
    balanced = len(seeds[0]) > 1 and all(each == seeds[0] for each in seeds)
    return (AU_WEIGHT, SEED) if balanced else (AU_WEIGHT,)


def compare(runs: Sequence[EvaluatedRun]) -> Comparison:
    """Returns the pairs among runs on the same faces, with paired tests, and the means over seeds.

    Raises:
      UserError: two runs of a pair were evaluated on different faces.
    """
    pairs = find_pairs(runs)
    tests = []
    for pair in pairs:
        a, b = pair
        if a.faces["face"].tolist() != b.faces["face"].tolist():
            raise UserError(
                f"{a.directory} and {b.directory}: expected the same faces in the same order; evaluate both runs again"
            )
        with_faithfulness = a.faithfulness and b.faithfulness and not incomparable(pair)
        for metric, map in _TESTED:
            if metric.headline or with_faithfulness:
                tests += _paired_test(pair, metric, map)
    table = pd.DataFrame(tests, columns=list(TEST_COLUMNS))
    for _, rows in table.groupby("family"):
        p_values = rows["p_value"].astype(float).fillna(1.0)
        table.loc[rows.index, "p_corrected"] = statistics.holm(p_values.tolist())
    # Pairs that differ in their seed alone belong together.
    group_of = {run.folder: number for number, group in enumerate(replicates(runs)) for run in group}
    by_settings = collections.defaultdict(list)
    for pair in pairs:
        by_settings[group_of[pair.before.folder], group_of[pair.after.folder]].append(pair)
    contrasts = []
    for of_settings in by_settings.values():
        # Several runs may be compared with the same first one.
        before, after = ({run.folder: run for run in side}.values() for side in zip(*of_settings, strict=True))
        contrasts.append(Contrast(list(before), list(after), of_settings))
    seeds = pd.DataFrame(list(_seed_rows(runs, contrasts, table)), columns=list(SEED_COLUMNS))
    return Comparison(list(runs), pairs, contrasts, table, seeds)


def incomparable(pair: Pair) -> list[str]:
    """Returns what prevents comparing the faithfulness of two runs, which both have; [] for nothing."""
    a, b = (run.faithfulness.metadata for run in pair)
    checks = {
        "faces": a["faces"] == b["faces"],
        "imputations": a["imputation"] == b["imputation"],
        "codebooks": a["codebook"] == b["codebook"],
        "probabilities (calibrated or not)": (a["temperature"] == 1.0) == (b["temperature"] == 1.0),
    }
    return [name for name, same in checks.items() if not same]


def _paired_test(pair: Pair, metric: Metric, map: str) -> Iterator[tuple[Any, ...]]:
    """Yields the `TEST_COLUMNS` of a test on the faces that have a value in both runs; nothing if there is none."""
    first, second = (run.per_face(metric.key, map=map) for run in pair)
    rows = np.flatnonzero(~(np.isnan(first) | np.isnan(second)))
    if not len(rows):
        return
    faces = pair.before.predictions
    subjects = faces.subjects[rows]
    if metric.paired == "mcnemar":
        test = statistics.mcnemar(first[rows] == 1, second[rows] == 1, subjects=subjects)
    else:
        # Means are per true expression: the runs may predict different ones.
        classes = None if metric.aggregation == "faces" else faces.expression[rows]
        test = statistics.paired_difference(first[rows], second[rows], classes, subjects=subjects)
    family = "headline" if metric.headline else metric.topic
    counts = test.count, statistics.count_subjects(subjects), test.higher, test.lower
    # The p-value is corrected once all tests are known.
    yield pair.before.name, pair.after.name, metric.key, map, *test.difference, test.p_value, np.nan, family, *counts


def over_seeds(runs: Sequence[EvaluatedRun], metric: str, **where: str) -> statistics.Seeds:
    """Returns a number of a training: of one run with its interval over faces, of several seeds with that over seeds.

    The number is `EvaluatedRun.interval(metric, **where)`. Intervals over few seeds are cut to the range of the metric.
    """
    intervals = [run.interval(metric, **where) for run in runs]
    if len(runs) == 1:
        return statistics.Seeds(intervals[0])
    values = [interval.value for interval in intervals if interval.value is not None]
    bounds = {"percent": (0.0, 1.0), "score": (-1.0, 1.0), "points": (-1.0, 1.0)}.get(METRICS[metric].unit)
    if METRICS[metric].normalised:  # the probability may leave the range between whole and fully imputed image
        bounds = None
    return statistics.over_seeds(values, bounds=bounds)


def _seed_rows(
    runs: Sequence[EvaluatedRun], contrasts: Sequence[Contrast], tests: pd.DataFrame
) -> Iterator[tuple[Any, ...]]:
    """Yields `SEED_COLUMNS` of every overall number of each setting, then of the differences of settings."""
    keys = dict.fromkeys(key for run in runs for key in _overall_keys(run))
    found = []
    for group in replicates(runs):
        if len(group) > 1:
            found += [(group[0], "", key, over_seeds(group, **key._asdict())) for key in keys]
    reliance = schema.select(tests, family="reliance").set_index(["before", "after", "metric"])["difference"]
    for before, after, of_settings in contrasts:
        if len(of_settings) < 2:
            continue
        for key in keys:
            changes = []
            for pair in of_settings:
                first, second = (run.interval(**key._asdict()).value for run in pair)
                if key.metric in RELIANCE:
                    index = (pair.before.name, pair.after.name, key.metric)
                    changes += [reliance[index]] if index in reliance.index else []
                elif first is not None and second is not None:
                    changes.append(second - first)
            found.append((after[0], before[0].name, key, statistics.over_seeds(changes)))
    for run, minus, key, (mean, deviation, count) in found:
        if mean.value is not None:
            yield run.name, minus, *key, *mean, deviation, count


def _overall_keys(run: EvaluatedRun) -> Iterator[ScoreKey]:
    """Yields the keys of the numbers over all faces, of the classifier, the reported maps and the baselines."""
    roles = {run.layer: ATTENTION, CAM: CAM} | {name: name for name in ("", *BASELINE_MAPS, *BASELINE_ORDERINGS)}
    for *score, attribute, _ in (*run.tables.index, *run.faithfulness.index):
        key = ScoreKey(*score)
        if not attribute and key.map in roles:
            yield key._replace(map=roles[key.map])
