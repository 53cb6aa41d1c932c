"""Experiments: evaluated runs put together as the paper's tables and figures want them.

A run folder, or a folder of runs such as a sweep's, may be given. Runs that differ in their seed alone are one
training; a training with action-unit (AU) cues is set against the one without that is equal otherwise.
"""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aujax.report import evaluations, published
from aujax.report.evaluations import EvaluatedRun, Path

# The options of alignment: in what a training with AU cues may differ from the one without.
ALIGNMENT = frozenset({"au_weight", "au_layers", "au_layer_reduction"})


class Training(NamedTuple):
    """What was trained in the same way, once for each seed; `words` tell it from others of the same method."""

    runs: Sequence[EvaluatedRun]
    words: str = ""

    @property
    def first(self) -> EvaluatedRun:
        """The run that stands for all seeds."""
        return self.runs[0]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of that run: what it was, and for one seed also how it came out."""
        return self.first.metrics

    @property
    def method(self) -> str:
        """The paper's name of the method."""
        return self.metrics["method"].partition("/")[0]

    @property
    def label(self) -> str:
        """The method, and what tells the training from others."""
        details = [words for words in (self.first.config.get("backbone"), self.words) if words]
        return self.metrics["method"] + (f" ({', '.join(details)})" if details else "")

    @property
    def aligned(self) -> bool:
        """Whether it had AU cues."""
        return self.metrics["au_weight"] > 0

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that alignment pulled on; () without AU cues."""
        return tuple(self.first.config.get("au_layers") or [self.first.evaluation.layer]) if self.aligned else ()


class DataSet(NamedTuple):
    """The runs that were evaluated on the same faces, and the name of those."""

    name: str
    runs: list[EvaluatedRun]

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics of the run that stands for all where the faces matter, and not the network."""
        return self.runs[0].metrics

    @property
    def is_papers(self) -> bool:
        """Whether the paper has results for these faces."""
        return self.name in published.RESULTS and self.metrics["split"] == "test"

    def trainings(self, *, shown: Collection[str] = ()) -> list[Training]:
        """Returns the trainings in the paper's order of methods, those without AU cues first.

        Their words leave out the options in `shown`, which a table has a column for.
        """
        order = {name: place for place, name in enumerate(published.METHODS)}
        found = [Training(runs) for runs in evaluations.replicates(self.runs)]
        found.sort(
            key=lambda one: (
                *(order.get(one.method, len(order)), one.metrics["method"], one.metrics["protocol"]),
                *(one.metrics["au_weight"], len(one.layers), one.layers),
            )
        )
        hidden = {evaluations.SEED, "method", "protocol", "backbone", *shown}
        return [one._replace(words=_distinction(one, found, hidden)) for one in found]

    def pairs(self) -> list[tuple[EvaluatedRun, EvaluatedRun]]:
        """Returns (without AU cues, with AU cues) for the runs of one seed that are equal otherwise."""
        found = self.trainings()
        return evaluations.equal_but_for([run for training in found for run in training.runs], ALIGNMENT)


class Experiments(NamedTuple):
    """Runs by evaluated data set, RAF-DB and AffectNet first, and folders whose evaluation is missing or damaged."""

    data_sets: list[DataSet]
    left_out: list[pathlib.Path]


def open_all(folders: Sequence[Path], split: str) -> Experiments:
    """Returns the runs, those below a folder of runs too, and leaves out those of which nothing can be read."""
    by_content: dict[str, list[pathlib.Path]] = {}
    evaluated, left_out = evaluations.usable(folders, split)
    for folder in evaluated:
        (run,) = evaluations.open_runs([folder], split)
        by_content.setdefault(run.metrics["data"]["fingerprint"], []).append(folder)
    # Opened together, they have names that tell them apart.
    runs = {content: evaluations.open_runs(these, split) for content, these in by_content.items()}
    names = {content: published.data_set(these[0].metrics["data"]) for content, these in runs.items()}
    several = [name for name in names.values() if list(names.values()).count(name) > 1]
    found = [
        DataSet(f"{names[content]} {content[:6]}" if names[content] in several else names[content], these)
        for content, these in runs.items()
    ]
    place = {name: number for number, name in enumerate(published.RESULTS)}
    return Experiments(sorted(found, key=lambda each: place.get(each.name, len(place))), left_out)


def _distinction(training: Training, trainings: Sequence[Training], hidden: Collection[str]) -> str:
    """Returns in which options a training differs from the others of its method, in words."""
    same = (training.method, training.aligned, training.metrics["protocol"])
    alike = [one for one in trainings if (one.method, one.aligned, one.metrics["protocol"]) == same]
    place = next(place for place, one in enumerate(alike) if one.first is training.first)
    differing = evaluations.differences([one.first for one in alike])
    own = {name: values[place] for name, values in differing.items() if name not in hidden}
    return ", ".join(f"{name}={_value(value)}" for name, value in own.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "its own"
    return f"{value:g}" if isinstance(value, float) else str(value)
