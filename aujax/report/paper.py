"""The tables and figures of the paper from run folders, beside the published numbers.

Tables are written as Markdown, CSV and LaTeX, figures as PNG and SVG. Runs that differ in their seed alone are one
training. Published: Belharbi et al., Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues,
FG 2024 (arXiv:2402.00281), Tables 1 to 3: one training each, without intervals, the checkpoint selected on the test
split, CNNs with a ResNet-50. Of Fig. 5 only a drawing is published; its points at 0 and 4 are those of Table 1.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aujax import files
from aujax.errors import UserError
from aujax.report import html, plots, tables
from aujax.report.tables import NONE, Table, with_interval
from aujax.results import compare, schema
from aujax.results.compare import AU_WEIGHT, SEED
from aujax.results.registry import ATTENTION, METRICS
from aujax.results.schema import EvaluatedRun
from aujax.results.statistics import Interval, Seeds

Folders = Sequence[str | pathlib.Path]
Paths = list[pathlib.Path]

SOURCE = "Belharbi et al., FG 2024"
RAFDB, AFFECTNET = "RAF-DB", "AffectNet"
TEST_FACES = {RAFDB: 3068, AFFECTNET: 3500}
# The options of alignment: in which a training with AU cues may differ from the one without.
_ALIGNMENT = frozenset({AU_WEIGHT, "au_layers", "au_layer_reduction"})

# By data set, method and case: accuracy in percent, cosines of CAM and of the attention; NaN where none is published.
# The cases of Tables 1 and 2 are without and with AU cues, those of Table 3 (CAM on RAF-DB) are the aligned layers.
_PUBLISHED = pd.read_csv(pathlib.Path(__file__).with_name("published.csv"), index_col=["data_set", "method", "case"])
PUBLISHED: dict[Any, dict[str, float]] = _PUBLISHED.to_dict("index")  # type: ignore[assignment]
METHODS = tuple(dict.fromkeys(method for _, method, _ in PUBLISHED))

# Columns of the tables. The last is the attention of the last layer, whichever layer is reported.
HEADINGS = {
    "accuracy": "CL (%)",
    "cam_cos": METRICS["cam_cos"].title,
    "att_cos": METRICS["att_cos"].title,
    "last_att_cos": f"{METRICS['att_cos'].title}, last layer",
}


class Training(NamedTuple):
    """Runs that differ in their seed alone."""

    runs: list[EvaluatedRun]
    label: str = ""  # the method, and what distinguishes it from other trainings of the same method

    @property
    def metadata(self) -> Any:
        """The metadata of the first run."""
        return self.runs[0].metadata

    @property
    def method(self) -> str:
        """The paper's name of the method."""
        return self.metadata["method"].partition("/")[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """The aligned layers; () without AU cues."""
        run = self.runs[0]
        return tuple(run.config.get("au_layers") or [run.layer]) if self.metadata["au_weight"] else ()

    def number(self, column: str) -> Seeds:
        """Returns the number in a column of `HEADINGS`."""
        if column == "last_att_cos":
            *_, layer = (name for name, kind in self.metadata["maps"].items() if kind == ATTENTION)
            return compare.over_seeds(self.runs, "cosine", map=layer, target="label")
        return compare.over_seeds(self.runs, column)


class DataSet(NamedTuple):
    """The runs that were evaluated on the same faces, and the name of those."""

    name: str
    runs: list[EvaluatedRun]

    @property
    def is_published(self) -> bool:
        """Whether the paper has results for these faces."""
        return self.name in TEST_FACES and self.runs[0].split == "test"

    def published(self, method: str, case: str) -> dict[str, float]:
        """Returns the published numbers by metric; {} if there are none."""
        return PUBLISHED.get((self.name, method, case), {}) if self.is_published else {}

    def trainings(self, *, hidden: str = "") -> list[Training]:
        """Returns the trainings in the paper's order of methods, those without AU cues first.

        Their labels leave out the option `hidden`, for which a table has a column.
        """
        trainings = sorted(
            map(Training, compare.replicates(self.runs)),
            key=lambda training: (
                [*METHODS, training.method].index(training.method),
                training.metadata["method"],
                training.metadata["model_selection"],
                training.metadata["au_weight"],
                len(training.layers),
                training.layers,
            ),
        )
        # Trainings that a table would otherwise name alike.
        families = collections.defaultdict(list)
        for training in trainings:
            family = training.method, training.layers != (), training.metadata["model_selection"]
            families[family].append(training.runs[0])
        labels = {}
        for runs in families.values():
            differing = compare.differences(runs)
            for name in (SEED, "method", "model_selection", "backbone", hidden):
                differing.pop(name, None)
            for position, run in enumerate(runs):
                details = [run.config["backbone"]] if run.config.get("backbone") else []
                details += [f"{name}={tables.option(values[position])}" for name, values in differing.items()]
                labels[run.folder] = run.metadata["method"] + (f" ({', '.join(details)})" if details else "")
        return [Training(training.runs, labels[training.runs[0].folder]) for training in trainings]


def open_data_sets(folders: Folders, split: str) -> tuple[list[DataSet], Paths]:
    """Returns the runs by evaluated data set, those of the paper first, and the folders that were skipped."""
    runs, skipped = schema.open_runs(folders, split)
    by_content = collections.defaultdict(list)
    for run in runs:
        by_content[run.metadata["data"]["fingerprint"]].append(run)
    names = [data_set_name(group[0].metadata["data"]) for group in by_content.values()]
    data_sets = [
        DataSet(f"{name} {content[:6]}" if names.count(name) > 1 else name, group)
        for name, (content, group) in zip(names, by_content.items(), strict=True)
    ]
    return sorted(data_sets, key=lambda data: [*TEST_FACES, data.name].index(data.name)), skipped


def data_set_name(data: Any) -> str:
    """Returns the name of a data set from its metadata: the paper's, or that of its source.

    >>> data_set_name({"dir": "data/faces", "about": {"name": "rafdb", "source": "RAF-DB/basic"}})
    'RAF-DB'
    """
    about = data.get("about", {})
    name = about.get("name", "")
    if name == "folds":  # the authors' folds of both data sets are in folders named after them
        name = pathlib.PurePath(about.get("folds", "")).name
    known = {"rafdb": RAFDB, "raf-db": RAFDB, "affectnet": AFFECTNET}
    return known.get(name.lower()) or pathlib.PurePath(about.get("source") or data["dir"]).name


# The tables of the paper: columns, caption, source of the published numbers, and whether rows are aligned layers rather
# than without and with AU cues.
TABLES = {
    "table1": (
        ("accuracy", "cam_cos"),
        "Classification (CL, accuracy in %) and CAM localisation (CAM-COS), without and with AU cues.",
        "Table 1",
        False,
    ),
    "table2": (
        ("att_cos",),
        "Attention localisation (ATT-COS) at the aligned layer, without and with AU cues.",
        "Table 2",
        False,
    ),
    "table3": (
        ("accuracy", "cam_cos", "last_att_cos"),
        "The aligned layers: classification (CL, accuracy in %), CAM localisation (CAM-COS) and, whichever layer is "
        "aligned, the attention of the last layer (ATT-COS).",
        "Table 3 (ATT-COS: Table 2)",
        True,
    ),
}


def write_table(name: str, folders: Folders, split: str, out: pathlib.Path) -> Paths:
    """Writes one of `TABLES` as Markdown, CSV and LaTeX; returns the paths.

    The CSV has plain numbers, and the ends of intervals in columns of their own.
    """
    columns, caption, source, by_layers = TABLES[name]
    data_sets, skipped = open_data_sets(folders, split)
    about = ["Data set", "Method", "Aligned layers" if by_layers else "Case", "Selected on", "Seeds"]
    rows, plain = [], []

    def add_row(texts: list[str], numbers: list[Seeds], published: dict[str, float]) -> None:
        row = dict(zip(about, texts, strict=True))
        plain_row = row.copy()
        for column, seeds in zip(columns, numbers, strict=True):
            metric, heading = column.removeprefix("last_"), HEADINGS[column]
            known = f"{published[metric]:.2f}" if pd.notna(published.get(metric)) else NONE
            row[heading] = with_interval(seeds.mean, METRICS[metric].unit, deviation=seeds.deviation)
            plain_row |= _plain_numbers(column, seeds)
            row[f"{heading}, published"] = plain_row[f"{heading}, published"] = known
        rows.append(row)
        plain.append(plain_row)

    for data in data_sets:
        trainings = data.trainings(hidden="au_layers" if by_layers else "")
        if by_layers:
            trainings.sort(key=lambda training: (training.method, len(training.layers)))
        for training in trainings:
            case = "w/ AU" if training.layers else "w/o AU"
            if by_layers:
                case = " + ".join(training.layers) or "none (w/o AU)"
            texts = [data.name, training.label, case, training.metadata["model_selection"], str(len(training.runs))]
            add_row(texts, [training.number(column) for column in columns], data.published(training.method, case))
        # What needs no network: always the most frequent expression, and the baseline maps of each codebook.
        baselines = [(title, None, cosine) for title, cosine in tables.baseline_rows(data.runs)]
        if "accuracy" in columns:
            baselines = [("most frequent expression", data.runs[0].chance("accuracy"), None), *baselines]
        for title, share, cosine in baselines:
            numbers = [Seeds(Interval(share if column == "accuracy" else cosine)) for column in columns]
            add_row([data.name, title, "", "", ""], numbers, {})
    independences = {data.name: html.sentence("independence", data.runs[0]) for data in data_sets}
    source = f"{SOURCE}, {source}"
    caption = html.sentence("caption", caption, data_sets, independences, skipped, source, TEST_FACES)
    table = Table(list(rows[0]), [list(row.values()) for row in rows], len(about) - 1)
    contents = {
        out / f"{name}.md": f"{caption}\n\n{table.markdown()}\n",
        out / f"{name}.csv": pd.DataFrame(plain).replace(NONE, "").to_csv(index=False),
        out / f"{name}.tex": table.latex(caption, label=f"tab:{name}"),
    }
    html.make_folder(out)
    for path, text in contents.items():
        files.write(path, text)
    return list(contents)


def _plain_numbers(column: str, seeds: Seeds) -> dict[str, str]:
    """Returns a mean, its interval and the standard deviation without unit, by heading; "" for missing ones."""
    name = HEADINGS[column].removesuffix(" (%)")
    headings = [name, f"{name}, low", f"{name}, high", f"{name}, standard deviation"]
    values = ["" if value is None else f"{value:.6g}" for value in (*seeds.mean, seeds.deviation)]
    return dict(zip(headings, values, strict=True))


def pair_figures(name: str, folders: Folders, split: str, out: pathlib.Path) -> Paths:
    """Draws "figure4" (faces) or "figure6" (means by expression) for every pair of runs; returns the paths.

    Both have the AU map and, without and with AU cues, attention and CAM.
    """
    draw = plots.panels if name == "figure4" else plots.class_means
    data_sets, _ = open_data_sets(folders, split)
    pairs = []
    for data in data_sets:
        runs = [run for training in data.trainings() for run in training.runs]
        pairs += [(data.name, pair) for pair in compare.equal_but_for(runs, _ALIGNMENT)]
    if not pairs:
        raise UserError(
            f"{name}: expected a run without AU cues (--config.au_weight=0) and one with them that are equal "
            f"otherwise, got {', '.join(run.name for data in data_sets for run in data.runs)}"
        )
    html.make_folder(out)
    paths = []
    for data_name, (without, aligned) in pairs:
        runs = [
            dataclasses.replace(run, name=f"{case} ({run.metadata['model_selection']})")
            for run, case in ((without, "without AU"), (aligned, "with AU"))
        ]
        stem = name if len(pairs) == 1 else f"{name}-{_slug(data_name, aligned.name)}"
        for suffix in (".png", ".svg"):
            path = draw(runs, out / f"{stem}{suffix}")
            if path is None:
                raise UserError("the runs share no face in their samples (maps.npz); evaluate them again")
            paths.append(path)
    return paths


def run_figures(name: str, folders: Folders, split: str, out: pathlib.Path) -> Paths:
    """Draws the confusion matrix and the cosines by expression and layer of every run; returns the paths."""
    data_sets, _ = open_data_sets(folders, split)
    html.make_folder(out)
    paths = []
    for data in data_sets:
        for run in data.runs:
            stem = f"{name}-{_slug(data.name, run.name)}"
            named = dataclasses.replace(run, name=f"{run.name} on {data.name}")
            for suffix in (".png", ".svg"):
                for draw in (plots.confusion, plots.cosines):
                    paths.append(draw(named, out / f"{stem}-{draw.__name__}{suffix}"))
    return paths


def _slug(*names: str) -> str:
    """Returns names as a part of a file name."""
    return re.sub(r"[^\w.+=,-]+", "-", "-".join(names))


def sweep_figures(name: str, folders: Folders, split: str, out: pathlib.Path) -> Paths:
    """Draws accuracy and cosines by `au_weight` for every sweep among the runs; returns figures and numbers."""
    data_sets, _ = open_data_sets(folders, split)
    sweeps = []
    for data in data_sets:
        trainings = sorted(data.trainings(), key=lambda training: training.metadata["au_weight"])
        runs = [run for training in trainings for run in training.runs]
        groups = compare.replicates(runs, {AU_WEIGHT, SEED})
        sweeps += [DataSet(data.name, group) for group in groups if len(compare.replicates(group)) > 1]
    if not sweeps:
        names = ", ".join(run.name for data in data_sets for run in data.runs)
        raise UserError(f"figure5: expected runs that differ in --config.au_weight alone, got {names}")
    html.make_folder(out)
    paths = []
    for number, data in enumerate(sweeps, start=1):
        sweep = data.trainings()
        stem = name if len(sweeps) == 1 else f"{name}-{number}"
        points = {}
        for column in ("accuracy", "cam_cos", "att_cos"):
            numbers = [training.number(column) for training in sweep]
            if any(seeds.mean.value is not None for seeds in numbers):
                points[column] = numbers
        figure = _weight_curves(data, sweep, points)
        paths += [plots.save(figure, out / f"{stem}{suffix}") for suffix in (".png", ".svg")]
        rows = []
        for position, training in enumerate(sweep):
            row = {
                "au_weight": f"{training.metadata['au_weight']:g}",
                "selected_on": training.metadata["model_selection"],
                "seeds": len(training.runs),
            }
            for column, own in points.items():
                row |= _plain_numbers(column, own[position])
            for title, cosine in tables.baseline_rows(training.runs):
                row[f"cosine of {title}"] = "" if cosine is None else f"{cosine:.6g}"
            rows.append(row)
        paths.append(out / f"{stem}.csv")
        pd.DataFrame(rows).to_csv(paths[-1], index=False)
    return paths


def _weight_curves(data: DataSet, sweep: Sequence[Training], points: dict[str, list[Seeds]]) -> Any:
    """Returns a figure of cosines and accuracy by the weight of alignment."""
    first = sweep[0]
    note = (
        "Dashed: without AU cues (weight 0). Bars: 95 % intervals, over faces or subjects for one training, over seeds "
        "for several.\nTo choose a weight, draw this of the validation split. "
    ) + html.sentence("selection", first.runs[0])
    title = f"{first.method} on {data.name} ({first.runs[0].split}): the weight of alignment"
    figure, ((cosines, accuracy),) = plots.new_figure(9.6, 5.3, title=title, note=note, columns=2)
    weights = [training.metadata["au_weight"] for training in sweep]
    for axes, name in ((cosines, "Cosine with the AU map"), (accuracy, "Accuracy, CL (%)")):
        plots.style(axes, title=name, x="weight of alignment (au_weight, the paper's λ)")
    for (column, numbers), colour, marker in zip(points.items(), plots.LINES, "os^", strict=False):
        axes, scale = (accuracy, 100) if column == "accuracy" else (cosines, 1)
        # Missing ends of intervals become NaN, which is not drawn.
        heights, low, high = scale * np.array([seeds.mean for seeds in numbers], float).T
        look = {"color": colour, "marker": marker, "markersize": 5}
        axes.errorbar(
            weights, heights, yerr=[heights - low, high - heights], elinewidth=1, label=HEADINGS[column], **look
        )
        if weights[0] == 0:
            axes.axhline(heights[0], color=colour, linestyle="--", linewidth=1)
        # Published: of CAM on RAF-DB.
        if data.is_published and (data.name, first.method) == (RAFDB, "CAM"):
            values = [data.published("CAM", case)[column] for case in ("w/o AU", "w/ AU")]
            hollow = look | {"markerfacecolor": "white", "linestyle": "none", "markersize": 8}
            axes.plot([0, 4], values, label=f"{HEADINGS[column]}, published", **hollow)
    name, best = max(tables.baseline_rows(first.runs), key=lambda row: row[1] or 0)
    if best is not None:
        label = f"best baseline map:\n{name}"
        cosines.axhline(best, color="black", linestyle=":", linewidth=1, label=label)
    for axes in (cosines, accuracy):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, fontsize=plots.SMALL, frameon=False)
    return figure


# By name: functions of the name, run folders, split and output folder, which return the paths of what they wrote.
WRITERS = {
    "table1": write_table,
    "table2": write_table,
    "table3": write_table,
    "figure4": pair_figures,
    "figure5": sweep_figures,
    "figure6": pair_figures,
    "figure10": run_figures,
}
