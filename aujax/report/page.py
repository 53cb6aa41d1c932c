"""`aujax report page`: one HTML file about a run, or about several on the same faces.

`SECTIONS` are the parts of a page: each function selects the variables of one template from runs and their comparison.
A page about one run is the comparison of a list of one. No number is computed here: they are read from the summaries of
the runs and from the tables of `results.compare`. All texts are in the templates; those that captions or figures need,
too, are in templates/sentences.txt.
"""

import dataclasses
import datetime
import pathlib
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from aujax import __version__, codebook, files
from aujax.report import faces, html, plots
from aujax.report.tables import (
    NONE,
    Table,
    columns_of,
    cosine_columns,
    expression_table,
    grid,
    heading,
    idea_table,
    map_title,
    option,
    p_value,
    results_table,
    with_interval,
)
from aujax.results import calibration, compare, schema, statistics
from aujax.results.compare import Comparison
from aujax.results.registry import (
    ATTENTION,
    BASELINE_MAPS,
    BASELINE_ORDERINGS,
    CALIBRATED,
    CAM,
    HEADLINE,
    METRICS,
    UNCALIBRATED,
    Metric,
    by_topic,
)
from aujax.results.schema import EvaluatedRun, ScoreKey
from aujax.results.summary import MIN_GROUP

NAME = "report.html"
TOO_FEW = "too few"


def opening(comparison: Comparison) -> dict[str, Any]:
    """Returns the variables of the opening of a page, which every section sees, too."""
    runs = comparison.runs
    alone = len(runs) == 1
    names = ", ".join(run.name for run in runs)
    selected = " and ".join(dict.fromkeys(run.metadata["model_selection"] for run in runs))
    faces_behind, subjects = runs[0].tables.count("accuracy")
    return {
        "title": f"Evaluation of {names}" if alone else f"Comparison: {names}",
        "comparison": comparison,
        "runs": runs,
        "run": runs[0],
        "metadata": runs[0].metadata,
        "alone": alone,
        "label": f"{runs[0].split} split, checkpoint selected on {selected}",
        "subjects_repeat": subjects < faces_behind,
        "headline": [METRICS[key] for key in HEADLINE],
        "idea": idea_table(comparison),
    }


def face_images(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns the faces of the fixed sample with their maps and, of one run, those selected by result."""
    runs = comparison.runs
    return {"cards": faces.side_by_side(runs), "gallery": faces.gallery(runs[0]) if len(runs) == 1 else {}}


def results(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns the main numbers, their paired tests and means over seeds."""
    return {
        "results": results_table(comparison.runs),
        "tests": test_table(comparison, "headline"),
        "seeds": seed_table(comparison, [ScoreKey(key) for key in HEADLINE]),
        "metrics": by_topic("classification") + by_topic("agreement"),
    }


def test_table(comparison: Comparison, family: str) -> Table | None:
    """Returns the paired tests of a family; None if there are none."""
    rows = []
    for test in schema.select(comparison.tests, family=family).to_dict("records"):
        metric = METRICS[test["metric"]]
        if metric.unit == "percent":  # a difference of shares is in percentage points
            metric = dataclasses.replace(metric, unit="points")
        rows.append(
            [
                f"{test['before']} → {test['after']}",
                (f"{map_title(test['map'])}: " if test["map"] else "") + heading(metric),
                with_interval(schema.interval_of(test), metric.unit, signed=True),
                str(test["higher"]),
                str(test["lower"]),
                p_value(test["p_value"]),
                p_value(test["p_corrected"]),
            ]
        )
    header = ["Runs", "Measure", "Difference", "Faces better", "Faces worse", "p", "p, corrected"]
    return Table(header, rows, 2) if rows else None


def seed_table(comparison: Comparison, keys: Sequence[ScoreKey]) -> Table | None:
    """Returns means over seeds of every setting, and of their differences; None without several seeds."""
    titles = {
        run.name: f"{run.metadata['method']}, AU weight {run.metadata['au_weight']:g} ({run.name}, …)"
        for run in comparison.runs
    }
    rows = []
    for (name, minus), group in comparison.seeds.groupby(["setting", "minus"], sort=False):
        known = group.set_index(list(ScoreKey._fields))
        cells = []
        for key in keys:
            cells.append(NONE)
            if key in known.index:
                row = known.loc[key]
                deviation = None if minus or pd.isna(row["deviation"]) else row["deviation"]
                interval, unit = schema.interval_of(row), METRICS[key.metric].unit
                cells[-1] = with_interval(interval, unit, signed=bool(minus), deviation=deviation)
        title = f"{titles[name]} − {titles[minus]}" if minus else titles[name]
        rows.append([title, *cells, str(group["seeds"].max())])
    header = [(f"{map_title(key.map)}: " if key.map else "") + heading(METRICS[key.metric]) for key in keys]
    return Table(["Setting", *header, "Seeds"], rows) if rows else None


def reliance(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns by how much the probability drops when action units are occluded."""
    runs = [run for run in comparison.runs if run.faithfulness]
    # Active AUs are known for few data sets.
    measured = {key for run in runs for key in run.faithfulness.summary["metric"]}
    normalised, raw = _by_normalisation(
        [metric for metric in by_topic("reliance") if not metric.condition and metric.key in measured]
    )
    book = target_aus(comparison.runs[0])
    drawn = codebook.CODEBOOKS.get(comparison.runs[0].metadata["codebook"])
    same_regions = [aus for aus in drawn.same_region(drawn.all_aus) if len(aus) > 1] if drawn else []
    data: dict[str, Any] = {
        "measured": runs,
        "normalised": grid(runs, columns_of(normalised)),
        "regions": grid(runs, columns_of(raw)),
        "metrics": [METRICS["probability_drop"], METRICS["full_drop"], *raw],
        "without_targets": [name for name, aus in book.items() if not aus],
        "same_region": ", ".join(" = ".join(f"AU{au}" for au in aus) for aus in same_regions),
        "tests": test_table(comparison, "reliance"),
        "seeds": seed_table(comparison, [ScoreKey(metric.key, target=metric.targets[0]) for metric in normalised]),
        "chart": None,
    }
    if len(comparison.runs) == 1 and runs:
        (run,) = runs
        data["chart"] = plots.probability_drops(run, book, figures / "probability_drops.svg")
        aus = run.faithfulness.metadata["aus"]
        columns = {name: plots.drop_of(name) for name in run.expressions}
        labels = {f"AU{au}": f"AU{au} {codebook.ACTION_UNITS[au].lower()}" for au in aus}
        data["by_au"] = grid(
            runs, columns, first="Occluded action unit", by="condition", labels=labels, intervals=False, missing=NONE
        )
        for au, row in zip(aus, data["by_au"].rows, strict=True):
            for column, name in enumerate(run.expressions, start=1):
                if au in book.get(name, ()):
                    row[column] += " •"
    return data


def _by_normalisation(metrics: Sequence[Metric]) -> tuple[list[Metric], list[Metric]]:
    """Returns the metrics that are normalised, and the others."""
    return [metric for metric in metrics if metric.normalised], [metric for metric in metrics if not metric.normalised]


def target_aus(run: EvaluatedRun) -> Mapping[str, Sequence[int]]:
    """Returns the codebook's FACS numbers of each expression; {} if the codebook was a file that is not stored."""
    name = run.metadata["codebook"]
    if name in codebook.CODEBOOKS:
        return codebook.CODEBOOKS[name].aus
    return run.manifest.get("codebook", {}).get("aus", {})


def attribution(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns deletion, insertion and ROAD of the maps, and the sanity checks."""
    runs = [run for run in comparison.runs if run.faithfulness]
    if not runs:
        return {"measured": runs}
    perturbation = [metric for metric in by_topic("perturbation") if not metric.condition]
    areas, raw_areas = _by_normalisation([metric for metric in perturbation if metric.chance is None])
    gains, raw_gains = _by_normalisation([metric for metric in perturbation if metric.chance == 0])
    similarity, views, same = by_topic("sanity")
    by_map = {"by": "map", "labels": {name: map_title(name) for name in (ATTENTION, CAM, *BASELINE_ORDERINGS)}}
    maps = {name: kind for run in runs for name, kind in run.metadata["maps"].items() if kind in (ATTENTION, CAM)}

    def by_condition(metric: Metric, first: str, *others: Metric) -> Table:
        """Returns the similarities of every map, a row per stage or view."""
        conditions = {name: name for run in runs for name in run.faithfulness.rows(metric.key)["condition"]}
        columns = {map_title(name): {"metric": metric.key, "map": name, "target": "predicted"} for name in maps}
        return grid(runs, columns | columns_of(others), first=first, by="condition", labels=conditions)

    view_table = by_condition(views, "View", same)
    seed_keys = [ScoreKey(metric.key, kind, "predicted") for kind in (ATTENTION, CAM) for metric in gains]
    seed_keys += [ScoreKey(same.key, condition=name) for name in dict.fromkeys(row[0] for row in view_table.rows)]
    alone = len(comparison.runs) == 1
    return {
        "measured": runs,
        "gains": grid(runs, columns_of(gains), first="Map", **by_map),
        "raw_gains": grid(runs, columns_of(raw_gains), first="Map", **by_map),
        "areas": grid(runs, columns_of(areas + raw_areas), first="Regions ordered by", **by_map),
        "randomisation": by_condition(similarity, "Initialised anew, down to"),
        "views": view_table,
        "metrics": [METRICS["full_drop"], *raw_areas],
        "tests": test_table(comparison, "perturbation"),
        "seeds": seed_table(comparison, seed_keys),
        "chart": plots.perturbation(runs[0], figures / "perturbation.svg") if alone else None,
    }


def expressions(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers by expression, confusion and cosines of every run, and the codebook."""
    runs = comparison.runs
    charts = []
    for run in runs:
        stem = run.name.replace("/", "-")
        counts = [
            [name, *map(str, row)] for name, row in zip(run.expressions, run.metadata["confusion_matrix"], strict=True)
        ]
        columns = cosine_columns(run.metadata["maps"], attribute="expression")
        names = {name: name for name in run.expressions}
        charts.append({
            "run": run,
            "confusion": plots.confusion(run, figures / f"{stem}_confusion.svg"),
            "counts": Table(["Label, and predicted as", *run.expressions], counts),
            "cosines": plots.cosines(run, figures / f"{stem}_cosines.svg"),
            "cosine_table": grid([run], columns, first="Expression", by="group", labels=names, intervals=False),
        })  # fmt: skip
    units = []
    for expression, aus in target_aus(runs[0]).items():
        listed = ", ".join(f"AU{au} {codebook.ACTION_UNITS[au].lower()}" for au in aus)
        units.append([expression, listed or "none, so it has no AU map"])
    return {
        "by_expression": expression_table(runs),
        "action_units": Table(["Expression", "Action units"], units, 2) if units else None,
        "charts": charts,
    }


def map_agreement(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns how maps agree with AU maps: those of the label, and those of the predicted expression."""
    runs = comparison.runs
    metrics = [metric for metric in by_topic("maps") if metric.unit == "score"]
    maps = {name: map_title(name) for run in runs for name in run.metadata["maps"]}
    targets = {}
    for target in ("label", "predicted"):
        own = [metric for metric in metrics if target in metric.targets]
        keys = [ScoreKey(metric.key, kind, target) for kind in (ATTENTION, CAM) for metric in own]
        targets[target] = {
            "scores": grid(runs, columns_of(own, target=target), first="Map", by="map", labels=maps),
            "seeds": seed_table(comparison, keys),
        }
    return {"targets": targets, "metrics": metrics}


def mean_maps(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns the mean maps of every expression."""
    return {"cards": faces.class_means(comparison.runs)}


def confidence(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns calibration, and selective accuracy by coverage."""
    runs = comparison.runs
    metrics = by_topic("calibration")
    overall = [metric for metric in metrics if metric.condition == "probabilities"]
    selective = [metric for metric in metrics if metric.condition == "coverage"]
    temperature = {"Temperature": lambda run, name: f"{run.predictions.temperatures().get(name, 1):.3f}"}
    data: dict[str, Any] = {
        "measures": grid(
            runs, columns_of(overall), first="Probabilities", by="condition",
            labels={name: name for name in (UNCALIBRATED, CALIBRATED)}, counts=temperature,
        ),
        "selective": grid(
            runs, columns_of(selective), first="Accept at least", by="condition",
            labels={f"{share:g}": f"{100 * share:.0f} %" for share in calibration.COVERAGES},
        ),
        "metrics": overall + selective,
    }  # fmt: skip
    if len(runs) == 1:
        data["reliability"] = plots.reliability(runs[0], figures / "reliability.svg")
        data["coverage"] = plots.coverage(runs[0], figures / "coverage.svg")
    return data


def groups(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns the main numbers for every group that an attribute of the data set makes."""
    runs, run = comparison.runs, comparison.runs[0]
    metrics = [METRICS[key] for key in HEADLINE]
    attributes = list(schema.attributes(run.faces))
    count, subjects = run.tables.count("accuracy")
    # Twenty faces of one subject are a group of one.
    sizes_shown = ["faces", "subjects"] if subjects < count else ["faces"]
    by_attribute = {}
    for attribute in attributes:
        sizes = run.tables.rows(HEADLINE[0], attribute=attribute).set_index("group")
        if not sizes.drop(index="", errors="ignore")["value"].notna().any():
            continue
        columns = columns_of(metrics, runs, attribute=attribute)
        columns |= cosine_columns(BASELINE_MAPS, attribute=attribute)
        counts = {
            name.capitalize(): lambda _, group, sizes=sizes, name=name: str(int(sizes.loc[group, name]))
            for name in sizes_shown
        }
        by_attribute[attribute] = grid(
            runs, columns, first=attribute.capitalize(), by="group",
            labels={group: group or "unknown" for group in sizes.index},
            counts=counts, missing=TOO_FEW,
        )  # fmt: skip
    return {
        "attributes": attributes,
        "groups": by_attribute,
        "left_out": [name for name in attributes if name not in by_attribute],
        "min_group": MIN_GROUP,
        "too_few": TOO_FEW,
    }


def training(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns the training curves."""
    return {"chart": plots.training(comparison.runs, figures / "training.svg")}


def model_card(comparison: Comparison, _: pathlib.Path) -> dict[str, Any] | None:
    """Returns {}, because its template reads the run alone; None for several runs."""
    return {} if len(comparison.runs) == 1 else None


def provenance(comparison: Comparison, _: pathlib.Path) -> dict[str, Any]:
    """Returns the runs with what differs between them, and data, versions and command."""
    runs = comparison.runs
    named = ("method", "au_weight", "codebook", "model_selection")
    rows = [["folder", *(f"`{run.folder}`" for run in runs)]]
    rows += [[name, *(option(run.metadata[name]) for run in runs)] for name in named]
    checkpoints = [run.metadata["checkpoint"] for run in runs]
    rows.append(["checkpoint", *("{which}: step {step}, epoch {epoch:g}".format(**each) for each in checkpoints)])
    rows += [[name, *map(option, values)] for name, values in compare.differences(runs).items() if name not in named]
    folders = shlex.join(str(run.folder) for run in runs)
    return {
        "table": Table(["", *(run.name for run in runs)], rows, 1 + len(runs)),
        "resamples": statistics.RESAMPLES,
        "date": datetime.date.today(),
        "version": __version__,
        "command": f"aujax report page {folders} --split={runs[0].split}",
    }


# The sections of a page in order: id and name of the template, title, and a function of the comparison and the folder
# for figures that returns the variables of the template, None if the page has no such section.
SECTIONS: tuple[tuple[str, str, Callable[[Comparison, pathlib.Path], dict[str, Any] | None]], ...] = (
    ("faces", "Faces", face_images),
    ("results", "Results", results),
    ("reliance", "Reliance on action units", reliance),
    ("attribution", "Faithfulness of the maps", attribution),
    ("expressions", "By expression", expressions),
    ("maps", "Agreement with action units", map_agreement),
    ("means", "Mean maps", mean_maps),
    ("confidence", "Confidence and abstention", confidence),
    ("groups", "Groups of subjects", groups),
    ("training", "Training", training),
    ("card", "Model card", model_card),
    ("provenance", "Provenance", provenance),
)


def write(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes OUT/report.html, its figures, and the tables of tests and seeds; returns the paths, the page first."""
    return compare_and_write(folders, split, out)[1]


def compare_and_write(
    folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path
) -> tuple[Comparison, list[pathlib.Path]]:
    """Writes as `write` and returns the comparison, which may be of one run, as well.

    Unreadable runs, and runs that were evaluated on other faces than the first, are skipped with a warning.

    Raises:
      UserError: no run is left, or `out` cannot be written; both before anything is computed.
    """
    runs, _ = schema.open_runs(folders, split, same_faces=True)
    html.make_folder(out, NAME, compare.TESTS, compare.SEEDS)
    html.make_folder(out / "figures")
    comparison = compare.compare(runs)
    # Drawn in a temporary folder, because `figures` may hold those of other reports.
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        drawn = pathlib.Path(temporary)
        shared = opening(comparison)
        parts = []
        for name, title, variables in SECTIONS:
            data = variables(comparison, drawn)
            if data is not None:
                parts.append((name, title, shared | data))
        page = out / NAME
        files.write(page, html.render_page(template="page.html", sections=parts, **shared))
        figures = [path.replace(out / "figures" / path.name) for path in sorted(drawn.iterdir())]
    return comparison, [page, *comparison.write(out), *figures]
