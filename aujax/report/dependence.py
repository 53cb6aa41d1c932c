"""What a network's decisions depend on, as a part of a page: interventions, removals and sanity tests of one run."""

import pathlib

from aujax import codebook
from aujax.report import curves, drops, interventions
from aujax.report.evaluations import EvaluatedRun
from aujax.report.interventions import Faithfulness
from aujax.report.markup import bullets, caution, details, figure, heading, paragraph


def content(run: EvaluatedRun, folder: pathlib.Path) -> list[str]:
    """Returns the part in HTML, or how to measure what it needs; figures are drawn into `folder`."""
    found, title = interventions.read(run), heading("What the decisions depend on")
    if found is None:
        return [title, paragraph(interventions.missing(run))]
    label = run.label
    return [
        title,
        paragraph(
            f"{interventions.how(found)} What counts is by how much the probability of the predicted expression "
            f"drops. {interventions.top_unit(found)}"
        ),
        interventions.regions(found).html(
            f"Mean drop per predicted expression, averaged, with 95 % intervals ({label})"
        ),
        *([paragraph(words)] if (words := interventions.behind(found)) else []),
        *([caution(words)] if (words := interventions.few(found)) else []),
        bullets(interventions.definitions(run)),
        *_units(found, folder, label),
        *_removals(found, folder, label),
        *_sanity(found, label),
    ]


def _units(found: Faithfulness, folder: pathlib.Path, label: str) -> list[str]:
    book = interventions.units_by_expression(found.run)
    names = {unit: codebook.ACTION_UNITS[unit] for unit in found.content["aus"]}
    path = drops.draw(
        found.content["interventions"]["drop"], names, book, folder / "interventions.svg", about=_about(found)
    )
    table = interventions.by_unit(found).html(f"Mean drop in points; •: the AU belongs to the expression ({label})")
    return [
        heading("By action unit"),
        figure(
            path, "Drop of the predicted probability by action unit and expression; the table below holds the numbers."
        ),
        details("The numbers as a table", table),
    ]


def _removals(found: Faithfulness, folder: pathlib.Path, label: str) -> list[str]:
    content = found.content["curves"]
    names = {name: interventions.map_name(name) for name in content["deletion"]}
    return [
        heading("Deletion, insertion, ROAD"),
        paragraph(
            "Parts of the picture are hidden, or all but them, in the order in which a map highlights them, at "
            f"{len(content['fractions'])} shares of the picture. A map that shows what the network uses makes the "
            "probability fall faster, or rise faster, than noise, which is a random order. Besides that the attention "
            "of the reported layer and, where the method has one, the CAM of the predicted expression are followed. "
            f"Deletion and insertion fill with {found.content['filling']}; ROAD deletes, and fills from the "
            "neighbourhood with a little noise."
        ),
        figure(
            curves.removals(content, names, folder / "removals.svg", about=_about(found)),
            "Probability of the predicted expression by the share of the picture; the areas are in the table below.",
        ),
        interventions.areas(found).html(f"Areas under the curves ({label})"),
    ]


def _about(found: Faithfulness) -> str:
    return f"{found.run.name}: {found.run.label}; {interventions.probabilities(found)}"


def _sanity(found: Faithfulness, label: str) -> list[str]:
    return [
        heading("Sanity"),
        paragraph(
            "A map that is made by what the network learned changes when its weights are drawn anew. They are, from "
            "the head downwards: in each row all stages above are new, too. A layer's attention cannot change before "
            "the stages that make it do, so a new head leaves all attention as it was; what has to fall is the CAM, "
            "and each attention from its own stage on."
        ),
        interventions.randomisation(found).html(
            f"Similarity (correlation) of maps before and after stages are drawn anew ({label})"
        ),
        interventions.stability(found).html(f"Similarity of maps when the picture changes a little ({label})"),
    ]
