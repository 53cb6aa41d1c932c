"""The report of one or several evaluated runs: a Markdown page with its figures beside it.

Runs that were trained with and without action-unit (AU) cues, and are otherwise equal, are set against each other;
whatever else differs between them is said.
"""

import datetime
import pathlib
import shlex
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from aujax import __version__, codebook, run_files
from aujax.errors import UserError
from aujax.report import charts, evaluations, figures, tables
from aujax.report.evaluations import EvaluatedRun, Evaluation, Path

_FIGURES = "figures"


class Report(NamedTuple):
    """A written report: its page, the main table, and what the reader should be warned of."""

    path: pathlib.Path
    table: tables.Table
    warnings: list[str]


def write(folders: Sequence[Path], *, split: str, out: Path) -> Report:
    """Write OUT/report.md and OUT/figures/*.png about the runs' evaluations on `split`.

    Whatever is missing in a run folder, and runs that were evaluated on different faces, are a UserError.
    """
    runs = evaluations.open_runs(folders, split)
    out, shown = pathlib.Path(out), [run.evaluation for run in runs]
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: expected a folder to write the report into, but {out} is a file")
    changes = [(before.evaluation, after.evaluation) for before, after in evaluations.pairs(runs)]
    table, cautions = tables.results(shown, changes), warnings(runs)
    sections = [
        opening(shown, changes),
        *(f"> **Caution.** {caution}" for caution in cautions),
        table.markdown(),
        _explanation(shown[0]),
        "## Faces",
        _faces(shown, out),
        "## By expression",
        _expressions(shown, out),
        "## Training",
        _training(runs, out),
        "## What was run",
        provenance(runs),
    ]
    path = out / "report.md"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {path.parent} cannot be made ({error.strerror}); choose another folder") from error
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return Report(path, table, cautions)


def warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns what stands in the way of comparing the runs or of trusting their maps, in sentences."""
    found = []
    unexpected = {
        name: values
        for name, values in evaluations.differences(runs).items()
        if name != evaluations.EXPECTED_DIFFERENCE
    }
    if unexpected:
        words = "; ".join(f"{name} ({_by_value(runs, values)})" for name, values in unexpected.items())
        found.append(
            f"The runs differ in more than {evaluations.EXPECTED_DIFFERENCE}, and a difference between them may come "
            f"from that: {words}."
        )
    if len({run.metrics["codebook"] for run in runs}) > 1:
        found.append("The runs were measured against the maps of different codebooks: their cosines do not compare.")
    if len({run.evaluation.layer for run in runs}) > 1:
        found.append("The runs report the attention of different layers: compare their ATT-COS with care.")
    empty = {run.name: tables.without_pattern(run.evaluation) for run in runs}
    return found + [f"{name}: {words}" for name, words in empty.items() if words]


def opening(shown: Sequence[Evaluation], changes: Sequence[tuple[Evaluation, Evaluation]]) -> str:
    """Returns the page's title and, in a few sentences, what was evaluated and what came out."""
    metrics, faces = shown[0].metrics, shown[0].metrics["num_examples"]
    chance = max(100 * _half_interval(one.metrics["cl"], faces) for one in shown)
    lines = [
        f"{len(shown)} trained classifier{'s' if len(shown) > 1 else ''}, evaluated on the split "
        f"`{metrics['split']}`: {faces} faces, {metrics['num_maps']} of them with an action-unit (AU) map."
    ]
    for before, after in changes:
        a, b = before.metrics["cl"], after.metrics["cl"]
        low, high = before.attention_cosine, after.attention_cosine
        lines.append(
            f"From {before.name} to {after.name}, ATT-COS goes from {tables.cosine(low)} to {tables.cosine(high)} "
            f"({tables.difference(low, high)}) and accuracy from {tables.percent(a)} to {tables.percent(b)} % "
            f"({tables.difference(a, b, decimals=1, scale=100)} points)."
        )
    lines.append(f"With {faces} faces, chance alone moves an accuracy by up to about ±{chance:.1f} points (95 %).")
    title = f"# Expressions, attention and action units: {', '.join(one.name for one in shown)}"
    return f"{title}\n\n{' '.join(lines)}"


def _half_interval(share: float, count: int) -> float:
    """Half the 95 % interval of a share among `count` faces (Agresti & Coull 1998), also where it is 0 or 1."""
    count += 4
    share = (share * (count - 4) + 2) / count
    return 1.96 * (share * (1 - share) / count) ** 0.5


def _explanation(evaluation: Evaluation) -> str:
    baselines = evaluation.metrics["baselines"]
    return (
        "**How to read this.** The attention of a layer is the mean of its feature maps; **ATT-COS** is the cosine "
        "between it and the face's AU map, which marks the places where the action units of its expression lie "
        "(0: nothing in common, 1: the same up to brightness), averaged within each expression and then over the "
        "expressions that have action units. **CAM-COS** is the same for the class activation map of the true "
        "expression. Any two blobs in the middle of a picture are alike: a flat map that looks nowhere already scores "
        f"{tables.cosine(baselines['uniform'])} here, a Gaussian in the middle "
        f"{tables.cosine(baselines['centred_gaussian'])}, so read every cosine against the last rows of the table. "
        "AU maps are drawn from the true label and a general table of expressions, not from what this very face "
        "shows: the cosines measure how *plausible* the attention is to an expert, not whether the network's decision "
        "depends on those places (its *faithfulness*)."
    )


def _faces(shown: Sequence[Evaluation], out: pathlib.Path) -> str:
    path = figures.faces(shown, out / _FIGURES / "faces.png")
    if path is None:
        return "The runs were evaluated with different samples of faces, so none can be shown side by side."
    return f"The first faces of each expression in the fixed sample, not chosen by result.\n\n{_image(path, 'faces')}"


def _expressions(shown: Sequence[Evaluation], out: pathlib.Path) -> str:
    parts = [_action_units(shown[0]), tables.by_expression(shown).markdown()]
    parts.append(_image(figures.means(shown, out / _FIGURES / "class_means.png"), "average maps"))
    for evaluation in shown:
        stem = out / _FIGURES / evaluation.name.replace("/", "-")
        confusion = figures.confusion(evaluation, f"{stem}_confusion.png")
        cosines = figures.cosines(evaluation, f"{stem}_cosines.png")
        parts += [f"### {evaluation.name}", _image(confusion, "confusion matrix"), _image(cosines, "cosines by layer")]
    return "\n\n".join(parts)


def _action_units(evaluation: Evaluation) -> str:
    """The codebook in words; one that is a file somewhere else is only named."""
    name = evaluation.metrics["codebook"]
    if name not in codebook.CODEBOOKS:
        return f"Action units by expression: codebook `{name}`."
    lines = [f"Action units by expression (codebook `{name}`):", ""]
    for expression, units in codebook.CODEBOOKS[name].aus.items():
        words = ", ".join(f"AU{unit} {codebook.ACTION_UNITS[unit].lower()}" for unit in units)
        lines.append(f"* {expression}: {words or 'none, so it has no AU map'}")
    return "\n".join(lines)


def _training(runs: Sequence[EvaluatedRun], out: pathlib.Path) -> str:
    logs = {run.name: run_files.read_log(run.folder / run_files.LOG) for run in runs}
    layers = {run.name: run.evaluation.layer for run in runs}
    return _image(charts.loss_curves(logs, out / _FIGURES / "loss_curves.png", layers=layers), "training curves")


def provenance(runs: Sequence[EvaluatedRun]) -> str:
    """Returns a table of the runs and whatever differs between them, and what was evaluated when and with what."""
    differ = evaluations.differences(runs)
    header = ["", *(run.name for run in runs)]
    rows = [["folder", *(f"`{run.folder}`" for run in runs)]]
    rows += [[name, *(_words(run.metrics[name]) for run in runs)] for name in ("method", "au_weight", "codebook")]
    checkpoints = (run.metrics["checkpoint"] for run in runs)
    rows.append(["checkpoint", *(f"{c['which']}: step {c['step']}, epoch {c['epoch']:g}" for c in checkpoints)])
    named = {row[0] for row in rows}
    rows += [[name, *map(_words, values)] for name, values in differ.items() if name not in named]
    data, split = runs[0].metrics["data"], runs[0].metrics["split"]
    versions = runs[0].metrics.get("versions", {})
    command = f"python -m aujax.report {shlex.join(str(run.folder) for run in runs)} --split {split}"
    return "\n".join(
        [
            tables.Table(header, rows, left=len(header)).markdown(),
            "",
            f"* Evaluated on `{data['dir']}`, split `{split}`, fingerprint `{data['fingerprint']}`.",
            f"* One row per face: `examples.csv` in each run's `eval/{split}`.",
            f"* Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
            f"* Written on {datetime.date.today()} by aujax {__version__}: `{command}`.",
        ]
    )


def _by_value(runs: Sequence[EvaluatedRun], values: Sequence[object]) -> str:
    """Each value once, with the runs that have it."""
    owners: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        owners.setdefault(_words(value), []).append(run.name)
    return "; ".join(f"{value} in {', '.join(names)}" for value, names in owners.items())


def _image(path: pathlib.Path, words: str) -> str:
    return f"![{words}]({quote(f'{path.parent.name}/{path.name}')})"


def _words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
