"""The tables and figures of the paper from run folders, beside the published numbers.

Tables are written as Markdown, CSV and LaTeX, figures as PNG and SVG. Runs that differ in their seed alone are one
training. Published: Belharbi et al., Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues,
FG 2024 (arXiv:2402.00281), Tables 1 to 3: one training each, without intervals, the checkpoint selected on the test
split, CNNs with a ResNet-50. Of Fig. 5 only a drawing is published; its points at 0 and 4 are those of Table 1.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from aujax.errors import UserError
from aujax.report import html, plots, tables
from aujax.report.tables import NONE, Table, with_interval
from aujax.results import compare
from aujax.results.compare import AU_WEIGHT, SEED
from aujax.results.registry import ATTENTION, BASELINE_MAPS, METRICS
from aujax.results.schema import EvaluatedRun
from aujax.results.statistics import Interval, Seeds

SOURCE = "Belharbi et al., FG 2024"
RAFDB, AFFECTNET = "RAF-DB", "AffectNet"
TEST_FACES = {RAFDB: 3068, AFFECTNET: 3500}
# The options of alignment: in which a training with AU cues may differ from the one without.
_ALIGNMENT = frozenset({AU_WEIGHT, "au_layers", "au_layer_reduction"})

# Tables 1 and 2. Per data set, without and with AU cues: CL in percent, CAM-COS, ATT-COS.
_RESULTS = """
             RAF-DB                                       AffectNet
CAM          88.20 88.95   0.55 0.70   0.57 0.85          60.88 62.37   0.56 0.69   0.64 0.82
WILDCAT      88.26 88.85   0.52 0.69   0.47 0.85          59.88 61.62   0.62 0.80   0.61 0.81
GradCAM      88.39 88.85   0.55 0.74   0.63 0.85          60.77 62.08   0.53 0.75   0.65 0.82
GradCAM++    87.84 89.14   0.60 0.82   0.52 0.87          60.22 62.45   0.66 0.83   0.65 0.82
ACoL         87.94 88.68   0.54 0.67   0.46 0.84          58.28 61.48   0.55 0.65   0.60 0.81
PRM          88.13 88.88   0.48 0.59   0.43 0.85          57.77 60.97   0.52 0.75   0.55 0.82
ADL          87.45 88.65   0.50 0.63   0.51 0.85          57.88 61.25   0.54 0.66   0.65 0.83
CutMix       88.39 88.59   0.55 0.57   0.51 0.80          58.74 59.88   0.56 0.58   0.57 0.82
LayerCAM     87.90 88.88   0.60 0.84   0.52 0.86          60.77 62.45   0.66 0.83   0.65 0.82
TS-CAM       86.70 88.00   0.58 0.71   0.55 0.88          58.99 59.54   0.57 0.58   0.48 0.79
APViT        91.00 91.03   -    -      0.38 0.85          60.62 62.28   -    -      0.45 0.84
"""
# Table 3, CAM on RAF-DB by aligned layers: CL, CAM-COS; ATT-COS is that of Table 2.
_LAYERS = """
-                                88.20  0.55  0.57
layer1                           88.52  0.58  -
layer2                           88.26  0.57  -
layer3                           88.39  0.56  -
layer4                           88.62  0.61  -
layer5                           88.95  0.70  0.85
layer4+layer5                    88.78  0.67  -
layer3+layer4+layer5             88.78  0.67  -
layer2+layer3+layer4+layer5      88.55  0.67  -
layer1+layer2+layer3+layer4+layer5  88.46  0.67  -
"""


class Result(NamedTuple):
    """Published numbers: accuracy in percent, cosines of CAM and of the attention; None where nothing is published."""

    accuracy: float | None
    cam_cos: float | None
    att_cos: float | None


def _result(cells: Sequence[str]) -> Result:
    return Result(*(None if cell == "-" else float(cell) for cell in cells))


# By data set and method: without and with AU cues.
RESULTS: dict[str, dict[str, tuple[Result, Result]]] = {RAFDB: {}, AFFECTNET: {}}
for _line in _RESULTS.strip().splitlines()[1:]:
    _method, *_cells = _line.split()
    for _name, _own in ((RAFDB, _cells[:6]), (AFFECTNET, _cells[6:])):
        RESULTS[_name][_method] = _result(_own[0::2]), _result(_own[1::2])
METHODS = tuple(RESULTS[RAFDB])
# By aligned layers; () without AU cues.
LAYERS: dict[tuple[str, ...], Result] = {}
for _line in _LAYERS.strip().splitlines():
    _layers, *_cells = _line.split()
    LAYERS[() if _layers == "-" else tuple(_layers.split("+"))] = _result(_cells)


class Training(NamedTuple):
    """Runs that differ in their seed alone."""

    runs: list[EvaluatedRun]
    distinction: str = ""  # the options that distinguish it from other trainings of the same method

    @property
    def metadata(self) -> Any:
        """The metadata of the first run."""
        return self.runs[0].metadata

    @property
    def method(self) -> str:
        """The paper's name of the method."""
        return self.metadata["method"].partition("/")[0]

    @property
    def aligned(self) -> bool:
        """Whether it had AU cues."""
        return self.metadata["au_weight"] > 0

    @property
    def layers(self) -> tuple[str, ...]:
        """The aligned layers; () without AU cues."""
        run = self.runs[0]
        return tuple(run.config.get("au_layers") or [run.layer]) if self.aligned else ()

    @property
    def label(self) -> str:
        """The method, and what distinguishes the training from others."""
        details = ", ".join(filter(None, [self.runs[0].config.get("backbone"), self.distinction]))
        return self.metadata["method"] + (f" ({details})" if details else "")


class DataSet(NamedTuple):
    """The runs that were evaluated on the same faces, and the name of those."""

    name: str
    runs: list[EvaluatedRun]

    @property
    def is_published(self) -> bool:
        """Whether the paper has results for these faces."""
        return self.name in RESULTS and self.runs[0].split == "test"

    def trainings(self, *, hidden: Collection[str] = ()) -> list[Training]:
        """Returns the trainings in the paper's order of methods, those without AU cues first.

        Their labels leave out the options in `hidden`, for which a table has a column.
        """
        order = {name: position for position, name in enumerate(METHODS)}
        trainings = [Training(group) for group in compare.replicates(self.runs)]
        trainings.sort(
            key=lambda each: (
                *(order.get(each.method, len(order)), each.metadata["method"], each.metadata["model_selection"]),
                *(each.metadata["au_weight"], len(each.layers), each.layers),
            )
        )
        families: dict[tuple[Any, ...], list[Training]] = {}
        for each in trainings:
            family = each.method, each.aligned, each.metadata["model_selection"]
            families.setdefault(family, []).append(each)
        distinctions = {}
        for family in families.values():
            differing = compare.differences([each.runs[0] for each in family])
            for position, each in enumerate(family):
                distinctions[each.runs[0].folder] = ", ".join(
                    f"{name}={_option(values[position])}"
                    for name, values in differing.items()
                    if name not in {SEED, "method", "model_selection", "backbone", *hidden}
                )
        return [each._replace(distinction=distinctions[each.runs[0].folder]) for each in trainings]


def _option(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def open_data_sets(folders: Sequence[str | pathlib.Path], split: str) -> tuple[list[DataSet], list[pathlib.Path]]:
    """Returns the runs by evaluated data set, those of the paper first, and the folders that were skipped."""
    runs, skipped = compare.open_runs(folders, split)
    by_content: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        by_content.setdefault(run.metadata["data"]["fingerprint"], []).append(run)
    names = [data_set_name(group[0].metadata["data"]) for group in by_content.values()]
    data_sets = [
        DataSet(f"{name} {content[:6]}" if names.count(name) > 1 else name, group)
        for name, (content, group) in zip(names, by_content.items(), strict=True)
    ]
    order = {name: position for position, name in enumerate(RESULTS)}
    return sorted(data_sets, key=lambda data: order.get(data.name, len(order))), skipped


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


class Column(NamedTuple):
    """A number of the tables; with `last_layer`, of the attention of the last layer instead of the reported one."""

    metric: str
    heading: str
    last_layer: bool = False

    def read(self, training: Training) -> Seeds:
        """Returns the number of a training."""
        if self.last_layer:
            *_, layer = (name for name, kind in training.metadata["maps"].items() if kind == ATTENTION)
            return compare.over_seeds(training.runs, "cosine", map=layer, target="label")
        return compare.over_seeds(training.runs, self.metric)

    def cells(self, number: Seeds) -> list[str]:
        """Returns value, low, high and standard deviation as plain numbers, "" where there is none."""
        return ["" if each is None else f"{each:.6g}" for each in (*number.mean, number.deviation)]

    @property
    def headings(self) -> list[str]:
        """The headings of `cells`."""
        name = self.heading.removesuffix(" (%)")
        return [name, f"{name}, low", f"{name}, high", f"{name}, standard deviation"]


CL = Column("accuracy", "CL (%)")
CAM_COS = Column("cam_cos", METRICS["cam_cos"].title)
ATT_COS = Column("att_cos", METRICS["att_cos"].title)
LAST_ATT_COS = Column("att_cos", f"{METRICS['att_cos'].title}, last layer", last_layer=True)


def table1(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the paper's Table 1, CL and CAM-COS by data set and method; returns the paths."""
    caption = "Classification (CL, accuracy in %) and CAM localisation (CAM-COS), without and with AU cues."
    return _table(folders, split, out / "table1", [CL, CAM_COS], caption, "Table 1")


def table2(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the paper's Table 2, ATT-COS by data set and method; returns the paths."""
    caption = "Attention localisation (ATT-COS) at the aligned layer, without and with AU cues."
    return _table(folders, split, out / "table2", [ATT_COS], caption, "Table 2")


def table3(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the paper's Table 3, by aligned layers; returns the paths."""
    caption = (
        "The aligned layers: classification (CL, accuracy in %), CAM localisation (CAM-COS) and, whichever layer is "
        "aligned, the attention of the last layer (ATT-COS)."
    )
    columns = [CL, CAM_COS, LAST_ATT_COS]
    return _table(folders, split, out / "table3", columns, caption, "Table 3 (ATT-COS: Table 2)", by_layers=True)


def _table(
    folders: Sequence[str | pathlib.Path],
    split: str,
    path: pathlib.Path,
    columns: Sequence[Column],
    caption: str,
    source: str,
    *,
    by_layers: bool = False,
) -> list[pathlib.Path]:
    """Writes a table as Markdown, CSV and LaTeX; the CSV has plain numbers and the ends of intervals in columns."""
    data_sets, skipped = open_data_sets(folders, split)
    written, plain = [], []

    def add_row(names: list[str], numbers: Sequence[Seeds], published: Result | None) -> None:
        text, digits = list(names), list(names)
        for column, number in zip(columns, numbers, strict=True):
            known = None if published is None else getattr(published, column.metric)
            printed = NONE if known is None else f"{known:.2f}"
            unit = METRICS[column.metric].unit
            text += [with_interval(number.mean, unit, deviation=number.deviation), printed]
            digits += [*column.cells(number), printed]
        written.append(text)
        plain.append(digits)

    for data in data_sets:
        trainings = data.trainings(hidden=["au_layers"] if by_layers else [])
        if by_layers:
            trainings.sort(key=lambda each: (each.method, len(each.layers)))
        for each in trainings:
            case = "w/ AU" if each.aligned else "w/o AU"
            published = None
            if by_layers:
                case = " + ".join(each.layers) or "none (w/o AU)"
                if data.is_published and (data.name, each.method) == (RAFDB, "CAM"):
                    published = LAYERS.get(each.layers)
            elif data.is_published and each.method in METHODS:
                published = RESULTS[data.name][each.method][each.aligned]
            how = [each.metadata["model_selection"], str(len(each.runs))]
            add_row([data.name, each.label, case, *how], [column.read(each) for column in columns], published)
        # What needs no network: always the most frequent expression, and the baseline maps of each codebook.
        if CL in columns:
            chance = data.runs[0].chance(CL.metric)
            numbers = [_constant(chance if column is CL else None) for column in columns]
            add_row([data.name, "most frequent expression", "", "", ""], numbers, None)
        for title, cosine in tables.baseline_rows(data.runs):
            numbers = [_constant(None if column is CL else cosine) for column in columns]
            add_row([data.name, title, "", "", ""], numbers, None)
    about = ["Data set", "Method", "Aligned layers" if by_layers else "Case", "Selected on", "Seeds"]
    header = about + [name for column in columns for name in (column.heading, f"{column.heading}, published")]
    table = Table(header, written, len(about) - 1)
    plain_header = [name for column in columns for name in (*column.headings, f"{column.heading}, published")]
    caption = html.sentence(
        "caption",
        caption,
        data_sets,
        {data.name: html.sentence("independence", data.runs[0]) for data in data_sets},
        skipped,
        SOURCE + ", " + source,
        TEST_FACES,
    )
    contents = {
        ".md": f"{caption}\n\n{table.markdown()}\n",
        ".csv": Table(about + plain_header, plain).csv(),
        ".tex": table.latex(caption, label=f"tab:{path.name}"),
    }
    html.make_folder(path.parent)
    for suffix, text in contents.items():
        path.with_suffix(suffix).write_text(text, encoding="utf-8")
    return [path.with_suffix(suffix) for suffix in contents]


def _constant(value: float | None) -> Seeds:
    return Seeds(Interval(value, None, None), None, 1)


def figure4(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draws faces with their AU map, attention and CAM for every pair of runs; returns the paths."""
    return _pair_figures(plots.panels, folders, split, out / "figure4")


def figure6(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draws the mean AU map, attention and CAM of every expression for every pair of runs; returns the paths."""
    return _pair_figures(plots.class_means, folders, split, out / "figure6")


def _pair_figures(
    draw: Callable[[Sequence[EvaluatedRun], pathlib.Path], pathlib.Path | None],
    folders: Sequence[str | pathlib.Path],
    split: str,
    path: pathlib.Path,
) -> list[pathlib.Path]:
    data_sets, _ = open_data_sets(folders, split)
    pairs = [
        (data.name, pair)
        for data in data_sets
        for pair in compare.equal_but_for([run for each in data.trainings() for run in each.runs], _ALIGNMENT)
    ]
    if not pairs:
        raise UserError(
            f"{path.name}: expected a run without AU cues (--config.au_weight=0) and one with them that are equal "
            f"otherwise, got {', '.join(run.name for data in data_sets for run in data.runs)}"
        )
    html.make_folder(path.parent)
    drawn = []
    for name, (without, aligned) in pairs:
        runs = [
            dataclasses.replace(run, name=f"{case} ({run.metadata['model_selection']})")
            for run, case in ((without, "without AU"), (aligned, "with AU"))
        ]
        stem = path.name if len(pairs) == 1 else f"{path.name}-{_slug(name, aligned.name)}"
        drawn += [draw(runs, path.with_name(stem + suffix)) for suffix in (".png", ".svg")]
    if not all(drawn):
        raise UserError("the runs share no face in their samples (maps.npz); evaluate them again")
    return [each for each in drawn if each]


def figure10(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draws the confusion matrix and the cosines by expression and layer of every run; returns the paths."""
    data_sets, _ = open_data_sets(folders, split)
    html.make_folder(out)
    paths = []
    for data in data_sets:
        for run in data.runs:
            stem = f"figure10-{_slug(data.name, run.name)}"
            named = dataclasses.replace(run, name=f"{run.name} on {data.name}")
            for suffix in (".png", ".svg"):
                paths.append(plots.confusion(named, out / f"{stem}-confusion{suffix}"))
                paths.append(plots.cosines(named, out / f"{stem}-cosines{suffix}"))
    return paths


def _slug(*names: str) -> str:
    """Returns names as a part of a file name."""
    return re.sub(r"[^\w.+=,-]+", "-", "-".join(names))


def figure5(folders: Sequence[str | pathlib.Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draws accuracy and cosines by `au_weight` for every sweep among the runs; returns figures and numbers."""
    data_sets, _ = open_data_sets(folders, split)
    sweeps: list[tuple[DataSet, list[Training]]] = []
    for data in data_sets:
        own: list[list[Training]] = []
        for each in sorted(data.trainings(), key=lambda each: each.metadata["au_weight"]):
            for sweep in own:
                if compare.differences([sweep[0].runs[0], each.runs[0]]).keys() <= {AU_WEIGHT, SEED}:
                    sweep.append(each)
                    break
            else:
                own.append([each])
        sweeps += [(data, sweep) for sweep in own if len(sweep) > 1]
    if not sweeps:
        names = ", ".join(run.name for data in data_sets for run in data.runs)
        raise UserError(f"figure5: expected runs that differ in --config.au_weight alone, got {names}")
    html.make_folder(out)
    paths = []
    for number, (data, sweep) in enumerate(sweeps, start=1):
        stem = "figure5" if len(sweeps) == 1 else f"figure5-{number}"
        points = {column: [column.read(each) for each in sweep] for column in (CL, CAM_COS, ATT_COS)}
        points = {column: own for column, own in points.items() if any(each.mean.value is not None for each in own)}
        paths += [_weight_curves(data, sweep, points, out / f"{stem}{suffix}") for suffix in (".png", ".svg")]
        header = ["au_weight", "selected_on", "seeds", *(name for column in points for name in column.headings)]
        rows = []
        for position, each in enumerate(sweep):
            names = [f"{each.metadata['au_weight']:g}", each.metadata["model_selection"], str(len(each.runs))]
            cells = [cell for column, own in points.items() for cell in column.cells(own[position])]
            known = each.metadata["baselines"]
            baselines = ["" if known[name] is None else f"{known[name]:.6g}" for name in BASELINE_MAPS]
            rows.append([*names, *cells, *baselines])
        header += [f"cosine of {title}" for title in BASELINE_MAPS.values()]
        paths.append(out / f"{stem}.csv")
        paths[-1].write_text(Table(header, rows).csv(), encoding="utf-8")
    return paths


def _weight_curves(
    data: DataSet, sweep: Sequence[Training], points: dict[Column, list[Seeds]], path: pathlib.Path
) -> pathlib.Path:
    first = sweep[0]
    note = (
        "Dashed: without AU cues (weight 0). Bars: 95 % intervals, over faces or subjects for one training, over seeds "
        f"for several.\nTo choose a weight, draw this of the validation split. {html.sentence('selection', first.runs[0])}"
    )
    title = f"{first.method} on {data.name} ({first.runs[0].split}): the weight of alignment"
    figure, ((cosines, accuracy),) = plots.new_figure(9.6, 5.3, title=title, note=note, columns=2)
    weights = [each.metadata["au_weight"] for each in sweep]
    published = data.is_published and (data.name, first.method) == (RAFDB, "CAM")
    for axes, name in ((cosines, "Cosine with the AU map"), (accuracy, "Accuracy, CL (%)")):
        plots.style(axes, title=name, x="weight of alignment (au_weight, the paper's λ)")
    for (column, numbers), colour, marker in zip(points.items(), plots.LINES, "os^", strict=False):
        axes, scale = (accuracy, 100) if column is CL else (cosines, 1)
        # Missing ends of intervals become NaN, which is not drawn.
        heights, low, high = scale * np.array([number.mean for number in numbers], float).T
        look = {"color": colour, "marker": marker, "markersize": 5}
        axes.errorbar(
            weights, heights, yerr=[heights - low, high - heights], elinewidth=1, label=column.heading, **look
        )
        if weights[0] == 0:
            axes.axhline(heights[0], color=colour, linestyle="--", linewidth=1)
        if published:
            values = [getattr(result, column.metric) for result in RESULTS[RAFDB]["CAM"]]
            hollow = look | {"markerfacecolor": "white", "linestyle": "none", "markersize": 8}
            axes.plot([0, 4], values, label=f"{column.heading}, published", **hollow)
    best = max(tables.baseline_rows(first.runs), key=lambda row: row[1] or 0)
    if best[1] is not None:
        label = f"best baseline map:\n{best[0]}"
        cosines.axhline(best[1], color="black", linestyle=":", linewidth=1, label=label)
    for axes in (cosines, accuracy):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, fontsize=plots.SMALL, frameon=False)
    return plots.save(figure, path)
