"""The sections of a report: from runs and their comparison to the variables of the templates.

A page about one run is the comparison of a list of one. No number is computed here: they are read from the summaries of
the runs and from the tables of `results.compare`. The texts are in the templates, but for sentences with numbers.
"""

import datetime
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from aujax import __version__, codebook
from aujax.report import faces, html, plots, tables
from aujax.report.tables import NONE, Table, heading, map_title, number, with_interval
from aujax.results import calibration, compare, schema, statistics
from aujax.results.compare import Comparison, Pair
from aujax.results.registry import (
    ATTENTION,
    BASELINE_MAPS,
    CALIBRATED,
    CAM,
    HEADLINE,
    METRICS,
    RANDOM,
    UNCALIBRATED,
    by_topic,
)
from aujax.results.schema import EvaluatedRun, ScoreKey
from aujax.results.statistics import Interval
from aujax.results.summary import MIN_GROUP

TOO_FEW = "too few"
MIN_SUBJECTS = 5  # with fewer behind the mean drop of an expression, the page warns
SELECTION = {
    "validation": "The checkpoint was selected on the validation split; the faces of this split were not used for it.",
    "test": "The checkpoint was selected on the test split itself, as in the paper's published code, so accuracies are "
    "higher than on new faces.",
}
HOW_SEEDS = (
    "Brackets hold 95 % intervals: over faces or subjects for one training; over seeds (Student's t) for several, of "
    "which mean ± standard deviation are given."
)


def page(comparison: Comparison, figures: pathlib.Path) -> tuple[str, dict[str, Any], list[html.Section]]:
    """Returns title, variables of the opening, and sections of a page; figures are drawn into the folder."""
    runs = comparison.runs
    alone = len(runs) == 1
    label = label_of(runs)
    sections = [
        ("faces", "Faces" if alone else "Faces side by side", face_cards(runs)),
        ("results", "Results", results(comparison)),
        ("reliance", "Reliance on action units", reliance(comparison, figures)),
        ("attribution", "Faithfulness of the maps", attribution(comparison, figures)),
        ("expressions", "By expression", expressions(runs, figures)),
        ("maps", "Agreement with action units", map_agreement(comparison)),
        ("means", "Mean maps", {"cards": faces.class_means(runs)}),
        ("confidence", "Confidence and abstention", confidence(runs, figures)),
        ("groups", "Groups of subjects", groups(runs)),
        ("training", "Training", {"chart": image(plots.training(runs, figures / "training.svg"))}),
        *([("card", "Model card", model_card(runs[0]))] if alone else []),
        ("provenance", "Provenance", provenance(runs)),
    ]
    shared = {"label": label, "alone": alone}
    names = ", ".join(run.name for run in runs)
    title = f"Evaluation of {names}" if alone else f"Comparison: {names}"
    return (
        title,
        opening(comparison) | shared,
        [html.Section(name, heading, f"{name}.html", data | shared) for name, heading, data in sections],
    )


def image(path: pathlib.Path | None) -> str:
    """Returns a figure as a data URI, "" if there is none."""
    return html.image_file(path) if path else ""


def label_of(runs: Sequence[EvaluatedRun]) -> str:
    """Returns split and model selection, for the captions of tables."""
    selected = dict.fromkeys(run.metadata["model_selection"] for run in runs)
    return f"{runs[0].split} split, checkpoint selected on {' and '.join(selected)}"


def faces_text(count: int, subjects: int) -> str:
    """Returns a number of faces, with the number of subjects if these repeat.

    >>> faces_text(3, 2), faces_text(2, 2)
    ('3 faces of 2 subjects', '2 faces')
    """
    return f"{count:,} faces" + (f" of {subjects:,} subjects" if subjects < count else "")


def subjects_repeat(run: EvaluatedRun) -> bool:
    """Returns whether two faces are known to be of one subject."""
    count, subjects = run.tables.count("accuracy")
    return subjects < count


def independence(run: EvaluatedRun) -> str:
    """Returns what intervals and tests take as independent."""
    unknown = int((run.predictions.subjects == "").sum())
    if unknown == len(run.faces):
        return (
            "The data have no subject ids, so intervals and tests resample faces: if subjects repeat, intervals are "
            "too narrow and p-values too small."
        )
    if not subjects_repeat(run):
        return "No two faces are known to be of one subject, so intervals and tests resample faces."
    sentence = (
        "Faces of one subject are not independent, so intervals and tests resample subjects, with all their faces"
    )
    return f"{sentence}; the {unknown:,} faces without a subject id count as one each." if unknown else f"{sentence}."


def selection(run: EvaluatedRun) -> str:
    """Returns how the checkpoint was selected, and what follows for this evaluation."""
    if run.split == "train":
        return "The model was trained on these very faces; see the test split for its accuracy on new ones."
    if run.metadata["checkpoint"]["which"] == "latest":
        return "These are the weights at the end of training: no split was used to select them."
    if run.metadata["model_selection"] == run.split == "validation":
        return "The checkpoint was selected on these very faces; see the test split for its accuracy on new ones."
    return SELECTION[run.metadata["model_selection"]]


def warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns what limits the comparison of the runs or the use of their maps."""
    sentences = []
    expected = compare.expected_differences(runs)
    unexpected = []
    for name, values in compare.differences(runs).items():
        owners: dict[str, list[str]] = {}
        for run, value in zip(runs, values, strict=True):
            owners.setdefault(_value(value), []).append(run.name)
        if name not in expected:
            by_value = "; ".join(f"{value} in {', '.join(names)}" for value, names in owners.items())
            unexpected.append(f"{name} ({by_value})")
    if unexpected:
        sentences.append(
            f"The runs differ in more than {' and '.join(expected)}, which may cause a difference between them: "
            f"{'; '.join(unexpected)}."
        )
    if len({run.metadata["codebook"] for run in runs}) > 1:
        sentences.append("The runs were evaluated with AU maps of different codebooks: their cosines do not compare.")
    if len({run.layer for run in runs}) > 1:
        sentences.append(f"The runs report the attention of different layers: their {METRICS['att_cos'].title} "
                         "compare with care only.")  # fmt: skip
    degenerate = {run.name: tables.degenerate_sentence(run) for run in runs}
    return sentences + [f"{name}: {sentence}" for name, sentence in degenerate.items() if sentence]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def opening(comparison: Comparison) -> dict[str, Any]:
    """Returns what the page begins with: a sentence, the main numbers, and the verdicts."""
    runs = comparison.runs
    run = runs[0]
    metadata = run.metadata
    cards = []
    for metric in (METRICS[key] for key in HEADLINE):
        value, low, high = run.tables.interval(metric.key)
        ends = "" if low is None else f"95 %: {number(low, metric.unit)} to {number(high, metric.unit)}"
        note = ends if value is not None else "the method or the data have none"
        cards.append((number(value, metric.unit), heading(metric, [run]), note))
    baselines = {name: value for name, value in metadata["baselines"].items() if value is not None}
    agreement = metadata[METRICS["att_cos"].key]
    selected = {run.metadata["model_selection"]: run for run in reversed(runs)}
    return {
        "faces": faces_text(*run.tables.count("accuracy")),
        "runs": runs,
        "metadata": metadata,
        "independence": independence(run) if subjects_repeat(run) else "",
        "selections": [(each.metadata["model_selection"], selection(each)) for each in reversed(selected.values())],
        "warnings": warnings(runs),
        "cards": cards,
        "attention_title": heading(METRICS["att_cos"], [run]),
        "agreement": None if agreement is None else number(agreement, "score"),
        "baselines": [(BASELINE_MAPS[name], number(value, "score")) for name, value in baselines.items()],
        "not_exceeded": [BASELINE_MAPS[name] for name, value in baselines.items() if value >= (agreement or 0)],
        "idea": tables.idea_table(comparison),
        "verdicts": verdicts(comparison),
    }


def face_cards(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Returns the faces of the fixed sample and, of a single run, those that were selected by result."""
    return {"cards": faces.side_by_side(runs), "gallery": faces.gallery(runs[0]) if len(runs) == 1 else {}}


def results(comparison: Comparison) -> dict[str, Any]:
    """Returns the main numbers, the paired tests and the means over seeds."""
    return {
        "results": tables.results_table(comparison.runs),
        "tests": test_table(comparison, "headline"),
        "by_subject": subjects_repeat(comparison.runs[0]),
        "seeds": seed_table(comparison, [ScoreKey(key) for key in HEADLINE]),
        "how_seeds": HOW_SEEDS,
        "definitions": definitions([METRICS[key] for key in HEADLINE]),
    }


def definitions(metrics: Sequence[Any]) -> list[str]:
    """Returns a line of text per metric: what it is."""
    return [f"**{metric.title}.** {metric.definition}" for metric in metrics]


def test_table(comparison: Comparison, family: str) -> Table | None:
    """Returns the paired tests of a family; None if there are none."""
    tests: Any = comparison.tests[comparison.tests["family"] == family]
    rows = []
    for test in tests.to_dict("records"):
        metric = METRICS[test["metric"]]
        unit = "points" if metric.unit == "percent" else metric.unit
        of_map = f"{map_title(test['map'])}: " if test["map"] else ""
        rows.append(
            [
                f"{test['before']} → {test['after']}",
                f"{of_map}{metric.title}" + (" (points)" if unit == "points" else ""),
                with_interval(_interval(test), unit, signed=True),
                str(test["higher"]),
                str(test["lower"]),
                tables.p_value(test["p_value"]),
                tables.p_value(test["p_corrected"]),
            ]
        )
    header = ["Runs", "Measure", "Difference", "Faces better", "Faces worse", "p", "p, corrected"]
    return Table(header, rows, 2) if rows else None


def seed_table(comparison: Comparison, keys: Sequence[ScoreKey]) -> Table | None:
    """Returns means over seeds of every setting, and of their differences; None without several seeds."""
    metadata = {run.name: run.metadata for run in comparison.runs}
    titles = {name: f"{each['method']}, AU weight {each['au_weight']:g} ({name}, …)" for name, each in metadata.items()}
    rows = []
    seeds: Any = comparison.seeds
    for (name, minus), group in seeds.groupby(["setting", "minus"], sort=False):
        known = group.set_index(list(ScoreKey._fields))
        cells = []
        for key in keys:
            if key not in known.index:
                cells.append(NONE)
                continue
            row, unit = known.loc[key], METRICS[key.metric].unit
            deviation = None if minus or pd.isna(row["deviation"]) else row["deviation"]
            cells.append(with_interval(_interval(row), unit, signed=bool(minus), deviation=deviation))
        title = f"{titles[name]} − {titles[minus]}" if minus else titles[name]
        rows.append([title, *cells, str(int(group["seeds"].max()))])
    header = [(f"{map_title(key.map)}: " if key.map else "") + heading(METRICS[key.metric]) for key in keys]
    return Table(["Setting", *header, "Seeds"], rows) if rows else None


def _interval(row: Any) -> Interval:
    """Returns the interval in a row of a table, whose ends may be missing."""
    value = row["value"] if "value" in row else row["difference"]
    return Interval(value, row["low"], row["high"]) if pd.notna(row["low"]) else Interval(value, None, None)


def reliance(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns by how much the probability drops when action units are occluded."""
    runs = [run for run in comparison.runs if run.faithfulness]
    metrics = [metric for metric in by_topic("reliance") if not metric.condition]
    book = target_aus(comparison.runs[0])
    few, counts, how = [], [], []
    for run in runs:
        assert run.faithfulness is not None
        drops: Any = run.faithfulness.rows(metrics[0].key, attribute="predicted")
        by_prediction = drops[by_prediction["faces"] > 0]
        listed = [
            f"{row.group} {row.faces}" + (f" of {row.subjects} subjects" if row.subjects < row.faces else "")
            for row in by_prediction.itertuples()
        ]
        counts.append((run.name, "; ".join(listed)))
        if names := by_prediction.loc[by_prediction["subjects"] < MIN_SUBJECTS, "group"].tolist():
            few.append(
                f"{run.name}: fewer than {MIN_SUBJECTS} subjects are behind the drops of {', '.join(names)}, which "
                "count as much in the means as every other expression: do not interpret them closely."
            )
        how.append(occlusion_text(run))
    data: dict[str, Any] = {
        "verdicts": verdicts(comparison),
        "regions": tables.grid(runs, tables.columns_of(metrics, target="predicted")),
        "how": list(dict.fromkeys(how)),
        "counts": [(name, text) for name, text in counts if text],
        "few": few,
        "definitions": definitions([METRICS["probability_drop"], *metrics]),
        "without_targets": [name for name, aus in book.items() if not aus],
        "same_region": same_region(comparison.runs[0]),
        "tests": test_table(comparison, "reliance"),
        "seeds": seed_table(comparison, [ScoreKey(metric.key, target="predicted") for metric in metrics]),
        "missing": [reason for run in comparison.runs if (reason := run.faithfulness_missing)],
        "chart": "",
    }
    if len(comparison.runs) == 1 and runs:
        data["chart"] = image(plots.probability_drops(runs[0], book, figures / "probability_drops.svg"))
        data["by_au"] = drop_table(runs[0], book)
    return data


def occlusion_text(run: EvaluatedRun) -> str:
    """Returns on how many faces AUs were occluded and how, and why not on the others."""
    assert run.faithfulness is not None
    metadata = run.faithfulness.metadata
    count, subjects = run.faithfulness.count("target_drop", target="predicted")
    by_au: Any = run.faithfulness.rows("probability_drop")
    drawn = int(by_au["faces"].max())
    others = {"without landmarks": metadata["num_faces"] - drawn,
              "without target AUs, non-target AUs or a control": drawn - count}  # fmt: skip
    listed = [f"{number:,} {reason}" for reason, number in others.items() if number]
    excluded = (
        f" Of the {metadata['num_faces']:,} sampled faces, {' and '.join(listed)} are excluded." if listed else ""
    )
    return (
        f"On {faces_text(count, subjects)}, the region of one action unit at a time was occluded (imputation: "
        f"{metadata['imputation']}; {plots.probabilities_text(run.faithfulness)}).{excluded}"
    )


def verdicts(comparison: Comparison) -> list[str]:
    """Returns, for each pair, whether the networks rely differently on AUs, or why that cannot be said.

    The answer is yes or no only if both tests agree.
    """
    sentences = []
    for pair in comparison.pairs:
        if not (pair.before.faithfulness and pair.after.faithfulness):
            continue
        before, after = pair.before.name, pair.after.name
        if different := compare.incomparable(pair):
            again = " and ".join(f"`{run.command('--faithfulness')}`" for run in pair)
            sentences.append(
                f"The faithfulness of **{before}** and **{after}** was measured with different "
                f"{' and '.join(different)}, so it does not compare. Measure both in the same way: {again}."
            )
            continue
        tests = [comparison.test(pair, metric) for metric in compare.RELIANCE]
        if tests[0] is None or tests[1] is None:
            sentences.append(
                f"Neither face nor expression allows to compare the reliance of **{before}** and **{after}** "
                "on AUs: no face was predicted by both as an expression that has action units."
            )
            continue
        sentences.append(verdict(pair, [test for test in tests if test is not None]))
    return sentences + seed_verdicts(comparison)


def verdict(pair: Pair, tests: Sequence[Any]) -> str:
    """Returns the answer that two paired tests give, with their numbers."""
    cues_alone = compare.differences(pair).keys() == {compare.AU_WEIGHT}
    subject, other = f"`{pair.after.name}` relies", f" than `{pair.before.name}`"
    if cues_alone and pair.before.metadata["au_weight"] == 0 < pair.after.metadata["au_weight"]:
        subject, other = "The network trained with AU cues relies", ""
    # Comparisons with NaN, an unknown end, are false.
    if all(test["low"] > 0 for test in tests):
        answer = (
            f"Yes: {subject[0].lower() if not other else subject[0]}{subject[1:]} more on the codebook's AUs{other}."
        )
    elif all(test["high"] < 0 for test in tests):
        answer = (
            f"No: {subject[0].lower() if not other else subject[0]}{subject[1:]} less on the codebook's AUs{other}."
        )
    else:
        answer = "Inconclusive: the two tests do not both show a difference in how the networks rely on AUs."
    non_target, control = (
        f"{with_interval(_interval(test), 'points')} points (p {tables.p_value(test['p_value'])})" for test in tests
    )
    count = faces_text(int(tests[0]["faces"]), int(tests[0]["subjects"]))
    return (
        f"**{answer}** From **{pair.before.name}** to **{pair.after.name}**, the difference of the drops by target and "
        f"non-target AUs changes by {non_target}, that of target AUs and control by {control}; {count}. Each is a "
        "single training: another seed would give other numbers."
    )


def seed_verdicts(comparison: Comparison) -> list[str]:
    """Returns the change of both differences over the seeds of two settings."""
    sentences = []
    for contrast in comparison.contrasts:
        changes = [comparison.difference(contrast, metric) for metric in compare.RELIANCE]
        if len(contrast.pairs) > 1 and all(changes):
            non_target, control = (with_interval(change, "points") for change in changes)
            sentences.append(
                f"Over {len(contrast.pairs)} seeds of **{contrast.before[0].name}** and **{contrast.after[0].name}**, "
                f"the difference of the drops by target and non-target AUs changes by {non_target} points, that of "
                f"target AUs and control by {control} points (means with Student's t interval over seeds)."
            )
    return sentences


def target_aus(run: EvaluatedRun) -> Mapping[str, Sequence[int]]:
    """Returns the codebook's FACS numbers of each expression; {} if the codebook was a file that is not stored."""
    name = run.metadata["codebook"]
    if name in codebook.CODEBOOKS:
        return codebook.CODEBOOKS[name].aus
    return run.manifest.get("codebook", {}).get("aus", {})


def same_region(run: EvaluatedRun) -> str:
    """Returns which AUs have the same region, such as "AU12 = AU15"; "" if none have."""
    book = codebook.CODEBOOKS.get(run.metadata["codebook"])
    regions = book.same_region(book.all_aus) if book else ()
    return ", ".join(" = ".join(f"AU{au}" for au in aus) for aus in regions if len(aus) > 1)


def drop_table(run: EvaluatedRun, book: Mapping[str, Sequence[int]]) -> Table:
    """Returns the mean drop for every AU on the faces predicted as each expression; target AUs have a dot."""
    assert run.faithfulness is not None
    aus = run.faithfulness.metadata["aus"]
    columns = {name: plots.drop_of(name) for name in run.expressions}
    labels = {f"AU{au}": f"AU{au} {codebook.ACTION_UNITS[au].lower()}" for au in aus}
    table = tables.grid([run], columns, first="Occluded action unit", by="condition", labels=labels, intervals=False,
                        missing=NONE)  # fmt: skip
    for au, row in zip(aus, table.rows, strict=True):
        row[1:] = [
            cell + (" •" if au in book.get(name, ()) else "")
            for cell, name in zip(row[1:], run.expressions, strict=True)
        ]
    return table


def attribution(comparison: Comparison, figures: pathlib.Path) -> dict[str, Any]:
    """Returns deletion, insertion and ROAD of the maps, and the sanity checks."""
    runs = [run for run in comparison.runs if run.faithfulness]
    if not runs:
        return {"measured": False}
    perturbation = [metric for metric in by_topic("perturbation") if not metric.condition]
    areas = [metric for metric in perturbation if RANDOM in metric.maps]
    gains = [metric for metric in perturbation if RANDOM not in metric.maps]
    similarity, views, same = by_topic("sanity")
    kinds = {name: map_title(name) for name in (ATTENTION, CAM, RANDOM)}
    maps = {name: kind for run in runs for name, kind in run.metadata["maps"].items() if kind in (ATTENTION, CAM)}
    conditions = {
        metric.key: {name: name for run in runs for name in run.faithfulness.rows(metric.key)["condition"]}  # type: ignore[union-attr]
        for metric in (similarity, views)
    }
    by_map = {
        metric.key: {map_title(name): {"metric": metric.key, "map": name, "target": "predicted"} for name in maps}
        for metric in (similarity, views)
    }
    metadata = [run.faithfulness.metadata for run in runs if run.faithfulness]
    seed_keys = [ScoreKey(metric.key, kind, "predicted") for kind in (ATTENTION, CAM) for metric in gains]
    seed_keys += [ScoreKey(same.key, condition=view) for view in conditions[views.key]]
    data: dict[str, Any] = {
        "measured": True,
        "shares": len(metadata[0]["fractions"]),
        "imputations": list(dict.fromkeys(each["imputation"] for each in metadata)),
        "areas": tables.grid(
            runs, tables.columns_of(areas, target="predicted"), first="Regions ordered by", by="map", labels=kinds
        ),
        "gains": tables.grid(
            runs, tables.columns_of(gains, target="predicted"), first="Map", by="map", labels=kinds, signed=True
        ),
        "randomisation": tables.grid(
            runs, by_map[similarity.key], first="Initialised anew, down to", by="condition",
            labels=conditions[similarity.key],
        ),
        "views": tables.grid(
            runs, by_map[views.key] | tables.columns_of([same]), first="View", by="condition",
            labels=conditions[views.key],
        ),
        "definitions": definitions(areas),
        "tests": test_table(comparison, "perturbation"),
        "seeds": seed_table(comparison, seed_keys),
        "chart": "",
    }  # fmt: skip
    if len(comparison.runs) == 1:
        data["chart"] = image(plots.perturbation(runs[0], figures / "perturbation.svg"))
    return data


def expressions(runs: Sequence[EvaluatedRun], figures: pathlib.Path) -> dict[str, Any]:
    """Returns the numbers by expression, confusion and cosines of every run, and the codebook."""
    charts = []
    for run in runs:
        stem = run.name.replace("/", "-")
        matrix = run.metadata["confusion_matrix"]
        counts = [[name, *map(str, row)] for name, row in zip(run.expressions, matrix, strict=True)]
        columns = {
            map_title(name): tables.cosine_of(name) | {"attribute": "expression"} for name in run.metadata["maps"]
        }
        names = {name: name for name in run.expressions}
        charts.append({
            "name": run.name,
            "confusion": image(plots.confusion(run, figures / f"{stem}_confusion.svg")),
            "correct": [f"{name} {matrix[i][i]} of {sum(matrix[i])}" for i, name in enumerate(run.expressions)],
            "counts": Table(["Label, and predicted as", *run.expressions], counts),
            "cosines": image(plots.cosines(run, figures / f"{stem}_cosines.svg")),
            "cosine_table": tables.grid([run], columns, first="Expression", by="group", labels=names, intervals=False),
        })  # fmt: skip
    units = []
    for expression, aus in target_aus(runs[0]).items():
        listed = ", ".join(f"AU{au} {codebook.ACTION_UNITS[au].lower()}" for au in aus)
        units.append([expression, listed or "none, so it has no AU map"])
    return {
        "by_expression": tables.expression_table(runs),
        "codebook": runs[0].metadata["codebook"],
        "action_units": Table(["Expression", "Action units"], units, 2) if units else None,
        "charts": charts,
    }


def map_agreement(comparison: Comparison) -> dict[str, Any]:
    """Returns how maps agree with AU maps: those of the label, and those of the predicted expression."""
    runs = comparison.runs
    metrics = [metric for metric in by_topic("maps") if metric.unit == "score"]
    maps = {name: map_title(name) for run in runs for name in run.metadata["maps"]}
    targets = {}
    for target in dict.fromkeys(target for metric in metrics for target in metric.targets):
        own = [metric for metric in metrics if target in metric.targets]
        keys = [ScoreKey(metric.key, kind, target) for kind in (ATTENTION, CAM) for metric in own]
        targets[target] = {
            "scores": tables.grid(runs, tables.columns_of(own, target=target), first="Map", by="map", labels=maps),
            "seeds": seed_table(comparison, keys),
        }
    return {"targets": targets, "definitions": definitions(metrics)}


def confidence(runs: Sequence[EvaluatedRun], figures: pathlib.Path) -> dict[str, Any]:
    """Returns calibration, selective accuracy, and the operating point that was chosen on the validation split."""
    metrics = {
        condition: [metric for metric in by_topic("calibration") if metric.condition == condition]
        for condition in ("probabilities", "coverage")
    }
    temperature = {"Temperature": lambda run, name: f"{run.predictions.temperatures().get(name, 1):.3f}"}
    data: dict[str, Any] = {
        "measures": tables.grid(
            runs, tables.columns_of(metrics["probabilities"]), first="Probabilities", by="condition",
            labels={name: name for name in (UNCALIBRATED, CALIBRATED)}, counts=temperature,
        ),
        "selective": tables.grid(
            runs, tables.columns_of(metrics["coverage"]), first="Accept at least", by="condition",
            labels={f"{share:g}": f"{100 * share:.0f} %" for share in calibration.COVERAGES},
        ),
        "definitions": definitions([*metrics["probabilities"], *metrics["coverage"]]),
        "missing": [(run.name, text) for run in runs if (text := temperature_missing(run))],
        "operating_points": [(run.name, text) for run in runs if (text := operating_point(run))],
    }  # fmt: skip
    if len(runs) == 1:
        data["reliability"] = image(plots.reliability(runs[0], figures / "reliability.svg"))
        data["coverage"] = image(plots.coverage(runs[0], figures / "coverage.svg"))
    return data


def temperature_missing(run: EvaluatedRun) -> str:
    """Returns why probabilities are not calibrated, with the commands that calibrate them; "" if they are."""
    problem = run.metadata["temperature"]["problem"]
    if not problem:
        return ""
    if run.split == "validation":
        return "The temperature is fitted on the validation split and cannot be evaluated on it: see the test split."
    both = run.command(split=f"validation,{run.split}")
    return f"{problem} To fit one, run `{both}` and write this report again."


def operating_point(run: EvaluatedRun) -> str:
    """Returns what the threshold for the target accuracy on the validation split gives on these faces."""
    point = run.metadata["operating_point"]
    if point is None:
        return ""
    wanted = f"{100 * point['target_accuracy']:.0f} % accuracy on the validation split"
    if point["threshold"] is None:
        return f"No confidence threshold gives {wanted}."
    sentence = f"The confidence threshold for {wanted}, {point['threshold']:.3f}, accepts"
    if not point["coverage"]:
        return f"{sentence} none of these faces."
    accuracy = with_interval(Interval(**point["accuracy"]), "percent")
    return f"{sentence} {number(point['coverage'], 'percent')} % of these faces, with an accuracy of {accuracy} %."


def groups(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Returns the main numbers for every group that an attribute of the data set makes."""
    run = runs[0]
    metrics = [METRICS[key] for key in HEADLINE]
    sizes: dict[str, Any] = {
        name: run.tables.rows(metrics[0].key, attribute=name).set_index("group")
        for name in schema.attributes(run.faces)
    }
    found = {}
    for attribute, size in sizes.items():
        if not size.drop(index="", errors="ignore")["value"].notna().any():
            continue
        columns = tables.columns_of(metrics, runs)
        columns |= {map_title(name): tables.cosine_of(name) for name in BASELINE_MAPS}
        counts = {"Faces": lambda _, group, size=size: str(size.loc[group, "faces"])}
        # Twenty faces of one subject are a group of one.
        if subjects_repeat(run):
            counts["Subjects"] = lambda _, group, size=size: str(size.loc[group, "subjects"])
        found[attribute] = tables.grid(
            runs, {title: where | {"attribute": attribute} for title, where in columns.items()},
            first=attribute.capitalize(), by="group", labels={group: group or "unknown" for group in size.index},
            counts=counts, missing=TOO_FEW,
        )  # fmt: skip
    return {
        "attributes": list(sizes),
        "groups": found,
        "left_out": [name for name in sizes if name not in found],
        "min_group": MIN_GROUP,
        "too_few": TOO_FEW,
    }


def model_card(run: EvaluatedRun) -> dict[str, Any]:
    """Returns the facts of the model card."""
    about = run.metadata["data"].get("about", {})
    accuracy = METRICS[HEADLINE[0]]
    return {
        "metadata": run.metadata,
        "backbone": run.config.get("backbone", ""),
        "weights": run.config.get("weights", ""),
        "accuracy": with_interval(run.tables.interval(accuracy.key), accuracy.unit),
        "selection": selection(run),
        "data_set": about.get("name", ""),
        "terms": about.get("terms", ""),
        "detector_terms": about.get("detector_terms", ""),
    }


def provenance(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Returns the runs with what differs between them, and data, versions and command."""
    named = ("method", "au_weight", "codebook", "model_selection")
    rows = [["folder", *(f"`{run.folder}`" for run in runs)]]
    rows += [[name, *(_value(run.metadata[name]) for run in runs)] for name in named]
    checkpoints = [run.metadata["checkpoint"] for run in runs]
    rows.append(
        ["checkpoint", *(f"{each['which']}: step {each['step']}, epoch {each['epoch']:g}" for each in checkpoints)]
    )
    rows += [[name, *map(_value, values)] for name, values in compare.differences(runs).items() if name not in named]
    folders = shlex.join(str(run.folder) for run in runs)
    return {
        "runs": Table(["", *(run.name for run in runs)], rows, 1 + len(runs)),
        "metadata": runs[0].metadata,
        "resamples": statistics.RESAMPLES,
        "independence": independence(runs[0]),
        "date": str(datetime.date.today()),
        "version": __version__,
        "command": f"aujax report page {folders} --split={runs[0].split}",
    }
