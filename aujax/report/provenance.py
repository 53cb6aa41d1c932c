"""Where numbers come from: what was trained, evaluated and written, and what stands in the way of comparing it."""

import datetime
import shlex
from collections.abc import Sequence

from aujax import __version__, bootstrap
from aujax.report import evaluations, people, tables
from aujax.report.evaluations import EvaluatedRun

PROTOCOLS = {
    "heldout": "The model was chosen on a validation split; these faces had no part in choosing it.",
    "paper": (
        "The best epoch was chosen on the test split itself, as the paper's published code does: "
        "test accuracies come out higher than they are on new faces."
    ),
}


def protocol(run: EvaluatedRun) -> str:
    """Returns, in a sentence, how the run's checkpoint was chosen and what follows for this evaluation."""
    name, split = run.metrics["protocol"], run.metrics["split"]
    if split == "train":
        return "The model was trained on these very faces (the split train): read the test split for its accuracy."
    if run.metrics["checkpoint"]["which"] == "latest":
        return "These are the weights at the end of training: no split chose them, so these faces had no part in it."
    if name == "heldout" and split == "validation":
        return "The model was chosen on these very faces (the validation split): read the test split for its accuracy."
    return PROTOCOLS[name]


def warnings(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns what stands in the way of comparing the runs or of trusting their maps, in sentences."""
    found = []
    expected = evaluations.expected_differences(runs)
    unexpected = {name: values for name, values in evaluations.differences(runs).items() if name not in expected}
    if unexpected:
        words = "; ".join(f"{name} ({_by_value(runs, values)})" for name, values in unexpected.items())
        found.append(
            f"The runs differ in more than {' and '.join(expected)}, and a difference between them may come "
            f"from that: {words}."
        )
    if len({run.metrics["codebook"] for run in runs}) > 1:
        found.append("The runs were measured against the maps of different codebooks: their cosines do not compare.")
    if len({run.evaluation.layer for run in runs}) > 1:
        found.append("The runs report the attention of different layers: compare their ATT-COS with care.")
    empty = {run.name: tables.without_pattern(run.evaluation) for run in runs}
    return found + [f"{name}: {words}" for name, words in empty.items() if words]


def runs_table(runs: Sequence[EvaluatedRun]) -> tables.Table:
    """Returns a table of the runs and of whatever differs between them."""
    differ = evaluations.differences(runs)
    rows = [["folder", *(f"`{run.folder}`" for run in runs)]]
    named = ("method", "au_weight", "codebook", "protocol")
    rows += [[name, *(_words(run.metrics[name]) for run in runs)] for name in named]
    checkpoints = (run.metrics["checkpoint"] for run in runs)
    rows.append(["checkpoint", *(f"{c['which']}: step {c['step']}, epoch {c['epoch']:g}" for c in checkpoints)])
    rows += [[name, *map(_words, values)] for name, values in differ.items() if name not in named]
    return tables.Table(["What", *(run.name for run in runs)], rows, left=1 + len(runs))


def lines(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns what was evaluated when and with what, in lines."""
    data, split = runs[0].metrics["data"], runs[0].metrics["split"]
    versions = runs[0].metrics.get("versions", {})
    command = f"python -m aujax.report page {shlex.join(str(run.folder) for run in runs)} --split {split}"
    return [
        f"Evaluated on `{data['dir']}`, split `{split}`, fingerprint `{data['fingerprint']}`.",
        f"One row per face: `examples.csv` in each run's `eval/{split}`.",
        f"Intervals cover the true value in 95 of 100 repetitions: bootstrapped ({bootstrap.RESAMPLES:,} resamples), "
        "and Wilson's for accuracies where no person repeats. " + people.consequence(runs[0].evaluation.examples()),
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"Written on {datetime.date.today()} by aujax {__version__}: `{command}`.",
    ]


def _by_value(runs: Sequence[EvaluatedRun], values: Sequence[object]) -> str:
    """Each value once, with the runs that have it."""
    owners: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        owners.setdefault(_words(value), []).append(run.name)
    return "; ".join(f"{value} in {', '.join(names)}" for value, names in owners.items())


def _words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
