"""Whether what maps highlight matters more to the answer than noise does, and how steady maps are: runs side by side.

A lead is the area under the curve of noise minus that of the map, per face (deletion, ROAD), or the other way round
(insertion): above 0, the map's highlights matter more than places at random.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from aujax import bootstrap, statistics
from aujax.report import changes, intervals
from aujax.report.evaluations import EvaluatedRun
from aujax.report.interventions import Faithfulness
from aujax.report.seeds import Column
from aujax.report.tables import NONE, Table
from aujax.statistics import Interval, PairedTest

NOISE = "random"
KINDS = {"deletion": "Deletion", "insertion": "Insertion", "road": "ROAD"}
DEFINITION = (
    "**Lead over noise**: by how much the probability, averaged over the shares of the picture that are hidden, falls "
    "further (deletion, ROAD) or stays higher (insertion) where the map says what goes first than where noise does. "
    "Means over faces."
)


def maps_of(found: Faithfulness) -> dict[str, str]:
    """Returns the maps that were followed, by their names to show: the attention of the reported layer, and the CAM."""
    followed = found.content["curves"]["deletion"]
    return {words: name for words, name in found.run.evaluation.reported.items() if name in followed}


def leads(shown: Sequence[Faithfulness]) -> Table:
    """Returns the leads over noise of each run's maps."""
    rows = []
    for one in shown:
        for words in maps_of(one):
            means = [bootstrap.mean_interval(_lead(one, kind, words), people=one.people) for kind in KINDS]
            rows.append([one.run.name, words, *map(intervals.change, means)])
    return Table(["Run", "Map", *KINDS.values()], rows, left=2)


def differences(pairs: Sequence[tuple[Faithfulness, Faithfulness]]) -> Table:
    """Returns how the leads of pairs on the same faces differ, by paired tests that are corrected together (Holm)."""
    found: list[tuple[str, str, PairedTest]] = []
    for before, after in pairs:
        for words in (name for name in maps_of(before) if name in maps_of(after)):
            for kind, title in KINDS.items():
                test = _paired(_lead(before, kind, words), _lead(after, kind, words), before)
                found.append((f"{before.run.name} → {after.run.name}", f"{words}, {title}", test))
    together = statistics.holm([1.0 if test.p_value is None else test.p_value for *_, test in found])
    rows = [
        [*names, intervals.change(test.difference), *map(changes.p_words, (test, test._replace(p_value=corrected)))]
        for (*names, test), corrected in zip(found, together, strict=True)
    ]
    return Table(["Runs", "Lead over noise", "Difference", "p", "p, all rows together"], rows, left=2)


def steadiness(shown: Sequence[Faithfulness]) -> Table:
    """Returns how alike answers and maps stay when the picture changes a little, and maps when all weights are new."""
    rows = []
    for one in shown:
        anew = list(one.content["randomisation"])[-1]
        views = [f"stability:{view}" for view in ("flip", "shift")]
        answers = [intervals.percent(_mean(one, f"{view}:agreement")) for view in views]
        rows.append([one.run.name, "Answer (%)", *answers, NONE])
        for words, name in maps_of(one).items():
            alike = [_mean(one, f"{change}:{name}") for change in (*views, f"randomisation:{anew}")]
            rows.append([one.run.name, words, *map(intervals.cosine, alike)])
    return Table(["Run", "What stays", "mirrored", "shifted", "all weights new"], rows, left=2)


def columns(found: Mapping[pathlib.Path, Faithfulness]) -> list[Column]:
    """Returns mean leads over noise, and how often the answer stays, for several seeds; `found` is by run folder."""

    def lead(kind: str, words: str, run: EvaluatedRun) -> float | None:
        one = found[run.folder]
        return float(_lead(one, kind, words).mean()) if words in maps_of(one) else None

    def agreement(view: str, run: EvaluatedRun) -> float:
        return found[run.folder].content["stability"][view]["agreement"]

    leads = [
        Column(f"{words}, {title}: lead", functools.partial(lead, kind, words))
        for words in ("Attention", "CAM")
        for kind, title in KINDS.items()
    ]
    views = {"flip": "Same answer, mirrored (%)", "shift": "shifted (%)"}
    return leads + [Column(words, functools.partial(agreement, view), is_share=True) for view, words in views.items()]


def _lead(found: Faithfulness, kind: str, words: str) -> Float[np.ndarray, " faces"]:
    noise, own = (found.examples.numbers(f"{kind}:{name}")[0] for name in (NOISE, maps_of(found)[words]))
    return own - noise if kind == "insertion" else noise - own


def _paired(first: np.ndarray, second: np.ndarray, of: Faithfulness) -> PairedTest:
    return statistics.paired_macro_mean(first, second, np.zeros(len(first), int), people=of.people)


def _mean(found: Faithfulness, name: str) -> Interval:
    return bootstrap.mean_interval(found.examples.numbers(name)[0], people=found.people)
