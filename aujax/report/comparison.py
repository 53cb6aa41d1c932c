"""The page that compares runs on the same faces: numbers with intervals, paired tests, faces side by side.

Runs that were trained with and without action-unit (AU) cues, and are otherwise equal, are set against each other;
whatever else differs between them is said.
"""

import pathlib
from collections.abc import Mapping, Sequence

from aujax import run_files
from aujax.report import (
    changes,
    charts,
    confidence,
    evaluations,
    figures,
    gallery,
    highlights,
    intervals,
    interventions,
    markup,
    people,
    provenance,
    reliance,
    run_page,
    scores,
    seeds,
    tables,
)
from aujax.report.changes import Change
from aujax.report.evaluations import EvaluatedRun
from aujax.report.intervals import Measured
from aujax.report.interventions import Faithfulness
from aujax.report.markup import Section, bullets, figure, heading, paragraph


def content(runs: Sequence[EvaluatedRun], folder: pathlib.Path) -> tuple[str, list[str], list[Section]]:
    """Returns the title, the opening and the sections of the page; figures are drawn into `folder`."""
    shown = [intervals.measure(run) for run in runs]
    by_folder = {one.run.folder: one for one in shown}
    pairs = [(by_folder[a.folder], by_folder[b.folder]) for a, b in evaluations.pairs(runs)]
    found = [changes.measure(*pair) for pair in pairs]
    measured = {run.folder: one for run in runs if (one := interventions.read(run))}
    sections = [
        Section("results", "Results", _results(shown, found)),
        Section("faces", "Faces side by side", _faces(runs)),
        Section("reliance", "Do the networks rely on the codebook's action units?", _reliance(runs, measured)),
        Section("highlights", "Do highlights matter, and do they stay?", _highlights(runs, measured)),
        Section("expressions", "By expression", _expressions(shown, folder)),
        Section("scores", "Beyond the cosine", _scores(shown)),
        Section("confidence", "Confidence and abstention", _confidence(shown)),
        Section("groups", "Groups of people", run_page.groups_of_people(shown, _label(runs))),
        Section("averages", "Average maps", [gallery.SCALE_OF_MEANS, gallery.means([run.evaluation for run in runs])]),
        Section("training", "Training", _training(runs, folder)),
        Section("provenance", "What was run", run_page.provenance_parts(runs)),
    ]
    return f"Comparison: {', '.join(one.name for one in shown)}", _opening(shown, found), sections


def _opening(shown: Sequence[Measured], found: Sequence[Change]) -> list[str]:
    runs, faces = [one.run for one in shown], shown[0].examples
    metrics = runs[0].metrics
    lead = (
        f"{len(runs)} trained classifiers, evaluated on the same {people.faces(faces.people)} from the split "
        f"`{metrics['split']}`; {metrics['num_maps']:,} of them have an action-unit (AU) map."
    )
    protocols = {run.metrics["protocol"]: run for run in runs}
    marks = [
        f"<p>{run_page.protocol_mark(run)} {markup.inline(provenance.protocol(run))}</p>" for run in protocols.values()
    ]
    return [
        f'<p class="lead">{markup.inline(lead)}</p>',
        *([paragraph(people.consequence(faces))] if people.repeat(faces.people) else []),
        *marks,
        *map(markup.caution, provenance.warnings(runs)),
        *(paragraph(changes.sentence(change)) for change in found),
    ]


def _results(shown: Sequence[Measured], found: Sequence[Change]) -> list[str]:
    label = _label([one.run for one in shown])
    parts = [intervals.summary(shown).html(f"Results with 95 % intervals, then what needs no network ({label})")]
    if found:
        by_person = ", a person at a time" if people.repeat(shown[0].examples.people) else ""
        tests = (
            "The same faces were shown to both runs, so the tests are paired: McNemar's exact test for accuracy"
            f"{by_person}, and a bootstrap for the other measures. They speak of these two trainings: another seed "
            "would differ too. p is how often a difference this large comes by chance alone; the last column allows "
            "for the number of rows (Holm)."
        )
        table = changes.table(found).html(f"Second run minus first ({label})")
        parts += [heading("Paired tests"), table, paragraph(tests)]
    runs = [one.run for one in shown]
    if over_seeds := seeds.table(runs, seeds.MAIN):
        trivial = [[row[0], *row[-5:], ""] for row in tables.baseline_rows([run.evaluation for run in runs])]
        over_seeds = over_seeds._replace(rows=over_seeds.rows + trivial)
        parts += [heading("Several seeds"), over_seeds.html(_of_seeds(label)), paragraph(seeds.HOW)]
    return [*parts, paragraph(run_page.EXPLANATION)]


def _faces(runs: Sequence[EvaluatedRun]) -> list[str]:
    drawn = gallery.side_by_side([run.evaluation for run in runs])
    if not drawn:
        return [paragraph("The runs were evaluated with different samples of faces: none can be shown side by side.")]
    words = "The first face of each expression in the fixed sample, not chosen by result, under its true expression."
    return [paragraph(words), gallery.SCALE, drawn]


def _reliance(runs: Sequence[EvaluatedRun], measured: Mapping[pathlib.Path, Faithfulness]) -> list[str]:
    lacking = [interventions.missing(run) for run in runs if run.folder not in measured]
    parts = [
        paragraph(
            "Attention that agrees with action units could be decoration. So one action unit's region at a time is "
            "hidden, and what counts is by how much the probability of the predicted expression drops."
        )
    ]
    pairs = _measured_pairs(runs, measured)
    parts += [paragraph(reliance.answer(*pair)) for pair in pairs]
    parts += map(paragraph, reliance.over_seeds(pairs))
    if measured:
        caption = f"Mean drop by what is hidden, with 95 % intervals ({_label(runs)})"
        parts.append(reliance.table(list(measured.values())).html(caption))
        parts += _over_seeds([one.run for one in measured.values()], reliance.columns(measured), _label(runs))
        words = {one.run.name: interventions.behind(one) for one in measured.values()}
        parts += [paragraph(f"**{name}**: {said}") for name, said in words.items() if said]
        parts += [markup.caution(said) for one in measured.values() if (said := interventions.few(one))]
        parts.append(bullets([*interventions.definitions(runs[0]), *reliance.DEFINITIONS]))
    return [*parts, *map(paragraph, lacking)]


def _highlights(runs: Sequence[EvaluatedRun], measured: Mapping[pathlib.Path, Faithfulness]) -> list[str]:
    if not measured:
        return [paragraph("Not measured for any of the runs; the part above names the commands.")]
    label, found = _label(runs), list(measured.values())
    parts = [
        highlights.leads(found).html(f"Lead over noise, with 95 % intervals ({label})"),
        bullets([highlights.DEFINITION]),
    ]
    if pairs := [pair for pair in _measured_pairs(runs, measured) if not reliance.incomparable(*pair)]:
        parts.append(highlights.differences(pairs).html(f"Second run minus first, paired ({label})"))
    return [
        *parts,
        highlights.steadiness(found).html(
            f"Same answers, and correlation of maps, after the picture or the network changed ({label})"
        ),
        *_over_seeds([one.run for one in found], highlights.columns(measured), label),
    ]


def _over_seeds(runs: Sequence[EvaluatedRun], columns: Sequence[seeds.Column], label: str) -> list[str]:
    found = seeds.table(runs, columns)
    return [found.html(_of_seeds(label))] if found else []


def _of_seeds(label: str) -> str:
    return f"Trainings that differ in their seed alone ({label})"


def _measured_pairs(
    runs: Sequence[EvaluatedRun], measured: Mapping[pathlib.Path, Faithfulness]
) -> list[tuple[Faithfulness, Faithfulness]]:
    found = ((measured.get(a.folder), measured.get(b.folder)) for a, b in evaluations.pairs(runs))
    return [(before, after) for before, after in found if before and after]


def _expressions(shown: Sequence[Measured], folder: pathlib.Path) -> list[str]:
    runs = [one.run for one in shown]
    table = intervals.by_expression_and_run(shown)
    parts = [table.html(f"By true expression, with 95 % intervals ({_label(runs)})"), *run_page.action_units(runs[0])]
    for one in (run.evaluation for run in runs):
        name = one.name.replace("/", "-")
        for kind, draw, numbers in (
            ("Confusion matrix", figures.confusion, tables.confusion),
            ("Cosines by layer", figures.cosines, tables.by_expression_and_layer),
        ):
            path = draw(one, folder / f"{name}_{kind.split()[0].lower()}.svg")
            parts.append(figure(path, f"{kind} of {one.name}; the table below has the numbers."))
            parts.append(
                markup.details("The numbers as a table", numbers(one).html(f"{kind} of {one.name} ({_label(runs)})"))
            )
    return parts


def _scores(shown: Sequence[Measured]) -> list[str]:
    parts, label = [bullets(scores.explanation())], _label([one.run for one in shown])
    for of, words in scores.CLASSES.items():
        parts.append(scores.table(shown, of).html(f"{words} ({label})"))
        parts += _over_seeds([one.run for one in shown], scores.columns(of), label)
    return parts


def _confidence(shown: Sequence[Measured]) -> list[str]:
    label = _label([one.run for one in shown])
    lacking = {one.name: confidence.missing(one.run) for one in shown}
    return [
        confidence.measures_by_run(shown).html(f"Calibration ({label})"),
        bullets(confidence.DEFINITIONS),
        confidence.abstention_by_run(shown).html(f"Accuracy when the unsure faces are left to a person ({label})"),
        *(paragraph(f"**{name}**: {words}") for name, words in lacking.items() if words),
    ]


def _training(runs: Sequence[EvaluatedRun], folder: pathlib.Path) -> list[str]:
    logs = {run.name: log for run in runs if (log := run_files.read_log(run.folder / run_files.LOG))}
    if not logs:
        return [paragraph("No run folder holds a log.jsonl: the weights were trained elsewhere.")]
    layers = {run.name: run.evaluation.layer for run in runs}
    path = charts.loss_curves(logs, folder / "training.svg", layers=layers)
    return [figure(path, "Training curves: cross-entropy, alignment loss, accuracy and attention cosine by epoch.")]


def _label(runs: Sequence[EvaluatedRun]) -> str:
    protocols = " and ".join(dict.fromkeys(run.metrics["protocol"] for run in runs))
    return f"split {runs[0].metrics['split']}, protocol {protocols}"
