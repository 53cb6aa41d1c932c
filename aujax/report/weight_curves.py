"""The paper's Fig. 5 from run folders: accuracy and cosines by the weight of alignment, as PNG, SVG and CSV."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from aujax.errors import UserError
from aujax.report import evaluations, experiments, paper_figures, published, tables
from aujax.report.evaluations import EXPECTED_DIFFERENCE, SEED, Path
from aujax.report.experiments import DataSet, Training
from aujax.report.paper_tables import ATT_COS, CAM_COS, CL, Measure, plain_columns
from aujax.report.provenance import PROTOCOLS
from aujax.report.seeds import Number
from aujax.report.sheet import GREY, LARGE, LINES, NORMAL, SMALL, Sheet

_MARKERS = "os^"
Curves = Mapping[Measure, Sequence[tuple[float, Number]]]  # by weight, in order


def figure5(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Draw the curves of every sweep of `au_weight` among the runs; return the paths of figures and numbers."""
    shown = experiments.open_all(folders, split)
    sweeps = [(data, sweep) for data in shown.data_sets for sweep in _sweeps(data)]
    if not sweeps:
        names = ", ".join(run.name for data in shown.data_sets for run in data.runs)
        raise UserError(f"figure5: expected runs that differ in --config.au_weight alone, got {names}")
    written = []
    for number, (data, sweep) in enumerate(sweeps):
        path = out / ("figure5" if len(sweeps) == 1 else f"figure5-{number + 1}")
        curves = {measure: [(_weight(one), measure.read(one)) for one in sweep] for measure in (CL, CAM_COS, ATT_COS)}
        curves = {name: points for name, points in curves.items() if any(n.interval for _, n in points)}
        written += paper_figures.save({path: lambda to, at=(data, sweep[0], curves): _draw(*at, to)})
        written.append(_write(curves, sweep, path.with_suffix(".csv")))
    return written


def _sweeps(data: DataSet) -> list[list[Training]]:
    """Returns the trainings that differ in their weight alone, at least two, in its order."""
    found: list[list[Training]] = []
    for one in sorted(data.trainings(), key=_weight):
        for sweep in found:
            if evaluations.differences([sweep[0].first, one.first]).keys() <= {EXPECTED_DIFFERENCE, SEED}:
                sweep.append(one)
                break
        else:
            found.append([one])
    return [sweep for sweep in found if len(sweep) > 1]


def _weight(training: Training) -> float:
    return training.metrics["au_weight"]


def _draw(data: DataSet, first: Training, curves: Curves, path: pathlib.Path) -> pathlib.Path:
    sheet, metrics = Sheet(9.6, 5.1), first.metrics
    title = f"{first.method} on {data.name} ({metrics['split']}): the weight of alignment"
    sheet.text(0.3, 0.12, title, fontsize=LARGE, weight="bold")
    accuracy, cosines = _axes(sheet, 5.6, "Accuracy, CL (%)"), _axes(sheet, 0.7, "Cosine with the action-unit map")
    known = data.is_papers and (data.name, first.method) == (published.RAFDB, "CAM")
    for number, (measure, points) in enumerate(curves.items()):
        axes, scale = (accuracy, 100) if measure is CL else (cosines, 1)
        style = {"color": LINES[number], "marker": _MARKERS[number], "markersize": 5}
        _curve(axes, points, scale, measure.heading, style)
        if known:
            paper = {weight: measure.of_paper(result) for weight, result in published.WEIGHTS.items()}
            hollow = style | {"markerfacecolor": "white", "linestyle": "none", "markersize": 8}
            axes.plot(list(paper), list(paper.values()), label=f"{measure.heading}, published", **hollow)
    trivial = {tables.BASELINES[name]: value for name, value in metrics["baselines"].items() if value is not None}
    if trivial:
        best = max(trivial, key=lambda name: trivial[name])
        cosines.axhline(
            trivial[best], color="black", linestyle=":", linewidth=1, label=f"best without a network:\n{best}"
        )
    for axes in (cosines, accuracy):
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, fontsize=SMALL, frameon=False)
    protocol = metrics["protocol"]
    note = (
        "Dashed: without AU cues (weight 0). Bars: 95 % intervals, over the faces, or people, for one training, over "
        "the seeds for several.\nTo choose a weight, draw this of the split validation. "
        f"Protocol {protocol}: {PROTOCOLS[protocol]}"
    )
    sheet.text(0.3, 4.6, note, fontsize=SMALL, color=GREY)
    return sheet.save(path)


def _curve(
    axes: Any, points: Sequence[tuple[float, Number]], scale: float, label: str, style: Mapping[str, Any]
) -> None:
    """Draw a curve with its intervals, and a dashed line at the height it has at weight 0."""
    drawn = [(weight, number.interval) for weight, number in points if number.interval]
    heights = [scale * (interval.value or 0) for _, interval in drawn]
    axes.plot([weight for weight, _ in drawn], heights, label=label, **style)
    for weight, interval in drawn:
        if interval.low is not None and interval.high is not None:
            axes.plot([weight] * 2, [scale * interval.low, scale * interval.high], color=style["color"], linewidth=1)
    if drawn[0][0] == 0:
        axes.axhline(heights[0], color=style["color"], linestyle="--", linewidth=1)


def _axes(sheet: Sheet, left: float, title: str) -> Any:
    axes = sheet.axes(left, 0.75, 3.7, 2.6)
    axes.set_title(title, fontsize=NORMAL, loc="left")
    axes.set_xlabel("weight of alignment (au_weight, the paper's λ)", fontsize=SMALL)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _write(curves: Curves, sweep: Sequence[Training], path: pathlib.Path) -> pathlib.Path:
    """Write the points: shares and cosines, not percent."""
    header = ["au_weight", "protocol", "seeds"]
    header += [column for measure in curves for column in plain_columns(measure)]
    header += [f"cosine of {words}" for words in tables.BASELINES.values()]
    rows = []
    for place, one in enumerate(sweep):
        numbers = [cell for points in curves.values() for cell in points[place][1].plain()]
        known = [one.metrics["baselines"][name] for name in tables.BASELINES]
        trivial = ["" if value is None else f"{value:.6g}" for value in known]
        rows.append([f"{_weight(one):g}", one.metrics["protocol"], str(len(one.runs)), *numbers, *trivial])
    path.write_text(tables.Table(header, rows).csv(), encoding="utf-8")
    return path
