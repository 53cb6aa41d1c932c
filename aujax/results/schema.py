"""The tables of an evaluation on disk, RUN/eval/<split>/: one writer and one reader.

metrics.json           what was evaluated (run, split, data, checkpoint, versions), and the main numbers
faces.csv              one row per face: `FACE_COLUMNS`, a logit per expression, the attributes of the data set
scores.parquet         one row per face, map, target, metric and condition: `SCORE_COLUMNS`
summary.csv            one row per metric, map, target, condition and group of faces: `SUMMARY_COLUMNS`
maps.npz               maps of all faces, images of a sample and of a gallery, mean maps per expression
faithfulness.json, faithfulness.parquet, faithfulness_summary.csv
                       the same three for `eval.py --faithfulness`: metadata, scores, summary

The JSON file of each set is removed before and written after the others, so it always belongs to them. Tables of
another schema version, damaged ones, and those of other weights or data are refused with the command that makes them
anew.
"""

import csv
import dataclasses
import functools
import logging
import pathlib
import shlex
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from aujax import run_files
from aujax.errors import UserError
from aujax.results.registry import ATTENTION, METRICS, Faces
from aujax.results.statistics import Interval

log = logging.getLogger(__name__)

VERSION = 2
METADATA, FACES, SCORES, SUMMARY, MAPS = "metrics.json", "faces.csv", "scores.parquet", "summary.csv", "maps.npz"
FAITHFULNESS = "faithfulness.json"
FAITHFULNESS_SCORES, FAITHFULNESS_SUMMARY = "faithfulness.parquet", "faithfulness_summary.csv"

# Columns of faces.csv in order; then logit_<expression> for every expression and attribute_<name> for every attribute.
FACE_COLUMNS = {
    "face": "row of the face in the split, from 0",
    "id": "name of the image in its source",
    "subject_id": "the subject in the image; empty if unknown",
    "expression": "the label",
    "predicted": "the predicted expression",
    "probability": "of the predicted expression, not calibrated",
    "correct": "1 if the prediction is the label",
    "has_map": "1 if the label's AU map exists",
    "has_predicted_map": "1 if the predicted expression's AU map exists",
    "att_cos": "cosine of the reported layer's attention and the label's AU map; empty without an AU map",
    "cam_cos": "cosine of the label's CAM and the label's AU map; empty without an AU map or a CAM",
    "degenerate": "names of maps that are constant or not finite, separated by blanks",
}
LOGIT, ATTRIBUTE = "logit_", "attribute_"
# Columns of scores.parquet; strings are dictionary-encoded.
SCORE_COLUMNS = {
    "face": "row of the face in the split",
    "metric": "key of `METRICS`",
    "map": "layer of the attention, cam, or name of a baseline map; empty for numbers of the classifier",
    "target": "label or predicted: whose CAM, AU map or AUs; empty if there is no choice",
    "condition": "what distinguishes the value further, such as AU12; see `Metric.condition`",
    "value": "float32",
}
SUMMARY_COLUMNS = {
    "metric": "key of `METRICS`",
    "map": "as in scores.parquet",
    "target": "as in scores.parquet",
    "condition": "as in scores.parquet",
    "attribute": "what the faces were grouped by: expression; predicted (accuracy is then the precision); uncalibrated "
    "confidence, calibrated confidence; or an attribute of the data set; empty for all faces",
    "group": "value of the attribute, of confidence the lower edge of a bin; empty for all faces, or those without one",
    "value": "point estimate; empty if there are too few faces",
    "low": "lower end of the 95 % interval; empty if there is none",
    "high": "upper end of the 95 % interval",
    "faces": "number of faces behind the value",
    "subjects": "number of subjects behind the value",
}
_ROWS_PER_GROUP = 2**18  # of scores.parquet
_SAMPLE = ("face", "image", "au_map", "has_map", "attention", "expression", "predicted")
_MAP_ARRAYS = (
    *(f"sample/{name}" for name in _SAMPLE),
    *(f"gallery/{name}" for name in (*_SAMPLE, "probability")),
    *("class_mean/au_map", "class_count", "class_map_count"),
)


class ScoreKey(NamedTuple):
    """What a column of scores holds."""

    metric: str
    map: str = ""
    target: str = ""
    condition: str = ""


Scores = dict[ScoreKey, Float[np.ndarray, " faces"]]  # NaN where a face has no value


class ScoreWriter:
    """Writes scores in row groups while they are computed; use as a context manager."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._parts: list[pa.Table] = []
        self._writer: Any = None  # opened with the columns of the first rows

    def __enter__(self) -> "ScoreWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, faces: Int[np.ndarray, " faces"], scores: Mapping[ScoreKey, np.ndarray]) -> None:
        """Writes values of these faces; NaN, a face without that value, is not stored."""
        if not scores:
            return
        values = np.stack(list(scores.values()))
        column, row = np.nonzero(~np.isnan(values))
        table: dict[str, Any] = {"face": faces[row].astype(np.int32)}
        for name, texts in zip(ScoreKey._fields, zip(*scores, strict=True), strict=True):
            table[name] = pa.array(texts, pa.string()).dictionary_encode().take(pa.array(column))
        table["value"] = values[column, row].astype(np.float32)
        self._parts.append(pa.table(table))
        if sum(len(part) for part in self._parts) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._parts:
            return
        table = pa.concat_tables(self._parts).unify_dictionaries()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        self._parts = []


def read_scores(
    path: pathlib.Path, faces: Sequence[int], *, remedy: str, metrics: Collection[str] | None = None
) -> Scores:
    """Returns the scores of a file, or those of some metrics, aligned with these faces; other faces are left out.

    Row groups are read one after the other: the returned columns, 4 bytes a face each, take most of the memory.

    Raises:
      UserError: the file is missing or damaged.
    """
    index = pd.Index(faces)
    scores: Scores = {}
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number).to_pandas()
                if metrics is not None:
                    table = table[table["metric"].isin(metrics)]
                row, value = index.get_indexer(table["face"]), table["value"].to_numpy()
                groups = table.groupby(list(ScoreKey._fields), observed=True, sort=False).indices
                # In the order of writing: stages from the head down, shares of the image ascending.
                for key, members in sorted(groups.items(), key=lambda item: item[1][0]):
                    if key not in scores:
                        scores[ScoreKey(*key)] = np.full(len(faces), np.nan, np.float32)
                    members = members[row[members] >= 0]
                    scores[key][row[members]] = value[members]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({_first_line(error)}); {remedy}") from error
    return scores


class StreamedArray(NamedTuple):
    """An array for `write_maps` that need not be in memory: its shape and type, and its bytes in parts."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterable[bytes]


def write_maps(path: pathlib.Path, maps: Mapping[str, np.ndarray | StreamedArray]) -> None:
    """Writes maps.npz, like `numpy.savez`.

    Not compressed: that takes fifty times as long for a file that is a third smaller.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in maps.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                if isinstance(array, StreamedArray):
                    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    for part in array.parts:
                        file.write(part)
                else:
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def read_table(path: pathlib.Path, texts: Sequence[str], numbers: Sequence[str], *, remedy: str) -> pd.DataFrame:
    """Returns a CSV with at least these columns of texts and numbers, NaN where a number is missing.

    Raises:
      UserError: the file is missing or damaged, lacks a column, or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if missing := [name for name in (*texts, *numbers) if name not in columns]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        # Without types, columns of digits become numbers: the subject "007" would be 7.
        types = dict.fromkeys(columns, pa.string()) | dict.fromkeys(numbers, pa.float64())
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, null_values=["", "nan"]),
        ).to_pandas()
        if table.empty:
            raise ValueError("it has no rows")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({_first_line(error)}); {remedy}") from error
    return table


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def select(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Returns the rows of a table that have these values in these columns.

    >>> select(pd.DataFrame({"metric": ["auc", "iou"], "value": [0.5, 0.2]}), metric="iou")["value"].tolist()
    [0.2]
    """
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def interval_of(row: Any) -> Interval:
    """Returns the interval in a row of a table, whose ends may be missing."""
    value = row["value"] if "value" in row else row["difference"]
    return Interval(value, row["low"], row["high"]) if pd.notna(row["low"]) else Interval(value)


def index_summary(summary: pd.DataFrame) -> dict[tuple[str, ...], Interval]:
    """Returns the numbers of a summary by `ScoreKey`, attribute and group in one tuple; missing ones are None."""
    rows = summary.astype(object).where(summary.notna(), None)
    return {row[:6]: Interval(*row[6:9]) for row in rows.itertuples(index=False, name=None)}


@dataclasses.dataclass(frozen=True)
class Tables:
    """Metadata, scores and summary of one set of files; false if there are none that count."""

    metadata: Mapping[str, Any]
    summary: pd.DataFrame
    scores_path: pathlib.Path
    remedy: str
    missing: str = ""  # why there are none, with the command that makes them

    def __bool__(self) -> bool:
        return not self.missing

    @functools.cached_property
    def index(self) -> dict[tuple[str, ...], Interval]:
        """The numbers of the summary by key, see `index_summary`."""
        return index_summary(self.summary)

    def interval(self, metric: str, *, attribute: str = "", group: str = "", **where: str) -> Interval:
        """Returns a number of the summary with its interval; Interval() if it does not exist.

        `where` are the other fields of its `ScoreKey`.
        """
        return self.index.get((*ScoreKey(metric, **where), attribute, group), Interval())

    def rows(self, metric: str, **where: str) -> pd.DataFrame:
        """Returns the rows of a metric, of all faces unless `attribute` is given."""
        return select(self.summary, **({"metric": metric, "attribute": ""} | where))

    def scores(self, faces: pd.DataFrame, metrics: Collection[str] | None = None) -> Scores:
        """Returns the scores, or those of some metrics, aligned with these rows of faces.csv."""
        return read_scores(self.scores_path, faces["face"].tolist(), remedy=self.remedy, metrics=metrics)

    def count(self, metric: str, **where: str) -> tuple[int, int]:
        """Returns the numbers of faces and subjects behind a number, (0, 0) if it does not exist."""
        table = self.rows(metric, **(dict.fromkeys(("map", "target", "condition", "group"), "") | where))
        return (int(table["faces"].iloc[0]), int(table["subjects"].iloc[0])) if len(table) else (0, 0)


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A run folder with one evaluation: its options, how it was made, and the tables of RUN/eval/<split>/."""

    folder: pathlib.Path
    name: str  # the shortest end of the path that distinguishes it from the other runs
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    tables: Tables

    @property
    def directory(self) -> pathlib.Path:
        """RUN/eval/<split>."""
        return self.folder / "eval" / self.split

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The content of metrics.json."""
        return self.tables.metadata

    @property
    def split(self) -> str:
        """The evaluated split."""
        return self.metadata["split"]

    @property
    def layer(self) -> str:
        """The layer whose attention is reported."""
        return self.metadata["attention_layer"]

    @property
    def label(self) -> str:
        """The split and how the checkpoint was selected, for display beside numbers."""
        return f"{self.split} split, checkpoint selected on {self.metadata['model_selection']}"

    @property
    def expressions(self) -> list[str]:
        """The names of the classes, in order."""
        return self.metadata["expressions"]

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """The options of the training that affect numbers, by dotted name.

        "training data" is the content of the data set: the first digits of its fingerprint, or its name where the
        weights were trained elsewhere.
        """
        data = self.manifest["data"]
        content = data["name"] if data["fingerprint"] is None else data["fingerprint"][:12]
        return run_files.training_options(self.config) | {"training data": content}

    def chance(self, metric: str) -> float | None:
        """Returns the value of a metric for a classifier or map that ignores the image."""
        return METRICS[metric].chance_level(np.array(self.metadata["confusion_matrix"]).sum(1))

    def interval(self, metric: str, *, map: str = "", **where: str) -> Interval:
        """Returns a number of the evaluation or of its faithfulness, as `Tables.interval`.

        `map` may be "attention" for the reported layer.
        """
        of_faithfulness = METRICS[metric].topic in ("reliance", "perturbation", "sanity")
        tables = self.faithfulness if of_faithfulness else self.tables
        return tables.interval(metric, map=self.layer if map == ATTENTION else map, **where)

    def command(self, *options: str, split: str = "") -> str:
        """Returns the command that evaluates the same weights."""
        checkpoint = self.metadata["checkpoint"]["which"]
        options = (*([] if checkpoint == "best" else [f"--checkpoint={checkpoint}"]), *options)
        return eval_command(self.folder, split or self.split, *options)

    @functools.cached_property
    def faces(self) -> pd.DataFrame:
        """The rows of faces.csv."""
        return read_faces(self.directory / FACES, self.expressions, remedy=self.tables.remedy)

    @functools.cached_property
    def predictions(self) -> Faces:
        """The predictions as arrays, with the temperature that was used."""
        return predictions(self.faces, self.expressions, temperature=self.metadata["temperature"]["value"])

    @functools.cached_property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps of the sample, the gallery and the means per expression; the maps of every face stay on disk."""
        path = self.directory / MAPS
        try:
            with np.load(path) as archive:
                names = [name for name in archive.files if name.startswith(("sample/", "gallery/", "class_"))]
                maps = {name: archive[name] for name in names}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read ({_first_line(error)}); {self.tables.remedy}") from error
        if missing := [name for name in _MAP_ARRAYS if name not in maps]:
            raise UserError(f"{path}: expected the maps of eval.py, but it lacks {', '.join(missing)}; "
                            f"{self.tables.remedy}")  # fmt: skip
        return maps

    @functools.cached_property
    def faithfulness(self) -> Tables:
        """What `eval.py --faithfulness` measured; empty if it did not run, or on other weights or data."""
        path = self.directory / FAITHFULNESS
        command = self.command("--faithfulness")
        remedy = f"run {command}"
        missing = f"Faithfulness was not measured for **{self.name}**"
        if path.is_file():
            metadata = read_metadata(path, remedy=remedy)
            # The same step has the same weights, whether the checkpoint was chosen as best or as latest.
            steps = [each["checkpoint"]["step"] for each in (metadata, self.metadata)]
            if steps[0] != steps[1]:
                problem = f"it was measured on other weights, those of step {steps[0]} instead of step {steps[1]}"
            elif metadata["data"]["fingerprint"] != self.metadata["data"]["fingerprint"]:
                problem = "it was measured on other data"
            elif not set(metadata["faces"]) <= set(self.faces["face"]):
                problem = "it was measured on other faces"
            else:
                summary = read_summary(self.directory / FAITHFULNESS_SUMMARY, remedy=remedy)
                return Tables(metadata, summary, self.directory / FAITHFULNESS_SCORES, remedy)
            missing = f"The faithfulness of **{self.name}** is not shown: {problem}"
        empty = pd.DataFrame(columns=list(SUMMARY_COLUMNS))
        return Tables({}, empty, path, remedy, f"{missing}. To measure it, run `{command}`.")

    def per_face(self, metric: str, *, map: str = "") -> Float[np.ndarray, " faces"]:
        """Returns a metric that has a paired test, of each face of faces.csv; NaN where it was not measured.

        `map` may be "attention" for the reported layer.
        """
        if METRICS[metric].topic == "classification":
            return self.predictions.correct.astype(float)
        if metric in self.faces:
            return self.faces[metric].to_numpy()
        key = ScoreKey(metric, self.layer if map == ATTENTION else map, METRICS[metric].targets[0])
        return self._faithfulness_scores.get(key, np.full(len(self.faces), np.nan))

    @functools.cached_property
    def _faithfulness_scores(self) -> Scores:
        paired = [key for key, metric in METRICS.items() if metric.paired]
        return self.faithfulness.scores(self.faces, paired) if self.faithfulness else {}


def eval_command(folder: pathlib.Path, split: str, *options: str) -> str:
    """Returns the command that evaluates a run folder on a split."""
    return " ".join(["aujax eval", f"--workdir={shlex.quote(str(folder))}", f"--split={split}", *options])


def read_metadata(path: pathlib.Path, *, remedy: str) -> dict[str, Any]:
    """Returns the content of metrics.json or faithfulness.json; another schema version is a UserError."""
    metadata = run_files.read_json(path, remedy=remedy)
    if metadata.get("schema_version") != VERSION:
        raise UserError(
            f"{path}: expected an evaluation of schema version {VERSION}, got {metadata.get('schema_version')}: it was "
            f"written by another version of aujax; {remedy}"
        )
    return metadata


def read_summary(path: pathlib.Path, *, remedy: str) -> pd.DataFrame:
    """Returns summary.csv or faithfulness_summary.csv; a bad file is a UserError with the remedy."""
    numbers = ["value", "low", "high", "faces", "subjects"]
    return read_table(path, [name for name in SUMMARY_COLUMNS if name not in numbers], numbers, remedy=remedy)


def read_faces(path: pathlib.Path, expressions: Sequence[str], *, remedy: str) -> pd.DataFrame:
    """Returns faces.csv with expressions as categories; a bad file is a UserError with the remedy."""
    logits = [f"{LOGIT}{name}" for name in expressions]
    required = ["face", "probability", "correct", "has_map", "has_predicted_map", *logits]
    texts = ["id", "subject_id", "expression", "predicted", "degenerate"]
    table = read_table(path, texts, [*required, "att_cos", "cam_cos"], remedy=remedy)
    for name in ("expression", "predicted"):
        if unknown := set(table[name]) - set(expressions):
            raise UserError(f"{path}: column {name}: expected an expression, got {min(unknown)!r}; {remedy}")
        table[name] = pd.Categorical(table[name], categories=list(expressions))
    for name in required:
        if table[name].isna().any():
            raise UserError(f"{path}: column {name}: expected a number in every row; {remedy}")
    return table.astype(dict.fromkeys(("face", "correct", "has_map", "has_predicted_map"), int))


def attributes(faces: pd.DataFrame) -> dict[str, pd.Series]:
    """Returns the attributes of the data set, such as gender, by name; "" where a face has none."""
    return {
        name.removeprefix(ATTRIBUTE): faces[name] for name in faces.columns if str(name).startswith(ATTRIBUTE)
    }  # fmt: skip


def face_table(
    columns: Mapping[str, np.ndarray], expressions: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Returns the table of faces.csv.

    Args:
      columns: face, expression, predicted, probability, has_map, has_predicted_map, att_cos, cam_cos (NaN: none),
        logits (faces, classes) and degenerate (a string per face).
      expressions: the names of the classes.
      records: id, subject_id and attributes of each face.
    """
    known: dict[str, Any] = {**columns, "correct": columns["expression"] == columns["predicted"]}
    for name in ("expression", "predicted"):
        known[name] = pd.Categorical.from_codes(columns[name], list(expressions))
    for name in ("correct", "has_map", "has_predicted_map"):
        known[name] = known[name].astype(int)
    for name in ("id", "subject_id"):
        known[name] = [record[name] for record in records]
    table = {name: known[name] for name in FACE_COLUMNS}
    table |= {f"{LOGIT}{name}": columns["logits"][:, k] for k, name in enumerate(expressions)}
    # Faces may have different attributes.
    found = dict.fromkeys(name for record in records for name in record["attributes"])
    table |= {f"{ATTRIBUTE}{name}": [record["attributes"].get(name, "") for record in records] for name in found}
    return pd.DataFrame(table)


def predictions(faces: pd.DataFrame, expressions: Sequence[str], *, temperature: float | None) -> Faces:
    """Returns the predictions of a table of faces as arrays."""
    return Faces(
        expression=faces["expression"].cat.codes.to_numpy().astype(int),
        predicted=faces["predicted"].cat.codes.to_numpy().astype(int),
        logits=faces[[f"{LOGIT}{name}" for name in expressions]].to_numpy().astype(float),
        subjects=faces["subject_id"].to_numpy().astype(str),
        temperature=temperature,
    )


def remove_metadata(directory: pathlib.Path, name: str) -> None:
    """Removes the JSON file of a set before its tables are written, so that it never belongs to others."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).unlink(missing_ok=True)


def open_run(folder: pathlib.Path, split: str) -> EvaluatedRun:
    """Returns a run folder with its evaluation on a split.

    Raises:
      UserError: no run folder, no evaluation on that split, another schema version, or damaged files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; expected the --workdir of a training")
    if not (folder / run_files.CONFIG).is_file():
        raise UserError(f"{folder}: expected a run folder, the --workdir of a training, or a folder that holds some")
    directory = folder / "eval" / split
    command = eval_command(folder, split)
    if not (directory / METADATA).is_file():
        others = sorted(path.parent.name for path in folder.glob(f"eval/*/{METADATA}"))
        evaluated = f"; it was evaluated on {', '.join(others)}" if others else ""
        raise UserError(f"{folder}: no evaluation on the split {split!r}{evaluated}. Run: {command}")
    remedy = f"run {command}"
    metadata = read_metadata(directory / METADATA, remedy=remedy)
    if missing := [file for file in (FACES, SCORES, SUMMARY, MAPS) if not (directory / file).is_file()]:
        raise UserError(f"{directory}: {', '.join(missing)} is missing; {remedy}")
    config, manifest = (
        run_files.read_json(folder / name, remedy="the run folder is damaged: train it again")
        for name in (run_files.CONFIG, run_files.MANIFEST)
    )
    summary = read_summary(directory / SUMMARY, remedy=remedy)
    tables = Tables(metadata, summary, directory / SCORES, remedy)
    return EvaluatedRun(folder, folder.resolve().name, config, manifest, tables)


def open_runs(
    folders: Sequence[str | pathlib.Path], split: str, *, same_faces: bool = False
) -> tuple[list[EvaluatedRun], list[pathlib.Path]]:
    """Returns the evaluated runs, folders of runs expanded, and the folders that were skipped with a warning.

    With `same_faces`, runs that were evaluated on other faces than the first are skipped, too.

    Raises:
      UserError: a folder is given twice, or no run can be read.
    """
    if len({pathlib.Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError(f"expected each run folder once, got {', '.join(map(str, folders))}")
    runs, problems = [], {}
    for path in dict.fromkeys(run for folder in folders for run in _expand(pathlib.Path(folder), split)):
        try:
            run = open_run(path, split)
            if same_faces and runs:
                _check_same_faces(runs[0], run)
            runs.append(run)
        except UserError as error:
            problems[path] = error
    if not runs:
        raise next(iter(problems.values()))
    for error in problems.values():
        log.warning("skipped: %s", error)
    # The shortest ends of the paths that all differ.
    paths = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    runs = [dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True)]
    return runs, list(problems)


def _expand(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Returns the run folders inside a folder of runs, evaluated ones first; otherwise the folder itself."""
    if (folder / run_files.CONFIG).is_file() or not folder.is_dir():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{run_files.CONFIG}"))
    return sorted(runs, key=lambda run: not (run / "eval" / split / METADATA).is_file()) or [folder]


def _check_same_faces(first: EvaluatedRun, other: EvaluatedRun) -> None:
    for what, of in (
        ("data (fingerprints {} and {})", lambda run: run.metadata["data"]["fingerprint"]),
        ("numbers of faces ({} and {})", lambda run: run.metadata["num_faces"]),
        ("expressions ({} and {})", lambda run: ", ".join(run.expressions)),
    ):
        if of(first) != of(other):
            data_dir = shlex.quote(str(first.metadata["data"]["dir"]))
            raise UserError(
                f"{first.folder} and {other.folder} were evaluated on different {what.format(of(first), of(other))}, "
                f"so their numbers do not compare. Evaluate both on the same data: "
                f"{other.command(f'--data-dir={data_dir}')}"
            )
