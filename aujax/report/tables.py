"""Tables of evaluated runs, as Markdown and for the console.

Accuracies are shown in percent with one decimal, cosines with three; a dash stands for what does not exist.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import rich.box
import rich.console
import rich.table
import rich.text

from aujax.report.evaluations import Evaluation, Path, read

NONE = "–"
_BASELINES = {
    "uniform": "flat map",
    "centred_gaussian": "Gaussian in the middle",
    "all_au_map": "all action units at once",
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

    def console(self) -> rich.table.Table:
        """Returns the table for `rich.print`."""
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for place, name in enumerate(self.header):
            justify = "left" if place < self.left else "right"
            table.add_column(name.replace(" ", "\n"), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*map(rich.text.Text, row))
        return table


def results(shown: Sequence[Evaluation], changes: Sequence[tuple[Evaluation, Evaluation]] = ()) -> Table:
    """Returns the main table: a row per evaluation, per change (before, after), and per trivial baseline."""
    layers = {one.layer for one in shown}
    attention = f"ATT-COS ({shown[0].layer})" if len(layers) == 1 else "ATT-COS (layer)"
    header = ["Run", "AU weight", "Accuracy (%)", "Balanced accuracy (%)", attention, "CAM-COS"]
    rows = []
    for one in shown:
        layer = "" if len(layers) == 1 else f" ({one.layer})"
        accuracies = [percent(one.metrics["cl"]), percent(one.metrics["balanced_accuracy"])]
        cosines = [cosine(one.attention_cosine) + layer, cosine(one.metrics["cam_cos"])]
        rows.append([one.name, f"{one.metrics['au_weight']:g}", *accuracies, *cosines])
    rows += [[f"{after.name} − {before.name}", "", *_change(before, after)] for before, after in changes]
    return Table(header, rows + _baseline_rows(shown))


def by_expression(shown: Sequence[Evaluation]) -> Table:
    """Returns the numbers of every expression, a row per evaluation; the expression is named in its first row."""
    header = ["Expression", "Run", "Faces", "With AU map", "Accuracy (%)", "ATT-COS", "CAM-COS"]
    rows = []
    for expression in shown[0].metrics["expressions"]:
        for one in shown:
            values = one.metrics["per_class"][expression]
            counts = [str(values["num_examples"]), str(values["num_maps"])]
            accuracy = percent(values["accuracy"] if values["num_examples"] else None)
            cosines = [cosine(values["att_cos"][one.layer]), cosine(values.get("cam_cos"))]
            rows.append([expression if one is shown[0] else "", one.name, *counts, accuracy, *cosines])
    return Table(header, rows, left=2)


def print_evaluation(directory: Path) -> None:
    """Print the results of RUN/eval/<split>, overall and by expression, and where they are."""
    evaluation, console = read(directory), rich.console.Console()
    console.print(results([evaluation]).console())
    console.print(by_expression([evaluation]).console())
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
    return NONE if share is None else f"{100 * share:.1f}"


def cosine(value: float | None) -> str:
    """Returns a cosine in words.

    >>> cosine(0.8125)
    '0.812'
    """
    return NONE if value is None else f"{value:.3f}"


def difference(before: float | None, after: float | None, *, decimals: int = 3, scale: float = 1) -> str:
    """Returns after - before with its sign.

    >>> difference(0.5, 0.75), difference(0.8, 0.75, decimals=1, scale=100)
    ('+0.250', '−5.0')
    """
    if before is None or after is None:
        return NONE
    return f"{scale * (after - before):+.{decimals}f}".replace("-", "−")


def _change(before: Evaluation, after: Evaluation) -> list[str]:
    a, b = before.metrics, after.metrics
    accuracies = [difference(a[name], b[name], decimals=1, scale=100) for name in ("cl", "balanced_accuracy")]
    attention = difference(before.attention_cosine, after.attention_cosine)
    return [*accuracies, attention, difference(a["cam_cos"], b["cam_cos"])]


def _baseline_rows(shown: Sequence[Evaluation]) -> list[list[str]]:
    """What needs no network: the most frequent class, and maps that do not look at the face; per codebook."""
    metrics = shown[0].metrics
    totals = [sum(row) for row in metrics["confusion_matrix"]]
    shares = [percent(max(totals) / sum(totals)), percent(1 / sum(total > 0 for total in totals))]
    rows = [["most frequent expression", "", *shares, NONE, NONE]]
    books: dict[str, dict[str, Any]] = {}
    for one in shown:
        books.setdefault(one.metrics["codebook"], one.metrics["baselines"])
    for book, values in books.items():
        of = f" ({book})" if len(books) > 1 else ""
        for name, words in _BASELINES.items():
            rows.append([words + of, "", NONE, NONE, *[cosine(values[name])] * 2])
    return rows
