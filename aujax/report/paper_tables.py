"""The paper's tables from run folders, our numbers beside the published ones: Markdown, CSV and LaTeX.

Table 1: accuracy (CL) and CAM-COS, Table 2: ATT-COS, both by data set and method without and with action-unit (AU)
cues. Table 3: all three by the layers that alignment pulls on. The CSV files hold plain numbers, with the ends of the
interval and the standard deviation in columns of their own.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aujax.report import experiments, people, published, seeds, tables
from aujax.report.evaluations import Path
from aujax.report.experiments import DataSet, Experiments, Training
from aujax.report.output import make_folder
from aujax.report.provenance import PROTOCOLS
from aujax.report.seeds import Number
from aujax.report.tables import NONE, Table
from aujax.statistics import Interval

_PLAIN = ("", ", low", ", high", ", standard deviation")


class Measure(NamedTuple):
    """A number of the tables: its heading, how it is read from a training, written, and found in the paper."""

    heading: str
    read: Callable[[Training], Number]
    words: Callable[[Number], str]
    of_paper: Callable[[published.Result], float | None]


def _last_layer(training: Training) -> Number:
    return seeds.attention_cosine(training.runs, list(training.metrics["att_cos"])[-1])


CL = Measure("CL (%)", lambda one: seeds.accuracy(one.runs), Number.percent, lambda result: result.cl)
CAM_COS = Measure("CAM-COS", lambda one: seeds.cam_cosine(one.runs), Number.cosine, lambda result: result.cam)
ATT_COS = Measure(
    "ATT-COS",
    lambda one: seeds.attention_cosine(one.runs, one.first.evaluation.layer),
    Number.cosine,
    lambda result: result.attention,
)
LAST_ATT_COS = ATT_COS._replace(heading="ATT-COS, last layer", read=_last_layer)


class Line(NamedTuple):
    """A row of a table: what it is about, our numbers, and the published ones."""

    about: list[str]
    numbers: list[Number]
    paper: published.Result | None = None


def table1(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Write the paper's Table 1, CL and CAM-COS by data set and method; return the paths."""
    caption = "Classification (CL, accuracy in %) and CAM-localisation (CAM-COS), without and with AU cues."
    return _by_method(folders, split, out / "table1", (CL, CAM_COS), caption)


def table2(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Write the paper's Table 2, ATT-COS by data set and method; return the paths."""
    caption = "Attention-localisation (ATT-COS) at the layer that is aligned, without and with AU cues."
    return _by_method(folders, split, out / "table2", (ATT_COS,), caption)


def table3(folders: Sequence[Path], split: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Write the paper's Table 3, what the choice of aligned layers does; return the paths."""
    shown, measures = experiments.open_all(folders, split), (CL, CAM_COS, LAST_ATT_COS)
    lines = []
    for data in shown.data_sets:
        for one in sorted(data.trainings(shown=["au_layers"]), key=lambda one: (one.method, len(one.layers))):
            known = data.is_papers and (data.name, one.method) == (published.RAFDB, "CAM")
            about = [data.name, one.label, " + ".join(one.layers) or "none (w/o AU)", *_how(one)]
            numbers = [measure.read(one) for measure in measures]
            lines.append(Line(about, numbers, published.LAYERS.get(one.layers) if known else None))
        lines += _trivial(data, measures, blank=3)
    caption = (
        "The layers that alignment pulls on: classification (CL, accuracy in %), CAM-localisation (CAM-COS) and, "
        "whichever is aligned, the attention of the last layer (ATT-COS)."
    )
    header = ["Data set", "Method", "Aligned layers", "Protocol", "Seeds"]
    return _write(out / "table3", header, measures, lines, f"{caption} {_about(shown, 'Table 3 (ATT-COS: Table 2)')}")


def _by_method(
    folders: Sequence[Path], split: str, path: pathlib.Path, measures: Sequence[Measure], caption: str
) -> list[pathlib.Path]:
    shown, lines = experiments.open_all(folders, split), []
    for data in shown.data_sets:
        for one in data.trainings():
            pair = published.RESULTS[data.name].get(one.method) if data.is_papers else None
            about = [data.name, one.label, "w/ AU" if one.aligned else "w/o AU", *_how(one)]
            lines.append(Line(about, [measure.read(one) for measure in measures], pair and pair[one.aligned]))
        lines += _trivial(data, measures, blank=3)
    header = ["Data set", "Method", "Case", "Protocol", "Seeds"]
    return _write(path, header, measures, lines, f"{caption} {_about(shown, f'Table {path.name[-1]}')}")


def _how(training: Training) -> list[str]:
    return [training.metrics["protocol"], str(len(training.runs))]


def _trivial(data: DataSet, measures: Sequence[Measure], *, blank: int) -> list[Line]:
    """Returns what needs no network: always the most frequent expression, and maps that do not look at the face."""
    totals = [sum(row) for row in data.metrics["confusion_matrix"]]
    numbers = [_known(max(totals) / sum(totals) if measure is CL else None) for measure in measures]
    lines = [Line([data.name, "most frequent expression", *[""] * blank], numbers)] if CL in measures else []
    trivial = tables.trivial_maps([run.evaluation for run in data.runs], lambda metrics: metrics["baselines"])
    for name, value in trivial:
        numbers = [_known(None if measure is CL else value) for measure in measures]
        lines.append(Line([data.name, name, *[""] * blank], numbers))
    return lines


def _known(value: float | None) -> Number:
    return Number(None if value is None else Interval(value, None, None))


def _about(shown: Experiments, table: str) -> str:
    """Returns the caption's sentences on faces, protocols, intervals and what is published."""
    runs = [run for data in shown.data_sets for run in data.runs]
    protocols = sorted({run.metrics["protocol"] for run in runs})
    rows = {data.name: data.runs[0].evaluation.examples() for data in shown.data_sets}
    faces = [
        f"{data.name} ({people.faces(rows[data.name].people)}, split {data.metrics['split']}, "
        f"{data.metrics['num_maps']} with an AU map, fingerprint {data.metrics['data']['fingerprint'][:12]})"
        for data in shown.data_sets
    ]
    books = sorted({run.metrics["codebook"] for run in runs})
    sentences = [
        f"Evaluated on {'; '.join(faces)}; AU maps of the codebook {', '.join(books)}.",
        *(f"Protocol {name}: {PROTOCOLS[name]}" for name in protocols),
        seeds.HOW,
        *_named([(name, people.consequence(each)) for name, each in rows.items()]),
        "Rows without a protocol need no network.",
    ]
    if papers := [data.name for data in shown.data_sets if data.is_papers]:
        tested = " and ".join(f"{published.FACES[name]} faces of {name}" for name in papers)
        sentences.append(
            f"Published: {published.SOURCE}, {table}, on the {tested}: one training, no intervals, protocol paper."
        )
    if shown.left_out:
        names = ", ".join(folder.name for folder in shown.left_out)
        sentences.append(f"Left out, for their evaluation on this split is missing or damaged: {names}.")
    return " ".join(sentences)


def _named(said: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the sentences on data sets, after the name of each where they are not the same for all."""
    sentences = list(dict.fromkeys(words for _, words in said))
    return sentences if len(sentences) == 1 else [f"{name}: {words}" for name, words in said]


def _write(
    path: pathlib.Path, about: list[str], measures: Sequence[Measure], lines: Sequence[Line], caption: str
) -> list[pathlib.Path]:
    headings = [measure.heading for measure in measures]
    papers = [[_printed(measure, line.paper) for measure in measures] for line in lines]
    words, plain = [], []
    for line, paper in zip(lines, papers, strict=True):
        written = [measure.words(number) for measure, number in zip(measures, line.numbers, strict=True)]
        words.append(line.about + [cell for pair in zip(written, paper, strict=True) for cell in pair])
        numbers = zip(line.numbers, paper, strict=True)
        plain.append(line.about + [cell for number, known in numbers for cell in (*number.plain(), known)])
    shown = Table(about + [cell for name in headings for cell in (name, f"{name}, published")], words, len(about) - 1)
    columns = [cell for measure in measures for cell in (*plain_columns(measure), f"{measure.heading}, published")]
    whole = Table(about + columns, plain)
    contents = {
        ".md": f"{caption}\n\n{shown.markdown()}\n",
        ".csv": whole.csv(),
        ".tex": shown.latex(caption, label=f"tab:{path.name}"),
    }
    make_folder(path.parent)
    for suffix, text in contents.items():
        path.with_suffix(suffix).write_text(text, encoding="utf-8")
    return [path.with_suffix(suffix) for suffix in contents]


def plain_columns(measure: Measure) -> list[str]:
    """Returns the headings of `Number.plain`."""
    return [measure.heading.removesuffix(" (%)") + end for end in _PLAIN]


def _printed(measure: Measure, result: published.Result | None) -> str:
    """Returns the published number as it was printed."""
    value = result and measure.of_paper(result)
    return NONE if value is None else f"{value:.2f}"
