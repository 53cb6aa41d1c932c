"""Tables of evaluated runs: as HTML, Markdown, CSV and LaTeX, and for the console.

Accuracies are shown in percent with one decimal, cosines with three; a dash stands for what does not exist.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from aujax.report import charts, markup
from aujax.report.evaluations import Evaluation, Path, read

NONE = "–"
BASELINES = {name: words for name, (words, _) in charts.TRIVIAL.items()}
RESULTS = ["Run", "AU weight", "Protocol", "Accuracy (%)", "Mean-class accuracy (%)", "Macro F1 (%)"]
# What LaTeX reads otherwise, or does not know as a letter.
_LATEX = {name: f"\\{name}" for name in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
}


class Table(NamedTuple):
    """A header and rows of words; the first `left` columns are set to the left, the others to the right."""

    header: list[str]
    rows: list[list[str]]
    left: int = 1

    def markdown(self) -> str:
        """Returns the table in Markdown."""
        rule = [":--" if place < self.left else "--:" for place in range(len(self.header))]
        lines = [self.header, rule, *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)

    def html(self, caption: str) -> str:
        """Returns the table in HTML: it scrolls in its own frame, and its columns can be sorted."""
        return markup.table(self.header, self.rows, caption=caption, left=self.left)

    def csv(self) -> str:
        """Returns the table as comma-separated values, empty where a number is missing."""
        text = io.StringIO()
        lines = [[_ascii(cell) for cell in line] for line in (self.header, *self.rows)]
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()

    def latex(self, caption: str, *, label: str) -> str:
        """Returns the table as a LaTeX `table`, as wide as the text at most; it needs booktabs and graphicx."""
        columns = "l" * self.left + "r" * (len(self.header) - self.left)
        head, *body = (" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self.rows))
        lines = [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\label{{{label}}}\medskip",
            rf"\sbox0{{\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def console(self) -> rich.table.Table:
        """Returns the table for `rich.print`."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, name in enumerate(self.header):
            justify = "left" if place < self.left else "right"
            table.add_column(name.replace(" ", "\n"), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row))
        return table


def results(one: Evaluation) -> Table:
    """Returns the main table without intervals: the evaluation, then a row per trivial baseline."""
    about = [one.name, f"{one.metrics['au_weight']:g}", one.metrics["protocol"]]
    shares = [percent(one.metrics[name]) for name in ("cl", "balanced_accuracy", "macro_f1")]
    row = [*about, *shares, cosine(one.attention_cosine), cosine(one.metrics["cam_cos"])]
    return Table([*RESULTS, attention_heading([one]), "CAM-COS"], [row, *baseline_rows([one])])


def attention_heading(shown: Sequence[Evaluation]) -> str:
    """Returns the name of the column of attention cosines."""
    return "ATT-COS (layer)" if of_layer(shown[0], shown) else f"ATT-COS ({shown[0].layer})"


def of_layer(one: Evaluation, shown: Sequence[Evaluation]) -> str:
    """Returns the layer of an attention cosine to stand behind it, "" where it is the same in the whole column."""
    return f" ({one.layer})" if len({each.layer for each in shown}) > 1 else ""


def baseline_rows(shown: Sequence[Evaluation]) -> list[list[str]]:
    """Returns what needs no network: the most frequent class, and maps that do not look at the face; per codebook."""
    confusion = np.array(shown[0].metrics["confusion_matrix"])
    totals = confusion.sum(1)
    share, classes = totals.max() / totals.sum(), int((totals > 0).sum())
    # Whoever always names the class of that share has the F1 2 share / (share + 1) on it and 0 on the others.
    values = [percent(share), percent(1 / classes), percent(2 * share / (share + 1) / classes)]
    rows = [["most frequent expression", "", "", *values, NONE, NONE]]
    for name, value in trivial_maps(shown, lambda metrics: metrics["baselines"]):
        rows.append([name, "", "", NONE, NONE, NONE, *[cosine(value)] * 2])
    return rows


def trivial_maps(
    shown: Sequence[Evaluation], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[tuple[str, Any]]:
    """Returns the name and what `read` gives of every map that needs no network, once for each codebook."""
    books: dict[str, Mapping[str, Any]] = {}
    for one in shown:
        books.setdefault(one.metrics["codebook"], read(one.metrics))
    return [
        (words + (f" ({book})" if len(books) > 1 else ""), found[name])
        for book, found in books.items()
        for name, words in BASELINES.items()
        if name in found
    ]


def by_expression(one: Evaluation) -> Table:
    """Returns the numbers of every expression, without intervals."""
    header = ["Expression", "Faces", "With AU map", "Accuracy (%)", "ATT-COS", "CAM-COS", "Best trivial map"]
    rows = []
    for expression in one.metrics["expressions"]:
        values = one.metrics["per_class"][expression]
        counts = [str(values["num_examples"]), str(values["num_maps"])]
        accuracy = percent(values["accuracy"] if values["num_examples"] else None)
        cosines = [cosine(values["att_cos"][one.layer]), cosine(values.get("cam_cos"))]
        rows.append([expression, *counts, accuracy, *cosines, cosine(best_trivial(values["baselines"]))])
    return Table(header, rows)


def confusion(one: Evaluation) -> Table:
    """Returns how many faces of each expression (rows) were called what (columns)."""
    names, matrix = one.metrics["expressions"], one.metrics["confusion_matrix"]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix, strict=True)]
    return Table(["True, and recognised as", *names], rows)


def by_expression_and_layer(one: Evaluation) -> Table:
    """Returns the cosine of every layer's attention, and of the CAM, with the AU map, of every expression."""
    layers, metrics = list(one.metrics["att_cos"]), one.metrics["per_class"]
    header = ["Expression", *(f"Attention, {layer}" for layer in layers), "CAM", *BASELINES.values()]
    rows = []
    for name in one.metrics["expressions"]:
        values = metrics[name]
        cosines = [*(values["att_cos"][layer] for layer in layers), values.get("cam_cos")]
        rows.append([name, *map(cosine, [*cosines, *(values["baselines"][each] for each in BASELINES)])])
    return Table(header, rows)


def best_trivial(baselines: Mapping[str, float | None]) -> float | None:
    """Returns the highest cosine that a map reaches without a network."""
    return max((value for value in baselines.values() if value is not None), default=None)


def print_evaluation(directory: Path) -> None:
    """Print the results of RUN/eval/<split>, overall and by expression, and where they are."""
    evaluation, console = read(directory), rich.console.Console()
    console.print(results(evaluation).console())
    console.print(by_expression(evaluation).console())
    if words := without_pattern(evaluation):
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    console.print(f"evaluation: {evaluation.directory}", markup=False, highlight=False, soft_wrap=True)


def without_pattern(evaluation: Evaluation) -> str:
    """Returns how many maps show nothing, and where to find them, in a sentence; "" where all are fine."""
    metrics = evaluation.metrics
    counts = {"CAM": metrics["cam_without_pattern"]}
    counts |= {f"attention at {layer}": count for layer, count in metrics["att_without_pattern"].items()}
    found = [f"the {name} of {count}" for name, count in counts.items() if count]
    if not found:
        return ""
    return (
        f"Maps without a pattern, the same everywhere or not finite: {', '.join(found)} of {metrics['num_examples']} "
        "faces. The averages count them; examples.csv names them in its column without_pattern."
    )


def percent(share: float | None) -> str:
    """Returns a share of 1 in percent.

    >>> percent(0.7825), percent(None)
    ('78.2', '–')
    """
    return NONE if share is None else f"{100 * share:.1f}".replace("-", "−")


def cosine(value: float | None) -> str:
    """Returns a cosine in words.

    >>> cosine(0.8125)
    '0.812'
    """
    return NONE if value is None else f"{value:.3f}".replace("-", "−")


def difference(before: float | None, after: float | None, *, decimals: int = 3, scale: float = 1) -> str:
    """Returns after - before with its sign.

    >>> difference(0.5, 0.75), difference(0.8, 0.75, decimals=1, scale=100)
    ('+0.250', '−5.0')
    """
    if before is None or after is None:
        return NONE
    return f"{scale * (after - before):+.{decimals}f}".replace("-", "−")


def _ascii(cell: str) -> str:
    return "" if cell == NONE else cell.replace("−", "-").replace("`", "")


def _latex(cell: str) -> str:
    cell = re.sub("[" + re.escape("".join(_LATEX)) + "]", lambda found: _LATEX[found[0]], cell)
    return re.sub(r"`([^`]+)`", r"\\texttt{\1}", cell)
