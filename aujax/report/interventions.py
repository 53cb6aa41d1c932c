"""What a network's decisions depend on: faithfulness.json and faithfulness.csv of one evaluation, in tables and words.

An intervention hides one action unit's (AU's) region and measures by how much the probability of the predicted
expression drops. `drop` is that, from -1 to 1; tables show it in percentage points.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from aujax import bootstrap, codebook, run_files, statistics
from aujax.bootstrap import People
from aujax.errors import UserError
from aujax.report import intervals, people, scores, tables
from aujax.report.evaluations import EvaluatedRun
from aujax.report.examples import Examples
from aujax.report.tables import NONE, Table
from aujax.statistics import Interval

REGIONS = {
    "in_codebook": "Own AUs",
    "outside": "Other AUs",
    "control": "Control",
}
_CONTENT = (
    *("num_examples", "filling", "temperature", "codebook", "aus"),
    *("interventions", "curves", "randomisation", "stability"),
)
FEWEST_PEOPLE = 5  # with fewer of an expression, its mean drop is that of a few pictures


class Faithfulness(NamedTuple):
    """One evaluation with interventions: the averages, one row per face, and who is on each."""

    run: EvaluatedRun
    content: Mapping[str, Any]
    examples: Examples
    people: People


def read(run: EvaluatedRun) -> Faithfulness | None:
    """Returns what `eval.py --faithfulness` wrote; None where it was not run, or for other weights or faces."""
    content = _read(run)
    if content is None or not _is_of(content, run) or _data(content) != _data(run.metrics):
        return None
    examples = Examples(run.evaluation.directory / "faithfulness.csv", run.metrics["expressions"])
    evaluated = run.evaluation.examples()
    known = dict(zip(evaluated.faces(), evaluated.people, strict=True))
    if not known.keys() >= set(examples.faces()):
        return None
    return Faithfulness(run, content, examples, np.array([known[face] for face in examples.faces()]))


def missing(run: EvaluatedRun) -> str:
    """Returns why `read` gives nothing, with the command that changes it."""
    content = _read(run)
    remedy = f"To measure it: `{command(run)}`, then write this page again."
    if content is None:
        return f"Not measured for **{run.name}**. {remedy}"
    if _is_of(content, run):
        return f"Left out for **{run.name}**: it was measured on other faces than these. {remedy}"
    return (
        f"Left out for **{run.name}**: it was measured with other weights than the rest of this page, "
        f"those of step {content.get('checkpoint', {}).get('step', 'unknown')} instead of step "
        f"{run.metrics['checkpoint']['step']}. {remedy}"
    )


def _read(run: EvaluatedRun) -> Mapping[str, Any] | None:
    path = run.evaluation.directory / "faithfulness.json"
    if not path.is_file():
        return None
    content = run_files.read_json(path, remedy=f"run {command(run)}")
    if lacking := [name for name in _CONTENT if name not in content]:
        raise UserError(f"{path}: expected what eval.py writes, but it lacks {', '.join(lacking)}; run {command(run)}")
    return content


def _is_of(content: Mapping[str, Any], run: EvaluatedRun) -> bool:
    # The same step is the same weights, be they called best or latest.
    return content.get("checkpoint", {}).get("step") == run.metrics["checkpoint"]["step"]


def _data(content: Mapping[str, Any]) -> str | None:
    return content.get("data", {}).get("fingerprint")


def command(run: EvaluatedRun) -> str:
    """Returns the command that measures what this page needs."""
    return run.command(run.metrics["split"], "--faithfulness")


def region_interval(found: Faithfulness, name: str) -> Interval | None:
    """Returns the drop for one of `REGIONS`, per predicted expression and then over expressions; None: no face."""
    return _by_predicted(found, name, complete(found.examples))


def top_intervals(found: Faithfulness) -> list[Interval | None]:
    """Returns how often the AU that lowers most is an own one, and one drawn at random; None: no face has own AUs."""
    rows, names = found.examples, ("top_in_codebook", "chance_in_codebook")
    return [_by_predicted(found, name, rows.numbers(name)[1]) for name in names]


def _by_predicted(found: Faithfulness, name: str, where: Bool[np.ndarray, " faces"]) -> Interval | None:
    if not where.any():
        return None
    values, _ = found.examples.numbers(name)
    return statistics.macro_mean_interval(values, found.examples.predicted, where=where, people=found.people)


def complete(rows: Examples) -> Bool[np.ndarray, " faces"]:
    """Returns the faces that have all of `REGIONS`, so that these are compared on the same ones."""
    return np.logical_and.reduce([rows.numbers(name)[1] for name in REGIONS])


def how(found: Faithfulness) -> str:
    """Returns what was done to how many faces, in sentences: those that have all of `REGIONS`, and why not others."""
    rows, where = found.examples, complete(found.examples)
    drawn = np.logical_or.reduce([rows.numbers(f"AU{unit}")[1] for unit in found.content["aus"]])
    without = int((~drawn).sum())
    others = [f"{without:,} without landmarks"] if without else []
    if left := int((drawn & ~where).sum()):
        others.append(f"{left:,} without own AUs, other AUs or a control")
    rest = f" Of the {len(rows):,} drawn faces, {' and '.join(others)} take no part." if others else ""
    return (
        f"On {people.faces(found.people[where])}, one action unit's region at a time was hidden (filling: "
        f"{found.content['filling']}; {probabilities(found)}).{rest}"
    )


def probabilities(found: Faithfulness) -> str:
    """Returns which probabilities were asked for, in words."""
    temperature = found.content["temperature"]
    return (
        "probabilities as the network gives them"
        if temperature == 1
        else f"probabilities at temperature {temperature:.2f}"
    )


def behind(found: Faithfulness) -> str:
    """Returns how many faces and people the drops are made of, per predicted expression, in a sentence; "" for none."""
    counts = _counts(found)
    listed = "; ".join(
        f"{name} {faces}" + (f" of {count} people" if count < faces else "") for name, (faces, count) in counts.items()
    )
    return f"Faces behind the drops, by predicted expression: {listed}." if counts else ""


def few(found: Faithfulness) -> str:
    """Returns which predicted expressions have too few people behind their drops, in a sentence; "" where none has."""
    names = [name for name, (_, count) in _counts(found).items() if count < FEWEST_PEOPLE]
    if not names:
        return ""
    return (
        f"{found.run.name}: fewer than {FEWEST_PEOPLE} people are behind the drops of {', '.join(names)}, which count "
        "as much in the averages as every other expression: do not read them closely."
    )


def _counts(found: Faithfulness) -> dict[str, tuple[int, int]]:
    """The faces and the people behind the drops, by predicted expression."""
    where, counts = complete(found.examples), {}
    for number, name in enumerate(found.examples.expressions):
        here = where & (found.examples.predicted == number)
        if here.any():
            counts[name] = int(here.sum()), people.count(found.people[here])
    return counts


def regions(found: Faithfulness) -> Table:
    """Returns by how much the probability drops, for AUs that belong to the predicted expression and for others."""
    rows = [[words, intervals.points(region_interval(found, name))] for name, words in REGIONS.items()]
    return Table(["What is hidden", "Drop of the probability (points)"], rows)


def top_unit(found: Faithfulness) -> str:
    """Returns how often the AU that matters most belongs to the predicted expression, in a sentence."""
    share, chance = top_intervals(found)
    if share is None or chance is None:
        return "No face was predicted as an expression that has action units."
    return (
        f"Averaged over expressions, on {intervals.percent(share)} % of the faces the AU that lowers it most is one "
        "that the codebook lists for the predicted expression; one drawn at random would be on "
        f"{tables.percent(chance.value)} %."
    )


def by_unit(found: Faithfulness) -> Table:
    """Returns the mean drop for every AU (rows) on the faces predicted as each expression (columns)."""
    book = units_by_expression(found.run)
    drops = found.content["interventions"]["drop"]
    expressions = [name for name in found.examples.expressions if name in drops]
    rows = []
    for unit in found.content["aus"]:
        cells = [drops[name].get(f"AU{unit}") for name in expressions]
        mine = [unit in book.get(name, ()) for name in expressions]
        words = [_points(cell) + (" •" if own else "") for cell, own in zip(cells, mine, strict=True)]
        rows.append([f"AU{unit} {codebook.ACTION_UNITS[unit].lower()}", *words])
    return Table(["Action unit hidden", *expressions], rows)


def areas(found: Faithfulness) -> Table:
    """Returns the areas under the deletion, insertion and ROAD curves, a row per map."""
    curves = found.content["curves"]
    kinds = {"deletion": "Deletion (lower is better)", "insertion": "Insertion (higher)", "road": "ROAD (lower)"}

    rows = [
        [map_name(name), *(intervals.cosine(_mean(found, f"{kind}:{name}")) for kind in kinds)]
        for name in curves["deletion"]
    ]
    return Table(["Places ordered by", *kinds.values()], rows)


def randomisation(found: Faithfulness) -> Table:
    """Returns how much maps still look alike when the weights are drawn anew stage by stage."""
    return _similarities(found, "randomisation", "Drawn anew, down to")


def stability(found: Faithfulness) -> Table:
    """Returns how alike maps and predictions are when the picture is mirrored or moved by a few pixels."""
    return _similarities(found, "stability", "Picture")


def map_name(name: str) -> str:
    """Returns the name of a map to show.

    >>> map_name("attention/layer5"), map_name("random")
    ('Attention, layer5', 'random order')
    """
    return "random order" if name == "random" else scores.map_name(name)


def units_by_expression(run: EvaluatedRun) -> Mapping[str, tuple[int, ...]]:
    """Returns the codebook's FACS numbers of each expression; {} for a codebook that is a file somewhere else."""
    name = run.metrics["codebook"]
    if name in codebook.CODEBOOKS:
        return codebook.CODEBOOKS[name].aus
    recorded = run.manifest.get("codebook", {})
    return {each: tuple(units) for each, units in recorded.get("aus", {}).items()}


def definitions(run: EvaluatedRun) -> list[str]:
    """Returns what the numbers of the interventions are, a line each."""
    without = [name for name, units in units_by_expression(run).items() if not units]
    blank = f" Faces predicted as {' or '.join(without)} have no own AUs and take no part." if without else ""
    return [
        "**Drop**: the probability of the predicted expression on the whole picture, minus that with a region hidden.",
        "**Own AUs** are those that the codebook lists for the predicted expression; **other AUs** are all others.",
        "**Control**: the region of one of the own AUs, shape and size kept, moved within the face to where it "
        "covers least of the expression's AU map. A drop speaks for AUs as far as it exceeds the control's.",
        f"**Means** are taken over the faces predicted as each expression, and then over expressions.{blank}",
        *([words] if (words := _alike(run)) else []),
    ]


def _alike(run: EvaluatedRun) -> str:
    """Returns which AUs lie in the same region, in a sentence; "" where none do."""
    book = codebook.CODEBOOKS.get(run.metrics["codebook"])
    groups = book.same_region(book.all_aus) if book else ()
    shared = [" = ".join(f"AU{unit}" for unit in group) for group in groups if len(group) > 1]
    if not shared:
        return ""
    return (
        f"**Regions**: AUs of the same region ({', '.join(shared)}) cannot be told apart: they are hidden together, "
        "have the same drop, and count once, as own if one of them is."
    )


def _similarities(found: Faithfulness, kind: str, head: str) -> Table:
    names = list(dict.fromkeys(name for row in found.content[kind].values() for name in row))
    heads = ["Same predictions (%)" if name == "agreement" else map_name(name) for name in names]
    rows = []
    for change in found.content[kind]:
        means = {name: _mean(found, f"{kind}:{change}:{name}") for name in names}
        words = [(intervals.percent if name == "agreement" else intervals.cosine)(means[name]) for name in names]
        rows.append([{"flip": "mirrored", "shift": "shifted"}.get(change, change), *words])
    return Table([head, *heads], rows)


def _mean(found: Faithfulness, name: str) -> Interval:
    return bootstrap.mean_interval(found.examples.numbers(name)[0], people=found.people)


def _points(drop: float | None) -> str:
    return NONE if drop is None else tables.difference(0.0, drop, decimals=1, scale=100)
