"""Run folders with evaluations, made from random numbers through the writers of `aujax.results` in about a second."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aujax.codebook import EXPRESSIONS, FACS
from aujax.results import calibration, schema, summary
from aujax.results.registry import (
    ATTENTION,
    BASELINE,
    BASELINE_MAPS,
    BASELINE_ORDERINGS,
    CAM,
    METRICS,
    NORMALISED,
    RANDOM,
    Faces,
    by_topic,
)
from aujax.results.schema import ScoreKey, Scores
from aujax.run_files import CALIBRATION

LAYERS = ("layer4", "layer5")
MAPS = (*LAYERS, CAM)
COSINES = {"uniform": 0.4711, "centred_gaussian": 0.5522, "all_au_map": 0.7233, "class_mean_au_map": 0.8144}
STAGES = ("head", "stage4", "stage3", "stage2", "stage1", "stem")
VIEWS = ("mirrored", "shifted")
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
FULL_DROP = 0.8  # of the probability, if everything is imputed
SIZE = 32  # pixels per side of the sample's images
PER_CLASS = 4  # faces of each expression; Neutral has no AU map
CHECKPOINT = {"step": 40, "epoch": 2, "which": "best"}
VERSIONS = {"python": "3.11.0", "jax": "0.10.2"}
TEMPERATURE = 1.25


@dataclasses.dataclass
class Content:
    """What will be written: tests may change it.

    Attributes:
      columns: expression, predicted, probability and logits, a row per face.
      scores: of the maps.
      faithfulness: scores of `eval.py --faithfulness`.
      records: id, subject_id and attributes of each face.
      metadata: of metrics.json.
      maps: of maps.npz.
    """

    columns: dict[str, np.ndarray]
    scores: Scores
    faithfulness: Scores
    records: list[dict[str, Any]]
    metadata: dict[str, Any]
    maps: dict[str, np.ndarray]


def make_run(
    folder: pathlib.Path,
    *,
    au_weight: float = 0.0,
    seed: int = 0,
    model_selection: str = "validation",
    splits: Sequence[str] = ("test",),
    faithfulness: bool = False,
    attributes: bool = True,
    has_cam: bool = True,
    checkpoint: dict[str, Any] = CHECKPOINT,
    edit: Callable[[Content], object] = lambda content: None,
    **options: Any,
) -> pathlib.Path:
    """Writes a run folder with an evaluation on each of `splits`, the validation split first, and returns it.

    `edit` changes what will be written. `options` are set in config.json, but for `trained_on` and `evaluated_on`
    (fingerprints of data), `data_dir` and `about` (of the data set).
    """
    folder.mkdir(parents=True)
    trained_on, evaluated_on = options.pop("trained_on", "aaaa"), options.pop("evaluated_on", "eeee")
    data = {"dir": options.pop("data_dir", "data/faces")}
    about = options.pop("about", {"name": "synthetic", "source": "", "terms": "Nobody is shown.",
                                  "detector_terms": "Drawn with the faces."})  # fmt: skip
    config = {"method": "CAM", "au_weight": au_weight, "seed": seed, "model_selection": model_selection,
              "data": data | {"read_threads": 4}} | options  # fmt: skip
    _write(folder / "config.json", config)
    _write(folder / "manifest.json", {"data": data | {"fingerprint": trained_on}})
    maps = dict.fromkeys(LAYERS, ATTENTION) | ({CAM: CAM} if has_cam else {}) | dict.fromkeys(BASELINE_MAPS, BASELINE)
    for split in sorted(splits, key=lambda split: split != "validation"):
        rng = np.random.default_rng((seed, int(100 * au_weight), split == "validation"))
        metadata = {
            "split": split,
            **{name: config[name] for name in ("model_selection", "method", "au_weight", "seed")},
            "codebook": "FACS",
            "expressions": list(EXPRESSIONS),
            "attention_layer": "layer5",
            "maps": maps,
            "checkpoint": checkpoint,
            "data": data | {"fingerprint": evaluated_on, "about": about},
            "versions": VERSIONS,
        }
        problem = "No temperature was fitted: the run was not evaluated on its validation split."
        known = "validation" in splits and split != "validation"
        metadata["temperature"] = {"value": TEMPERATURE if known else None, "problem": "" if known else problem}
        content = make_content(rng, metadata, attributes=attributes)
        edit(content)
        _write_evaluation(folder, content)
        if split == "validation":
            kept = {name: metadata[name] for name in ("split", "checkpoint", "data")}
            _write(folder / CALIBRATION, {"temperature": TEMPERATURE} | kept)
        if faithfulness:
            _write_faithfulness(folder, content)
    lines = [line for epoch in (1, 2, 3) for line in _log(epoch, au_weight)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def make_content(rng: np.random.Generator, metadata: dict[str, Any], *, attributes: bool) -> Content:
    """Returns random predictions and scores: with alignment, scores and drops are higher."""
    labels = np.repeat(np.arange(len(EXPRESSIONS)), PER_CLASS)
    count, gain = len(labels), 0.2 * (metadata["au_weight"] > 0)
    logits = rng.normal(size=(count, len(EXPRESSIONS))) + 1.5 * np.eye(len(EXPRESSIONS))[labels]
    columns = {
        "face": np.arange(count),
        "expression": labels,
        "predicted": logits.argmax(1),
        "probability": calibration.probabilities(logits).max(1),
        "logits": logits,
    }
    maps = [name for name, kind in metadata["maps"].items() if kind != BASELINE]
    scores: Scores = {}
    for target in ("label", "predicted"):
        has_map = columns["expression" if target == "label" else target] > 0
        for metric in by_topic("maps"):
            for name in metadata["maps"] if target in metric.targets else ():
                values = rng.uniform(0.1, 0.7, count) + gain
                if name in BASELINE_MAPS:
                    values = np.full(count, COSINES[name])
                    if metric.key != "cosine" and name == "class_mean_au_map":
                        continue
                scores[ScoreKey(metric.key, name, target)] = np.where(has_map, values, np.nan)
    scores |= {ScoreKey("degenerate", name): np.zeros(count) for name in maps}
    records: list[dict[str, Any]] = []
    for face in range(count):
        known = {"gender": "female" if face % 4 else "male", "age": ("4-19", "20-39")[face % 2]}
        records.append({"id": f"test/{face}", "subject_id": "", "attributes": known if attributes else {}})
    return Content(
        columns, scores, _faithfulness(rng, columns["predicted"], maps, gain), records, metadata,
        _maps(rng, columns, maps),
    )  # fmt: skip


def repeat_faces(content: Content, *, named: bool) -> None:
    """Puts every face into the evaluation twice: as one subject's, or without a subject id."""
    count = len(content.records)
    content.columns = {name: np.concatenate([column, column]) for name, column in content.columns.items()}
    content.columns["face"] = np.arange(2 * count)
    for scores in (content.scores, content.faithfulness):
        for key, values in scores.items():
            scores[key] = np.concatenate([values, values])
    subjects = [{"subject_id": f"subject {face:03}" if named else ""} for face in range(count)]
    content.records = [record | subject for record, subject in zip(content.records, subjects, strict=True)] * 2


def change_json(folder: pathlib.Path, name: str = "metrics.json", **values: Any) -> None:
    """Replaces entries of a JSON file of the evaluation on the test split."""
    path = folder / "eval" / "test" / name
    _write(path, json.loads(path.read_text()) | values)


def change_maps(folder: pathlib.Path, **arrays: np.ndarray | None) -> None:
    """Replaces arrays of maps.npz, `sample__cam` for sample/cam and so on; None removes one."""
    path = folder / "eval" / "test" / "maps.npz"
    with np.load(path) as archive:
        maps = dict(archive) | {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(path, **{name: array for name, array in maps.items() if array is not None})


def open_test(folder: pathlib.Path) -> schema.EvaluatedRun:
    """Returns the evaluation on the test split."""
    return schema.open_run(folder, "test")


def _write_evaluation(folder: pathlib.Path, content: Content) -> None:
    metadata, columns, scores = content.metadata, content.columns, content.scores
    directory = folder / "eval" / metadata["split"]
    directory.mkdir(parents=True)
    with schema.ScoreWriter(directory / schema.SCORES) as writer:
        writer.add(columns["face"], scores)
    nothing = np.full(len(columns["face"]), np.nan)
    names = [key.map for key in scores if key.metric == "degenerate"]
    degenerate = np.stack([scores[ScoreKey("degenerate", name)] > 0 for name in names], axis=1)
    table = schema.face_table(
        columns
        | {
            "has_map": columns["expression"] > 0,
            "has_predicted_map": columns["predicted"] > 0,
            "att_cos": scores[ScoreKey("cosine", metadata["attention_layer"], "label")],
            "cam_cos": scores.get(ScoreKey("cosine", CAM, "label"), nothing),
            "degenerate": np.array([" ".join(np.array(names)[row]) for row in degenerate], object),
        },
        EXPRESSIONS,
        content.records,
    )
    validation = None
    fitted_on = folder / "eval" / "validation"
    if metadata["temperature"]["value"] is not None and fitted_on.is_dir():
        validation = schema.open_run(folder, "validation").predictions, metadata["temperature"]["value"]
    summary.write_evaluation(directory, metadata, table, content.maps, validation=validation)


def _write_faithfulness(folder: pathlib.Path, content: Content) -> None:
    directory = folder / "eval" / content.metadata["split"]
    columns = content.columns
    with schema.ScoreWriter(directory / schema.FAITHFULNESS_SCORES) as writer:
        writer.add(columns["face"], content.faithfulness)
    metadata = content.metadata | {
        "num_faces": len(columns["face"]),
        "faces": columns["face"].tolist(),
        "imputation": "blur",
        "temperature": TEMPERATURE,
        "aus": list(FACS.all_aus),
        "fractions": FRACTIONS,
    }
    subjects = np.array([record["subject_id"] for record in content.records])
    faces = Faces(columns["expression"], columns["predicted"], columns["logits"], subjects)
    summary.write_faithfulness(directory, metadata, faces, content.faithfulness)


def _faithfulness(rng: np.random.Generator, predicted: np.ndarray, maps: Sequence[str], gain: float) -> Scores:
    count = len(predicted)
    is_target = np.array([[au in FACS.aus[EXPRESSIONS[k]] for au in FACS.all_aus] for k in predicted])
    drop = rng.normal(0.02, 0.02, is_target.shape) + is_target * (0.15 if gain else 0.03)
    scores: Scores = {
        ScoreKey("probability_drop", "", "predicted", f"AU{au}"): drop[:, column]
        for column, au in enumerate(FACS.all_aus)
    }
    target, other = (np.where(where, drop, 0).sum(1) / np.maximum(where.sum(1), 1) for where in (is_target, ~is_target))
    control = rng.normal(0.02, 0.01, count)
    by_face = {
        "target_drop": target,
        "non_target_drop": other,
        "control_drop": control,
        "target_over_non_target": target - other,
        "target_over_control": target - control,
    }
    by_face |= {f"{name}{NORMALISED}": value / FULL_DROP for name, value in by_face.items()}
    by_face |= {
        "top_au_is_target": np.take_along_axis(is_target, drop.argmax(1)[:, None], 1)[:, 0].astype(float),
        "top_au_is_target_by_chance": is_target.mean(1),
    }
    # Neutral has no target AUs.
    scores |= {
        ScoreKey(name, "", "predicted"): np.where(predicted > 0, value, np.nan) for name, value in by_face.items()
    }
    scores |= {
        ScoreKey("full_drop", "", "predicted", kind): np.full(count, FULL_DROP) for kind in ("occlusion", "road")
    }
    orderings = [*(name for name in maps if name != "layer4"), *BASELINE_ORDERINGS]
    for kind in ("deletion", "insertion", "road"):
        areas = {name: rng.uniform(0.2, 0.6, count) for name in orderings}
        sign = 1 if kind == "insertion" else -1
        for name, area in areas.items():
            scores[ScoreKey(kind, name, "predicted")] = area
            scores[ScoreKey(f"{kind}{NORMALISED}", name, "predicted")] = area / FULL_DROP
            for share in FRACTIONS:
                height = share if kind == "insertion" else 1 - share
                scores[ScoreKey(f"{kind}_curve", name, "predicted", f"{share:g}")] = np.full(count, FULL_DROP * height)
            if name != RANDOM:
                gain = sign * (area - areas[RANDOM])
                scores[ScoreKey(f"{kind}_gain", name, "predicted")] = gain
                scores[ScoreKey(f"{kind}_gain{NORMALISED}", name, "predicted")] = gain / FULL_DROP
    for number, stage in enumerate(STAGES):
        for name in maps:
            similarity = np.full(count, 0.9 - 0.1 * number)
            scores[ScoreKey("randomisation_similarity", name, "predicted", stage)] = similarity
    for view in VIEWS:
        for name in maps:
            scores[ScoreKey("view_similarity", name, "predicted", view)] = np.full(count, 0.9)
        scores[ScoreKey("same_prediction", "", "", view)] = np.full(count, 0.95)
    assert all(key.metric in METRICS for key in scores)
    return scores


def _maps(rng: np.random.Generator, columns: dict[str, np.ndarray], maps: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns two sample faces of each expression, a gallery and means; the maps of all faces are left out."""
    labels = columns["expression"]
    by_probability = np.argsort(-columns["probability"])
    correct = (labels == columns["predicted"])[by_probability]
    selected = {
        "sample": np.flatnonzero(np.arange(len(labels)) % PER_CLASS < 2),
        "gallery": np.concatenate([by_probability[~correct][:12], by_probability[correct][:12]]),
    }
    arrays: dict[str, np.ndarray] = {}
    for kind, faces in selected.items():
        gradient = np.linspace(0, 255, SIZE, dtype=np.uint8)[:, None, None]
        count = len(faces)
        own = {
            "face": faces,
            "image": np.tile(gradient, (count, 1, SIZE, 3)),
            "au_map": rng.random((count, SIZE, SIZE)).astype(np.float16),
            "has_map": labels[faces] > 0,
            "attention": rng.random((count, 4, 4)).astype(np.float16),
            **({CAM: rng.normal(size=(count, 4, 4)).astype(np.float32)} if CAM in maps else {}),
            **{name: columns[name][faces] for name in ("expression", "predicted", "probability")},
        }
        arrays |= {f"{kind}/{name}": value for name, value in own.items()}
    per_class = np.full(len(EXPRESSIONS), PER_CLASS)
    arrays |= {f"class_mean/{name}": rng.random((len(EXPRESSIONS), 4, 4), np.float32) for name in maps}
    arrays["class_mean/au_map"] = rng.random((len(EXPRESSIONS), SIZE, SIZE), np.float32)
    return arrays | {"class_count": per_class, "class_map_count": per_class * (np.arange(len(EXPRESSIONS)) > 0)}


def _log(epoch: int, au_weight: float) -> list[dict[str, Any]]:
    train = {"kind": "train", "epoch": epoch, "step": 20 * epoch, "cross_entropy": 2.0 / epoch}
    train |= {"alignment": 0.5 / epoch} if au_weight else {}
    score = {"accuracy": 0.2 * epoch, "att_cos_by_layer": dict.fromkeys(LAYERS, 0.1 * epoch)}
    return [train, {"kind": "validation", "epoch": epoch, "step": 20 * epoch, "split": "validation", **score}]


def _write(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
