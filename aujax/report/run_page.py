"""The page of one run: what it reached, where it looks, what it depends on, how sure it may be, what it is for."""

import pathlib
from collections.abc import Sequence

from aujax import codebook, run_files, statistics
from aujax.report import (
    charts,
    confidence,
    dependence,
    figures,
    gallery,
    groups,
    intervals,
    interventions,
    markup,
    model_card,
    people,
    provenance,
    scores,
    tables,
)
from aujax.report.evaluations import EvaluatedRun
from aujax.report.intervals import Measured
from aujax.report.markup import Section, bullets, details, figure, heading, paragraph


def content(run: EvaluatedRun, folder: pathlib.Path) -> tuple[str, list[str], list[Section]]:
    """Returns the title, the opening and the sections of the page; figures are drawn into `folder`."""
    one = intervals.measure(run)
    sections = [
        Section("summary", "Summary", _summary(one)),
        Section("expressions", "By expression", _expressions(one, folder)),
        Section("maps", "Agreement with action units", _maps(one, folder)),
        Section("averages", "Average maps", [gallery.SCALE_OF_MEANS, gallery.means([run.evaluation])]),
        Section("faces", "Faces", _faces(one)),
        Section("units", "Action units", [*action_units(run), *dependence.content(run, folder)]),
        Section("confidence", "Confidence and abstention", _confidence(one, folder)),
        Section("groups", "Groups of people", groups_of_people([one], one.label)),
        Section("training", "Training", _training(run, folder)),
        Section("card", "Model card", [bullets(model_card.lines(one))]),
        Section("provenance", "What was run", provenance_parts([run])),
    ]
    return f"Report of the run {one.name}", _opening(one), sections


def _opening(one: Measured) -> list[str]:
    metrics = one.run.metrics
    parts = [
        f'<p class="lead">{markup.inline(_lead(one))}</p>',
        *_repetition(one),
        f"<p>{protocol_mark(one.run)} {markup.inline(provenance.protocol(one.run))}</p>",
        cards(one),
        *map(markup.caution, provenance.warnings([one.run])),
    ]
    if one.attention and one.attention.value is not None:
        baselines = {tables.BASELINES[name]: value for name, value in metrics["baselines"].items() if value is not None}
        above = [name for name, value in baselines.items() if value >= one.attention.value]
        reads = f"An ATT-COS of {tables.cosine(one.attention.value)} is "
        reads += f"not above {' or '.join(above)}" if above else "above all maps that need no network"
        listed = ", ".join(f"{name} {tables.cosine(value)}" for name, value in baselines.items())
        parts.append(paragraph(f"{reads}. Maps that need no network reach: {listed}."))
    return parts


def _repetition(one: Measured) -> list[str]:
    return [paragraph(people.consequence(one.examples))] if people.repeat(one.examples.people) else []


def _lead(one: Measured) -> str:
    metrics = one.run.metrics
    cues = f"with action-unit cues (weight {metrics['au_weight']:g})" if metrics["au_weight"] else "without AU cues"
    return (
        f"`{metrics['method']}` trained {cues}, evaluated on {people.faces(one.examples.people)} from the split "
        f"`{metrics['split']}`; {metrics['num_maps']:,} of them have an action-unit (AU) map."
    )


def protocol_mark(run: EvaluatedRun) -> str:
    """Returns the protocol as a small label."""
    name = run.metrics["protocol"]
    return f'<span class="protocol {markup.attribute(name)}">protocol: {markup.inline(name)}</span>'


def cards(one: Measured) -> str:
    """Returns the main numbers, large, each with its interval and the protocol."""
    layer = one.run.evaluation.layer
    found = {
        "Accuracy (%)": (one.accuracy, tables.percent),
        "Mean-class accuracy (%)": (one.mean_class, tables.percent),
        "Macro F1 (%)": (one.macro_f1, tables.percent),
        f"ATT-COS ({layer})": (one.attention, tables.cosine),
        "CAM-COS": (one.cam, tables.cosine),
    }
    items = []
    for name, (interval, words) in found.items():
        value, low, high = interval or (None, None, None)
        ends = "" if low is None else f"95 %: {words(low)} to {words(high)}; "
        note = f"{ends}{one.label}" if value is not None else "the method or the data have none"
        items.append(f"<li>{markup.inline(name)}<b>{words(value)}</b><small>{markup.inline(note)}</small></li>")
    return f'<ul class="cards">{"".join(items)}</ul>'


def _summary(one: Measured) -> list[str]:
    caption = f"Results with 95 % intervals, beside what needs no network ({one.label})"
    return [intervals.overview(one).html(caption), paragraph(EXPLANATION)]


EXPLANATION = (
    "**How to read this.** The attention of a layer is the mean of its feature maps; **ATT-COS** is the cosine between "
    "it and the face's AU map, which marks the places where the action units of its expression lie (0: nothing in "
    "common, 1: the same up to brightness), averaged within each expression and then over the expressions that have "
    "action units. **CAM-COS** is the same for the class activation map of the true expression. Any two blobs in the "
    "middle of a picture are alike, so read every cosine against the maps that need no network. AU maps are drawn from "
    "the true label and a general table of expressions, not from what this very face shows: cosines measure how "
    "**plausible** a map is to an expert, not whether the decision depends on those places (its **faithfulness**)."
)


def _expressions(one: Measured, folder: pathlib.Path) -> list[str]:
    metrics = one.run.metrics
    counts = ", ".join(
        f"{name} {row[place]} of {sum(row)}"
        for place, (name, row) in enumerate(zip(metrics["expressions"], metrics["confusion_matrix"], strict=True))
    )
    confusion = figures.confusion(one.run.evaluation, folder / "confusion.svg")
    return [
        intervals.by_expression(one).html(f"By true expression, with 95 % intervals ({one.label})"),
        figure(confusion, f"Confusion matrix. Recognised: {counts}."),
        details("The numbers as a table", tables.confusion(one.run.evaluation).html(f"Faces ({one.label})")),
    ]


def _maps(one: Measured, folder: pathlib.Path) -> list[str]:
    evaluation = one.run.evaluation
    parts = [
        intervals.by_layer(one).html(f"Cosine with the AU map by layer, then maps that need no network ({one.label})"),
        figure(
            figures.cosines(evaluation, folder / "cosines.svg"),
            "Cosine with the AU map by expression and layer; the table below has the numbers.",
        ),
        details("The numbers as a table", tables.by_expression_and_layer(evaluation).html(f"Cosines ({one.label})")),
        heading("Beyond the cosine"),
        bullets(scores.explanation()),
    ]
    for of, words in scores.CLASSES.items():
        parts.append(scores.table([one], of).html(f"{words} ({one.label})"))
    return parts


def _faces(one: Measured) -> list[str]:
    parts = [
        paragraph(
            "The gallery shows extremes: up to twelve wrong faces with the highest probability, and right ones with "
            "the highest and the lowest. Headings: true expression, what it was taken for, probability of that. "
            "CAM and AU map are those of the true expression."
        ),
        gallery.SCALE,
    ]
    for title, content in gallery.right_and_wrong(one.run.evaluation).items():
        parts += [heading(title), content]
    chosen = gallery.fixed_sample(one.run.evaluation)
    return [
        *parts,
        heading("Not chosen by result"),
        paragraph("The first face of each expression in the fixed sample."),
        chosen,
    ]


def action_units(run: EvaluatedRun) -> list[str]:
    """Returns the codebook in words, as a table."""
    rows = []
    for expression, units in interventions.units_by_expression(run).items():
        words = ", ".join(f"AU{unit} {codebook.ACTION_UNITS[unit].lower()}" for unit in units)
        rows.append([expression, words or "none, so it has no AU map"])
    name = run.metrics["codebook"]
    if not rows:
        return [paragraph(f"Action units by expression: codebook `{name}`.")]
    return [tables.Table(["Expression", "Action units"], rows, left=2).html(f"Codebook {name}: AUs by expression")]


def _confidence(one: Measured, folder: pathlib.Path) -> list[str]:
    found = confidence.versions(one)
    reliability, coverage = confidence.draw(found, folder, about=f"{one.name}: {one.label}")
    parts = [confidence.measures(found).html(f"Calibration ({one.label})")]
    if words := confidence.missing(one.run):
        parts.append(paragraph(words))
    else:
        parts.append(paragraph("The temperature was fitted on the validation split and is judged on this one."))
    parts += [
        bullets(confidence.DEFINITIONS),
        figure(reliability, "Reliability diagram: share of right answers by probability; the table above sums it up."),
        heading("Answering only where it is sure"),
        confidence.abstention(found[-1]).html(f"Accuracy when the unsure faces are left to a person ({one.label})"),
    ]
    if certain := confidence.certainty(found[-1], 0.95):
        parts.append(paragraph(certain))
    return [*parts, figure(coverage, "Accuracy against the share of faces answered; the table above has points of it.")]


def groups_of_people(shown: Sequence[Measured], label: str) -> list[str]:
    """Returns the numbers of the groups that the attributes make, for one run or for several on the same faces."""
    attributes = groups.told_apart(shown[0])
    if not attributes:
        return [
            paragraph(
                "The data say nothing of the people beyond their expressions, so it cannot be checked whether "
                "all are served alike. RAF-DB's attribute files, or further columns of a labels.csv, would tell."
            )
        ]
    names = [name for name, large in attributes.items() if large]
    if left_out := [f"`{name}`" for name, large in attributes.items() if not large]:
        left_out = [
            paragraph(
                f"Left out: {', '.join(left_out)}. No value of {'it' if len(left_out) == 1 else 'them'} is shared by "
                f"{statistics.FEWEST} faces, so nothing can be said of groups."
            )
        ]
    if not names:
        return left_out
    note = (
        "Intervals that overlap do not prove that groups are served alike: small groups have wide intervals. "
        f"Of a group with fewer than {statistics.FEWEST} faces nothing is said but that they are {groups.TOO_FEW}."
    )
    return [
        paragraph(note),
        *(groups.by_run(shown, name).html(f"By {name}, with 95 % intervals ({label})") for name in names),
        *left_out,
    ]


def _training(run: EvaluatedRun, folder: pathlib.Path) -> list[str]:
    log = run_files.read_log(run.folder / run_files.LOG)
    if not log:
        return [paragraph("The run folder holds no log.jsonl: the weights were trained elsewhere.")]
    path = charts.loss_curves({run.name: log}, folder / "training.svg", layers={run.name: run.evaluation.layer})
    return [figure(path, "Training curves: cross-entropy, alignment loss, accuracy and attention cosine by epoch.")]


def provenance_parts(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns what was run: a table of the runs, and data, versions and command in lines."""
    table = provenance.runs_table(runs).html("The runs, and in what they differ" if len(runs) > 1 else "The run")
    return [table, bullets(provenance.lines(runs))]
