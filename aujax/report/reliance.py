"""Whether runs rely on the codebook's action units (AUs): their interventions side by side, and paired tests."""

from collections.abc import Sequence
from typing import NamedTuple

from aujax import statistics
from aujax.report import changes, intervals, interventions, people, tables
from aujax.report.interventions import Faithfulness
from aujax.report.tables import Table
from aujax.statistics import PairedTest

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
    what = {
        "faces": [one.examples.faces() for one in (before, after)],
        "fillings": [one.content["filling"] for one in (before, after)],
        "codebooks": [one.content["codebook"] for one in (before, after)],
    }
    differ = [name for name, (first, second) in what.items() if first != second]
    if differ:
        again = " and ".join(f"`{interventions.command(one.run)}`" for one in (before, after))
        return (
            f"**{before.run.name}** and **{after.run.name}** were measured with different {' and '.join(differ)}, so "
            f"their drops do not compare. Measure both alike: {again}."
        )
    found = measure(before, after)
    return verdict(found) if found else "No face was predicted as an expression that has action units by both runs."


def measure(before: Faithfulness, after: Faithfulness) -> Reliance | None:
    """Returns the paired tests of two runs that measured the same faces; None where both have no face to compare.

    Each face counts against the set of the expression that the run predicts itself. Averages are per true expression
    and then over expressions, for the runs may predict different ones.
    """
    a, b = before.examples, after.examples
    columns = [rows.numbers(name)[0] for rows in (a, b) for name in interventions.REGIONS]
    where = interventions.complete(a) & interventions.complete(b)
    if not where.any():
        return None
    own_a, outside_a, control_a, own_b, outside_b, control_b = columns
    leads = (own_a - outside_a, own_b - outside_b), (own_a - control_a, own_b - control_b)
    others, control = (
        statistics.paired_macro_mean(*pair, a.expression, where=where, people=before.people) for pair in leads
    )
    return Reliance(before, after, others, control, people.faces(before.people[where]))


def verdict(found: Reliance) -> str:
    """Returns the answer in words, with its numbers; it is yes or no only where both tests say the same."""
    before, after = found.before.run, found.after.run
    tests = (found.over_others, found.over_control)
    if before.metrics["au_weight"] == 0 < after.metrics["au_weight"]:
        who = "Training with AU cues made the network rely"
    else:
        who = f"{after.name} relies"
    if all(test.difference.low is not None and test.difference.low > 0 for test in tests):
        answer = f"{who} more on the codebook's AUs."
    elif all(test.difference.high is not None and test.difference.high < 0 for test in tests):
        answer = f"{who} less on the codebook's AUs."
    else:
        answer = "No difference in how the networks rely on the codebook's AUs is shown: the tests leave it open."
    others, control = (f"{intervals.points(test.difference)} points ({_phrase(test)})" for test in tests)
    return (
        f"**{answer}** From **{before.name}** to **{after.name}**, the lead of the own AUs over all others changes by "
        f"{others}, over the control by {control}; {found.faces}."
    )


def _phrase(test: PairedTest) -> str:
    words = changes.p_words(test)
    return f"p {words}" if words.startswith("<") else f"p = {words}"


def table(shown: Sequence[Faithfulness]) -> Table:
    """Returns what the interventions say of each run, side by side."""
    drops = [f"{name} (points)" for name in interventions.REGIONS.values()]
    header = ["Run", *drops, "Top AU is own (%)", "By chance (%)"]
    rows = []
    for one in shown:
        drops = [intervals.points(interventions.region_interval(one, name)) for name in interventions.REGIONS]
        shares = (one.content["interventions"][name] for name in ("top_in_codebook", "chance_in_codebook"))
        rows.append([one.run.name, *drops, *map(tables.percent, shares)])
    return Table(header, rows)
