"""Evaluated runs on disk: what `train.py` and `eval.py` left in RUN, read and checked.

RUN/{config.json, manifest.json, log.jsonl} and RUN/eval/<split>/{metrics.json, examples.csv, maps.npz}. Whatever is
missing, damaged or not comparable is a UserError that names the file and the command to run.
"""

import logging
import pathlib
import shlex
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aujax import run_files
from aujax.errors import UserError
from aujax.report.examples import Examples

log = logging.getLogger(__name__)

Path = str | pathlib.Path
EXPECTED_DIFFERENCE = "au_weight"  # what a pair of runs should differ in, and in nothing else
SEED = "seed"
_METRICS = (
    *("split", "num_examples", "num_maps", "cl", "balanced_accuracy", "cam_cos", "att_cos", "attention_layer"),
    *("cam_without_pattern", "att_without_pattern", "per_class", "confusion_matrix", "expressions", "baselines"),
    *("method", "au_weight", "codebook", "checkpoint", "data", "protocol", "macro_f1", "map_scores"),
)
_SAMPLE = ("index", "image", "au_map", "has_map", "attention", "expression", "predicted")
_CHOSEN = ("sample/", "gallery/", "class_")
_GALLERY = (*_SAMPLE, "probability")
_MAPS = (
    *(f"sample/{name}" for name in _SAMPLE),
    *(f"gallery/{name}" for name in _GALLERY),
    *("class_mean/au_map", "class_count", "class_map_count"),
)
_FILES = ("metrics.json", "examples.csv", "maps.npz")
_NOT_SET = "not set"


class Evaluation(NamedTuple):
    """One evaluation on disk, RUN/eval/<split>: its folder, the content of metrics.json, and a name to show."""

    name: str
    directory: pathlib.Path
    metrics: Mapping[str, Any]

    @property
    def layer(self) -> str:
        """The layer whose attention is reported."""
        return self.metrics["attention_layer"]

    @property
    def attention_cosine(self) -> float | None:
        """ATT-COS of that layer; None where no face has an AU map."""
        return self.metrics["att_cos"][self.layer]

    def maps(self) -> dict[str, np.ndarray]:
        """Returns the maps of the fixed sample, the gallery and the averages by class; see `read_maps`."""
        return read_maps(self.directory)

    @property
    def label(self) -> str:
        """The split and the protocol, to stand beside every number."""
        return f"split {self.metrics['split']}, protocol {self.metrics['protocol']}"

    @property
    def reported(self) -> dict[str, str]:
        """The maps that are reported, by their names to show; a method may have no CAM."""
        return {"Attention": f"attention/{self.layer}", "CAM": "cam"}

    def examples(self) -> Examples:
        """Returns the rows of examples.csv."""
        return Examples(self.directory / "examples.csv", self.metrics["expressions"])


class EvaluatedRun(NamedTuple):
    """One run folder: its resolved options, how it was made, and one evaluation of it."""

    folder: pathlib.Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """The shortest end of the folder's path that tells it from the other runs."""
        return self.evaluation.name

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The content of metrics.json."""
        return self.evaluation.metrics

    @property
    def has_cam(self) -> bool:
        """Whether the method has a class activation map."""
        return self.metrics["cam_without_pattern"] is not None

    @property
    def label(self) -> str:
        """The split and the protocol, to stand beside every number."""
        return self.evaluation.label

    def command(self, split: str, *options: str) -> str:
        """Returns the command that evaluates the same weights on a split."""
        which = self.metrics["checkpoint"]["which"]
        return _command(self.folder, split, *([] if which == "best" else [f"--checkpoint={which}"]), *options)


def usable(
    folders: Sequence[Path], split: str, *, same_faces: bool = False
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the run folders, those below a folder of runs too, whose evaluation can be read; and the others.

    Why others cannot be is logged; without a single one that can, the first reason is raised as a UserError. With
    `same_faces`, runs that were evaluated on other faces than the first are among the others.
    """
    kept: dict[pathlib.Path, EvaluatedRun] = {}
    problems: dict[pathlib.Path, UserError] = {}
    for folder in dict.fromkeys(run for given in folders for run in _expanded(pathlib.Path(given), split)):
        try:
            run = _open(folder, folder.name, split)
            if same_faces and kept:
                _check_same_faces(next(iter(kept.values())), run)
            kept[folder] = run
        except UserError as error:
            problems[folder] = error
    if not kept:
        raise next(iter(problems.values()))
    for error in problems.values():
        log.warning("left out: %s", error)
    return list(kept), list(problems)


def _expanded(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Returns the run folders below a folder of runs, evaluated ones first; otherwise the folder itself."""
    if (folder / run_files.CONFIG).is_file() or not folder.is_dir():
        return [folder]
    below = sorted(path.parent for path in folder.glob(f"*/{run_files.CONFIG}"))
    return sorted(below, key=lambda run: not (run / "eval" / split / "metrics.json").is_file()) or [folder]


def open_runs(folders: Sequence[Path], split: str) -> list[EvaluatedRun]:
    """Returns the runs with their evaluation on `split`; they must have been evaluated on the same faces."""
    paths = [pathlib.Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError(f"expected each run folder once, got {', '.join(map(str, folders))}")
    names = _names(paths)
    runs = [_open(pathlib.Path(folder), name, split) for folder, name in zip(folders, names, strict=True)]
    for other in runs[1:]:
        _check_same_faces(runs[0], other)
    return runs


def read(directory: Path) -> Evaluation:
    """Returns the evaluation in a folder RUN/eval/<split>, named after the run."""
    directory = pathlib.Path(directory)
    return Evaluation(directory.resolve().parents[1].name, directory, read_metrics(directory))


def read_metrics(directory: Path) -> dict[str, Any]:
    """Returns RUN/eval/<split>/metrics.json with every number that the report needs."""
    path = pathlib.Path(directory) / "metrics.json"
    metrics = run_files.read_json(path, remedy="evaluate the run again with eval.py")
    if lacking := [name for name in _METRICS if name not in metrics]:
        raise UserError(f"{path}: expected the metrics of eval.py, but it lacks {', '.join(lacking)}; evaluate again")
    return metrics


def read_maps(directory: Path) -> dict[str, np.ndarray]:
    """Returns what maps.npz holds of chosen faces and per class; the maps of every image stay on disk."""
    path = pathlib.Path(directory) / "maps.npz"
    try:
        with np.load(path) as archive:
            maps = {name: archive[name] for name in archive.files if name.startswith(_CHOSEN)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); evaluate the run again with eval.py") from error
    if lacking := [name for name in _MAPS if name not in maps]:
        raise UserError(f"{path}: expected the maps of eval.py, but it lacks {', '.join(lacking)}; evaluate again")
    return maps


def differences(runs: Sequence[EvaluatedRun]) -> dict[str, list[Any]]:
    """Returns what differs between the trainings, by dotted option, with the value of each run.

    "training data" stands for the content of the data set: the first digits of its fingerprint, or its name where
    the weights were trained elsewhere.
    """
    trained_on = [run.manifest["data"] for run in runs]
    data = [data["name"] if data["fingerprint"] is None else data["fingerprint"][:12] for data in trained_on]
    options = [run_files.flat(run.config) | {"training data": one} for run, one in zip(runs, data, strict=True)]
    names = dict.fromkeys(name for option in options for name in option if name not in run_files.FREE_OPTIONS)
    values = {name: [option.get(name, _NOT_SET) for option in options] for name in names}
    return {name: column for name, column in values.items() if any(value != column[0] for value in column)}


def pairs(runs: Sequence[EvaluatedRun]) -> list[tuple[EvaluatedRun, EvaluatedRun]]:
    """Returns (without AU cues, with AU cues) for the runs that are equal otherwise.

    Where there are none, two runs are a pair, and of more each one but another seed's is a pair with the first.
    """
    if found := equal_but_for(runs, {EXPECTED_DIFFERENCE}):
        return found
    if len(runs) == 2:
        first, second = sorted(runs, key=lambda run: run.metrics["au_weight"])
        return [(first, second)]
    return [(runs[0], other) for other in runs[1:] if not differences([runs[0], other]).keys() <= {SEED}]


def equal_but_for(runs: Sequence[EvaluatedRun], options: Collection[str]) -> list[tuple[EvaluatedRun, EvaluatedRun]]:
    """Returns (without AU cues, with AU cues) for the runs that differ in these options at most."""
    without = [run for run in runs if run.metrics["au_weight"] == 0]
    aligned = [run for run in runs if run.metrics["au_weight"] > 0]
    return [(a, b) for b in aligned for a in without if differences([a, b]).keys() <= set(options)]


def replicates(runs: Sequence[EvaluatedRun]) -> list[list[EvaluatedRun]]:
    """Returns the runs in groups whose members differ in their seed alone."""
    groups: list[list[EvaluatedRun]] = []
    for run in runs:
        for group in groups:
            if differences([group[0], run]).keys() <= {SEED}:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def expected_differences(runs: Sequence[EvaluatedRun]) -> tuple[str, ...]:
    """Returns what runs may differ in: the AU weight, and the seed where every weight had the same several."""
    seeds = [{run.config.get(SEED) for run in group} for group in replicates(runs)]
    balanced = len(seeds[0]) > 1 and all(each == seeds[0] for each in seeds)
    return (EXPECTED_DIFFERENCE, SEED) if balanced else (EXPECTED_DIFFERENCE,)


def _open(folder: pathlib.Path, name: str, split: str) -> EvaluatedRun:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; expected the --workdir of train.py")
    if not (folder / run_files.CONFIG).is_file():
        raise UserError(
            f"{folder}: expected a run folder, the --workdir of train.py, or a folder of them; it holds none"
        )
    directory = folder / "eval" / split
    if not all((directory / file).is_file() for file in _FILES):
        others = sorted(path.parent.name for path in folder.glob("eval/*/metrics.json") if path.parent.name != split)
        raise UserError(
            f"{folder}: no evaluation on the split {split!r} (expected {', '.join(_FILES)} in {directory}"
            + (f"; there is one on {', '.join(others)}" if others else "")
            + f"). Run: {_command(folder, split)}"
        )
    config, manifest = (
        run_files.read_json(folder / file, remedy="train.py writes it")
        for file in (run_files.CONFIG, run_files.MANIFEST)
    )
    return EvaluatedRun(folder, config, manifest, Evaluation(name, directory, read_metrics(directory)))


def _command(folder: pathlib.Path, split: str, *options: str) -> str:
    return " ".join(["python eval.py", f"--workdir={shlex.quote(str(folder))}", f"--split={split}", *options])


def _check_same_faces(first: EvaluatedRun, other: EvaluatedRun) -> None:
    for what, of in (
        ("data (fingerprints {} and {})", lambda run: run.metrics["data"]["fingerprint"]),
        ("numbers of faces ({} and {})", lambda run: run.metrics["num_examples"]),
        ("expressions ({} and {})", lambda run: ", ".join(run.metrics["expressions"])),
    ):
        if of(first) != of(other):
            raise UserError(
                f"{first.folder} and {other.folder} were evaluated on different {what.format(of(first), of(other))}, "
                "so their numbers do not compare. Evaluate both on the same data: "
                + other.command(other.metrics["split"], f"--data_dir={shlex.quote(str(first.metrics['data']['dir']))}")
            )


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    length = max(len(path.parts) for path in paths)
    candidates = (["/".join(path.parts[-count:]) for path in paths] for count in range(1, length + 1))
    return next(names for names in candidates if len(set(names)) == len(names))
