"""Tables of text: how numbers are written, and the main tables of pages and console.

Numbers are written by the unit of their metric: shares in percent and changes of probability in percentage points, with
one decimal; scores with three. A dash marks a number that does not exist.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import rich.box
import rich.console
import rich.table
import rich.text

from aujax.results import compare
from aujax.results.compare import Comparison
from aujax.results.registry import ATTENTION, BASELINE_MAPS, BASELINE_ORDERINGS, HEADLINE, METRICS, Metric, by_topic
from aujax.results.schema import EvaluatedRun
from aujax.results.statistics import Interval

NONE = "–"
Where = dict[str, str]  # arguments of `EvaluatedRun.interval`
# Characters that LaTeX would interpret, or does not have, each before its replacement.
_LATEX = r"""
& \& % \% $ \$ # \# _ \_ { \{ } \} \ \textbackslash{} ~ \textasciitilde{} ^ \textasciicircum{}
− $-$ – -- ± $\pm$ × $\times$ λ $\lambda$ ≥ $\geq$ → $\rightarrow$
"""
_CHARACTERS = _LATEX.split()
_TO_LATEX = str.maketrans(dict(zip(_CHARACTERS[::2], _CHARACTERS[1::2], strict=True)))


class Table(NamedTuple):
    """A header and rows of text; the first `text_columns` columns hold text, the others numbers."""

    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1

    def markdown(self) -> str:
        """Returns the table in Markdown."""
        rule = [":--" if column < self.text_columns else "--:" for column in range(len(self.header))]
        lines = [self.header, rule, *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)

    def latex(self, caption: str, *, label: str) -> str:
        """Returns the table as a LaTeX `table`, at most as wide as the text; it needs booktabs and graphicx."""
        columns = "l" * self.text_columns + "r" * (len(self.header) - self.text_columns)
        head, *body = (" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self.rows))
        rows = "\n".join(body)
        return rf"""% \usepackage{{booktabs,graphicx}}
\begin{{table}}
\centering
\caption{{{_latex(caption)}}}
\label{{{label}}}\medskip
\sbox0{{\begin{{tabular}}{{{columns}}}
\toprule
{head}
\midrule
{rows}
\bottomrule
\end{{tabular}}}}
\ifdim\wd0>\linewidth\resizebox{{\linewidth}}{{!}}{{\usebox0}}\else\usebox0\fi
\end{{table}}
"""

    def console(self) -> rich.table.Table:
        """Returns the table for `rich.print`."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column, name in enumerate(self.header):
            justify = "left" if column < self.text_columns else "right"
            table.add_column(name.replace(" ", "\n"), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row))
        return table


def _latex(cell: str) -> str:
    return re.sub(r"`([^`]+)`", r"\\texttt{\1}", cell.translate(_TO_LATEX))


def number(value: float | None, unit: str, *, signed: bool = False) -> str:
    """Returns a number in its unit; NaN and None are a dash.

    >>> number(0.7825, "percent"), number(-0.025, "points"), number(0.8125, "score"), number(None, "score")
    ('78.2', '−2.5', '0.812', '–')
    """
    if value is None or pd.isna(value):
        return NONE
    scale, decimals = (100, 1) if unit in ("percent", "points") else (1, 3)
    sign = "+" if signed or unit == "points" else ""
    return f"{scale * value:{sign}.{decimals}f}".replace("-", "−")


def with_interval(interval: Interval | None, unit: str, *, signed: bool = False, deviation: float | None = None) -> str:
    """Returns a number with its interval, and its standard deviation over seeds if there is one.

    >>> with_interval(Interval(0.75, 0.7, 0.8), "percent", deviation=0.01)
    '75.0 ± 1.0 [70.0, 80.0]'
    >>> with_interval(Interval(0.125), "score", signed=True)
    '+0.125'
    """
    if interval is None or interval.value is None:
        return NONE
    text = number(interval.value, unit, signed=signed)
    if deviation is not None:
        text += f" ± {number(deviation, unit).removeprefix('+')}"
    if interval.low is not None:
        low, high = (number(end, unit, signed=signed) for end in (interval.low, interval.high))
        text += f" [{low}, {high}]"
    return text


def p_value(value: float | None) -> str:
    """Returns a p-value; "1.000" if there were too few faces or subjects for a test.

    >>> p_value(0.0312), p_value(0.0004), p_value(None)
    ('0.031', '< 0.001', '1.000')
    """
    if value is None or pd.isna(value):
        value = 1.0
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def option(value: Any) -> str:
    """Returns the value of an option.

    >>> option(0.5), option(["layer4", "layer5"]), option([])
    ('0.5', 'layer4+layer5', 'default')
    """
    if isinstance(value, list):
        return "+".join(map(str, value)) or "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def heading(metric: Metric, runs: Sequence[EvaluatedRun] = ()) -> str:
    """Returns the heading of a metric's column: title, unit, and the layer of the attention if all runs report it."""
    layers = {run.layer for run in runs}
    if metric.maps == (ATTENTION,) and len(layers) == 1:
        return f"{metric.title} ({layers.pop()})"
    return metric.title + {"percent": " (%)", "points": " (points)"}.get(metric.unit, "")


def map_title(name: str) -> str:
    """Returns the name of a map as it is shown.

    >>> map_title("layer5"), map_title("cam"), map_title("random"), map_title("uniform")
    ('Attention, layer5', 'CAM', 'Random ordering', 'Uniform map')
    """
    title = (BASELINE_MAPS | BASELINE_ORDERINGS).get(name)
    if title is not None:
        return title[0].upper() + title[1:]
    return {"cam": "CAM", ATTENTION: "Attention"}.get(name, f"Attention, {name}")


def columns_of(metrics: Iterable[Metric], runs: Sequence[EvaluatedRun] = (), **where: str) -> dict[str, Where]:
    """Returns a column of `grid` per metric, of its target expression if it has but one."""
    columns = {}
    for metric in metrics:
        target = {"target": metric.targets[0]} if len(metric.targets) == 1 and not metric.headline else {}
        columns[heading(metric, runs)] = {"metric": metric.key} | target | where
    return columns


def cosine_columns(maps: Iterable[str], **where: str) -> dict[str, Where]:
    """Returns a column of `grid` per map: its cosine with the AU map of the label."""
    return {map_title(name): {"metric": "cosine", "map": name, "target": "label"} | where for name in maps}


def grid(
    runs: Sequence[EvaluatedRun],
    columns: Mapping[str, Where],
    *,
    first: str = "",
    by: str = "",
    labels: Mapping[str, str] | None = None,
    counts: Mapping[str, Callable[[EvaluatedRun, str], str]] | None = None,
    intervals: bool = True,
    missing: str = "",
) -> Table:
    """Returns a table of numbers of the runs, a row per label and run.

    Args:
      runs: their names are a column if there are several, or no labels.
      columns: by heading, the arguments of `EvaluatedRun.interval`.
      first: the heading of the column of labels.
      by: the argument of `EvaluatedRun.interval` that varies from label to label.
      labels: values of that argument, and how they are shown.
      counts: further columns before the numbers: heading and text for a run and a label.
      intervals: whether numbers have intervals.
      missing: the text in rows without any number; "" leaves them out.
    """
    counts = counts or {}
    name_runs = len(runs) > 1 or not labels
    rows = []
    for value, label in (labels or {"": ""}).items():
        for run in runs:
            cells = []
            for where in columns.values():
                interval = run.interval(**(where | ({by: value} if by else {})))
                if not intervals:
                    interval = Interval(interval.value)
                metric = METRICS[where["metric"]]
                # Gains over a random ordering are differences.
                signed = metric.topic == "perturbation" and metric.chance == 0
                cells.append(with_interval(interval, metric.unit, signed=signed))
            if set(cells) == {NONE}:
                if not missing:
                    continue
                cells = [missing] * len(cells)
            names = ([label] if labels else []) + ([run.name] if name_runs else [])
            rows.append([*names, *(text(run, value) for text in counts.values()), *cells])
    header = ([first] if labels else []) + (["Run"] if name_runs else [])
    return Table([*header, *counts, *columns], rows, len(header))


def results_table(runs: Sequence[EvaluatedRun], *, intervals: bool = True) -> Table:
    """Returns the main results, a row per run, then what a constant prediction and the baseline maps reach."""
    metrics = by_topic("classification") + by_topic("agreement")
    counts = {
        "AU weight": lambda run, _: f"{run.metadata['au_weight']:g}",
        "Selected on": lambda run, _: run.metadata["model_selection"],
    }
    if len({run.layer for run in runs}) > 1:
        counts["Layer"] = lambda run, _: run.layer
    table = grid(runs, columns_of(metrics, runs), counts=counts, intervals=intervals)
    chance = {metric: runs[0].chance(metric.key) for metric in metrics}
    rows = [("most frequent expression", chance)]
    for title, cosine in baseline_rows(runs):
        rows.append((title, {metric: cosine if metric.maps else None for metric in metrics}))
    for title, values in rows:
        numbers = [number(value, metric.unit) for metric, value in values.items()]
        table.rows.append([title, *[""] * len(counts), *numbers])
    return table


def baseline_rows(runs: Sequence[EvaluatedRun]) -> list[tuple[str, float | None]]:
    """Returns title and cosine of every baseline map: they depend on the codebook, but not on the network."""
    codebooks = {}
    for run in runs:
        codebooks.setdefault(run.metadata["codebook"], run.metadata["baselines"])
    rows = []
    for codebook, cosines in codebooks.items():
        for name, title in BASELINE_MAPS.items():
            rows.append((f"{title} ({codebook})" if len(codebooks) > 1 else title, cosines.get(name)))
    return rows


def expression_table(runs: Sequence[EvaluatedRun], *, intervals: bool = True) -> Table:
    """Returns the numbers of every expression, with the cosines of the baseline maps."""
    metrics = [metric for metric in METRICS.values() if metric.headline and metric.by_expression]
    columns = columns_of(metrics, runs, attribute="expression")
    columns |= cosine_columns(BASELINE_MAPS, attribute="expression")
    counts = {
        "Faces": lambda run, name: str(run.metadata["per_expression"][name]["num_faces"]),
        "With AU map": lambda run, name: str(run.metadata["per_expression"][name]["num_maps"]),
    }
    labels = {name: name for name in runs[0].expressions}
    return grid(runs, columns, first="Expression", by="group", labels=labels, counts=counts, intervals=intervals)


def idea_table(comparison: Comparison) -> Table | None:
    """Returns the main numbers without and with AU cues, their difference, and the best baseline; None without pairs.

    Pairs that differ in their seed alone are one comparison: means over seeds.
    """
    contrasts = comparison.contrasts
    if not contrasts:
        return None
    rows = []
    for contrast in contrasts:
        seeds = len(contrast.pairs)
        names = f"{contrast.before[0].name} → {contrast.after[0].name}" + (f", {seeds} seeds" if seeds > 1 else "")
        run = contrast.after[0]
        cosines = {title: value for title, value in baseline_rows([run]) if value is not None}
        for metric in (METRICS[key] for key in HEADLINE):
            difference = comparison.difference(contrast, metric.key)
            if difference is None:
                continue
            cells = []
            for runs in (contrast.before, contrast.after):
                value, deviation, _ = compare.over_seeds(runs, metric.key)
                cells.append(with_interval(value, metric.unit, deviation=deviation))
            cells.append(with_interval(difference, metric.unit, signed=True))
            baselines: dict[str, Any] = cosines if metric.maps else {"most frequent expression": run.chance(metric.key)}
            name, best = max(baselines.items(), key=lambda item: item[1])
            rows.append([names, heading(metric, [run]), *cells, f"{number(best, metric.unit)} ({name})"])
    cues_alone = all(
        pair.before.metadata["au_weight"] == 0 < pair.after.metadata["au_weight"] for pair in comparison.pairs
    )
    sides = ["Without AU cues", "With AU cues"] if cues_alone else ["First run", "Second run"]
    header = ["Measure", *sides, "Difference", "Best baseline"]
    if len(contrasts) == 1 and cues_alone:
        return Table(header, [row[1:] for row in rows])
    return Table(["Runs", *header], rows, 2)


def degenerate_sentence(run: EvaluatedRun) -> str:
    """Returns how many maps are degenerate, and where they are named; "" if none is."""
    faces = run.metadata["num_faces"]
    titles = []
    for row in run.tables.rows("degenerate").to_dict("records"):
        if row["value"] > 0:
            name = "CAM" if row["map"] == "cam" else f"attention at {row['map']}"
            titles.append(f"the {name} of {round(row['value'] * faces)}")
    if not titles:
        return ""
    return (
        f"Degenerate maps, constant or not finite: {', '.join(titles)} of {faces} faces. They are included in the "
        "means; the column `degenerate` of faces.csv names them."
    )


def print_evaluation(run: EvaluatedRun) -> None:
    """Prints the numbers of an evaluation, overall and by expression, and where its files are."""
    console = rich.console.Console()
    console.print(results_table([run], intervals=False).console())
    table = expression_table([run], intervals=False)
    # Only the best baseline map, so that the table fits into a terminal; either all of them are known or none.
    first = -len(BASELINE_MAPS)
    rows = [[*row[:first], max(row[first:])] for row in table.rows]
    console.print(Table([*table.header[:first], "Best baseline map"], rows).console())
    if sentence := degenerate_sentence(run):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(f"evaluation: {run.directory}", markup=False, highlight=False, soft_wrap=True)
