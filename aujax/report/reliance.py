"""Whether runs rely on the codebook's action units (AUs): their interventions side by side, and paired tests."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from aujax import statistics
from aujax.report import changes, evaluations, intervals, interventions, people
from aujax.report.evaluations import EvaluatedRun
from aujax.report.interventions import Faithfulness
from aujax.report.seeds import Column
from aujax.report.tables import Table
from aujax.statistics import PairedTest

Pair = tuple[np.ndarray, np.ndarray]  # a number per face, before and after

DEFINITIONS = (
    "**Top AU is own**: on how many faces the AU that lowers the probability most belongs to the predicted expression, "
    "beside how often one drawn at random would.",
    "**The answer** compares the lead of the own AUs over the other AUs, and over the control, on the same faces, per "
    "true expression and then over expressions, for the runs may predict different ones. It is yes or no only where "
    "both tests say the same.",
)


class Reliance(NamedTuple):
    """Whether a pair of networks relies differently on the codebook's AUs, by paired tests.

    `over_others` compares the lead of the predicted expression's own AUs over all other AUs, in how much their removal
    lowers the probability; `over_control` that over the control. `faces` says how many faces were compared.
    """

    before: Faithfulness
    after: Faithfulness
    over_others: PairedTest
    over_control: PairedTest
    faces: str


def answer(before: Faithfulness, after: Faithfulness) -> str:
    """Returns the verdict on a pair of runs, or why there is none."""
    if differ := incomparable(before, after):
        again = " and ".join(f"`{interventions.command(one.run)}`" for one in (before, after))
        return (
            f"**{before.run.name}** and **{after.run.name}** were measured with different {' and '.join(differ)}, so "
            f"their drops do not compare. Measure both alike: {again}."
        )
    found = measure(before, after)
    return verdict(found) if found else "No face was predicted as an expression that has action units by both runs."


def incomparable(before: Faithfulness, after: Faithfulness) -> list[str]:
    """Returns what keeps the drops of two runs from being compared; [] for nothing."""
    what = {
        "faces": [one.examples.faces() for one in (before, after)],
        "fillings": [one.content["filling"] for one in (before, after)],
        "codebooks": [one.content["codebook"] for one in (before, after)],
        "probabilities (calibrated or not)": [one.content["temperature"] != 1.0 for one in (before, after)],
    }
    return [name for name, (first, second) in what.items() if first != second]


def measure(before: Faithfulness, after: Faithfulness) -> Reliance | None:
    """Returns the paired tests of two runs that measured the same faces; None where both have no face to compare.

    Each face counts against the set of the expression that the run predicts itself. Averages are per true expression
    and then over expressions, for the runs may predict different ones.
    """
    leads, where = _compared(before, after)
    if not where.any():
        return None
    expression = before.examples.expression
    others, control = (
        statistics.paired_macro_mean(*pair, expression, where=where, people=before.people) for pair in leads
    )
    return Reliance(before, after, others, control, people.faces(before.people[where]))


def _compared(before: Faithfulness, after: Faithfulness) -> tuple[list[Pair], Bool[np.ndarray, " faces"]]:
    """The leads of the own AUs over others and over the control, before and after; and the faces that have both."""
    a, b = before.examples, after.examples
    own_a, outside_a, control_a = (a.numbers(name)[0] for name in interventions.REGIONS)
    own_b, outside_b, control_b = (b.numbers(name)[0] for name in interventions.REGIONS)
    where = interventions.complete(a) & interventions.complete(b)
    return [(own_a - outside_a, own_b - outside_b), (own_a - control_a, own_b - control_b)], where


def verdict(found: Reliance) -> str:
    """Returns the answer in words, with its numbers; it is yes or no only where both tests say the same."""
    before, after = found.before.run, found.after.run
    tests = (found.over_others, found.over_control)
    # Whatever else differs may be the reason, too.
    cues_alone = evaluations.differences([before, after]).keys() == {evaluations.EXPECTED_DIFFERENCE}
    who, other = f"`{after.name}` relies", f" than `{before.name}`"
    if cues_alone and before.metrics["au_weight"] == 0 < after.metrics["au_weight"]:
        who, other = "The network trained with AU cues relies", ""
    if all(test.difference.low is not None and test.difference.low > 0 for test in tests):
        answer = f"{who} more on the codebook's AUs{other}."
    elif all(test.difference.high is not None and test.difference.high < 0 for test in tests):
        answer = f"{who} less on the codebook's AUs{other}."
    else:
        answer = "No difference in how the networks rely on the codebook's AUs is shown: the tests leave it open."
    others, control = (f"{intervals.points(test.difference)} points ({_phrase(test)})" for test in tests)
    return (
        f"**{answer}** From **{before.name}** to **{after.name}**, the lead of the own AUs over all others changes by "
        f"{others}, over the control by {control}; {found.faces}. These are one training each: another seed "
        "would differ."
    )


def over_seeds(pairs: Sequence[tuple[Faithfulness, Faithfulness]]) -> list[str]:
    """Returns what the pairs of several seeds say together, a sentence for each two settings; [] for single seeds."""
    runs = {one.run.folder: one.run for pair in pairs for one in pair}
    groups = evaluations.replicates(list(runs.values()))
    place = {run.folder: number for number, group in enumerate(groups) for run in group}
    by_setting: dict[tuple[int, int], list[tuple[Faithfulness, Faithfulness]]] = {}
    for pair in pairs:
        by_setting.setdefault((place[pair[0].run.folder], place[pair[1].run.folder]), []).append(pair)
    found = []
    for these in by_setting.values():
        leads = [lead for pair in these if not incomparable(*pair) and (lead := _leads(*pair)) is not None]
        if len(leads) > 1:
            numbers = (statistics.over_seeds(column).mean for column in zip(*leads, strict=True))
            others, control = map(intervals.points, numbers)
            found.append(
                f"Over {len(leads)} seeds of **{these[0][0].run.name}** and **{these[0][1].run.name}**, the lead of "
                f"the own AUs over all others changes by {others} points, over the control by {control} points (means "
                "with Student's t interval over the seeds)."
            )
    return found


def _leads(before: Faithfulness, after: Faithfulness) -> list[float] | None:
    """By how much the lead over others and that over the control change; None where there is no face to compare."""
    pairs, where = _compared(before, after)
    if not where.any():
        return None
    expression = before.examples.expression
    differences = (statistics.macro_mean(second - first, expression, where=where) for first, second in pairs)
    return [change for change in differences if change is not None]


def _phrase(test: PairedTest) -> str:
    words = changes.p_words(test)
    return f"p {words}" if words.startswith("<") else f"p = {words}"


def columns(found: Mapping[pathlib.Path, Faithfulness]) -> list[Column]:
    """Returns the means of the interventions, for several seeds; `found` is by run folder."""

    def read(name: str, run: EvaluatedRun) -> float | None:
        return found[run.folder].content["interventions"][name]

    names = {name: f"{words} (points)" for name, words in interventions.REGIONS.items()}
    names["top_in_codebook"] = "Top AU is own (%)"
    return [Column(words, functools.partial(read, name), is_share=True) for name, words in names.items()]


def table(shown: Sequence[Faithfulness]) -> Table:
    """Returns what the interventions say of each run, side by side."""
    drops = [f"{name} (points)" for name in interventions.REGIONS.values()]
    header = ["Run", *drops, "Top AU is own (%)", "By chance (%)"]
    rows = []
    for one in shown:
        drops = [intervals.points(interventions.region_interval(one, name)) for name in interventions.REGIONS]
        rows.append([one.run.name, *drops, *map(intervals.percent, interventions.top_intervals(one))])
    return Table(header, rows)
