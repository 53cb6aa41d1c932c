"""Evaluates a classifier on a split: predictions, and the agreement of its maps with AU maps.

The protocol is the paper's (section 4.1): whole images; the CAM of the labelled class; cosines over the faces that have
an AU map, averaged per expression and then over expressions; accuracy over all faces. `make_eval_step` computes what a
validation needs, `make_full_eval_step` everything that `eval.py` reports.
"""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from aujax import au_maps, augment, cams, codebook, files, methods, metrics, processes, resize, run_files, runs
from aujax.config import Config
from aujax.data import feed
from aujax.data.batch import Batch, data_mesh, one_ahead, replicated, sharded, to_mesh
from aujax.data.store import Faces, FaceSource
from aujax.evaluation.collect import MapCollector
from aujax.results import calibration, schema, summary
from aujax.results.registry import ATTENTION, BASELINE, BASELINE_MAPS, CAM
from aujax.results.schema import ScoreKey, Scores
from aujax.runs import Run

_BASELINE_SIZE = (28, 28)  # cells to which baseline maps are reduced, to be scored as coarsely as a network's maps

AuMaps = tuple[Array, Array]  # maps (B, h, w) and whether each face has one (B,)


class Outputs(NamedTuple):
    """The results of one batch, still on the devices; sinks get columns and scores on the host.

    Attributes:
      columns: predictions, a row per face; replicated.
      scores: values of map metrics, a row per face, NaN where a face has none; replicated.
      maps: attention by layer and "cam", (B, h, w); replicated. Only in a full evaluation, as all that follow.
      au_map: the AU map of the label, (B, H, W); sharded.
      class_sums: sums of the maps over the faces of each class, (K, h, w); replicated.
    """

    columns: dict[str, Any]
    scores: dict[ScoreKey, Any]
    maps: dict[str, Array]
    au_map: Float[Array, "batch height width"] | None
    class_sums: dict[str, Array]


EvalStep = Callable[[methods.Variables, Batch], Outputs]
Sink = Callable[[Batch, Outputs], None]


class Predictions(NamedTuple):
    """Predictions and scores of a whole split on the host, one row per face."""

    columns: dict[str, np.ndarray]
    scores: Scores


def make_forward(model: methods.Classifier, config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted (variables, batch) -> (forward pass, AU maps of the labels, which faces have one).

    Maps are compared in a program of its own (`compare`): within a single program, XLA on a CPU draws an AU map again
    for each of the values that are computed from it.
    """
    book = codebook.load(config.codebook)

    def forward(variables, batch):
        return forward_batch(model, config, variables, batch), *draw_au_maps(batch, book, batch.expression)

    return jax.jit(forward, out_shardings=sharded(mesh))


def make_eval_step(forward: Callable[..., tuple[methods.Forward, Array, Array]], mesh: Mesh) -> EvalStep:
    """Returns the eval step of a validation, from what `make_forward` returned, jitted or ahead-of-time compiled."""
    jitted_compare = jax.jit(compare, out_shardings=replicated(mesh))

    def eval_step(variables, batch):
        outputs, au_map, has_map = forward(variables, batch)
        columns, scores = jitted_compare(batch, outputs, au_map, has_map)
        return Outputs(columns, scores, {}, None, {})

    return eval_step


def all_maps(forward: methods.Forward) -> dict[str, Array]:
    """Returns the attention of every layer, and the CAM if the method has one, by name."""
    return dict(forward.attention) if forward.cam is None else {**forward.attention, CAM: forward.cam}


def compare(
    batch: Batch, forward: methods.Forward, au_map: Float[Array, "batch h w"], has_map: Bool[Array, " batch"]
) -> tuple[dict[str, Array], dict[ScoreKey, Array]]:
    """Returns predictions, and of each map the cosine with the AU map and whether it is degenerate."""
    scores = {}
    for name, map_ in all_maps(forward).items():
        if name == CAM:
            cosine = metrics.resampled_cosine(cams.normalize(map_), au_map, resize.bilinear_matrix)
        else:
            cosine = metrics.map_cosine(map_, au_map)
        scores[ScoreKey("cosine", name, "label")] = jnp.where(has_map, cosine, jnp.nan)
        scores[ScoreKey("degenerate", name)] = cams.degenerate(map_).astype(jnp.float32)
    columns = {
        "face": batch.index,
        "expression": batch.expression,
        "predicted": forward.logits.argmax(-1).astype(jnp.int32),
        "probability": jax.nn.softmax(forward.logits).max(-1),
        "logits": forward.logits,
        "has_map": has_map,
        "valid": batch.valid,
    }
    return columns, scores


def make_full_eval_step(model: methods.Classifier, config: Config, mesh: Mesh) -> EvalStep:
    """Returns the eval step of `eval.py`: also baseline maps, `metrics.scores` and sums of the maps by class.

    Scores are computed for the maps and AU maps of the label, and for those of the predicted expression.
    """
    book = codebook.load(config.codebook)

    def forward_both(variables, batch):
        forward = forward_batch(model, config, variables, batch)
        predicted = forward.logits.argmax(-1)
        # The compiler shares the forward pass: only what depends on the expression is computed again.
        of_predicted = forward_batch(model, config, variables, batch._replace(expression=predicted))
        drawn = {
            "label": draw_au_maps(batch, book, batch.expression),
            "predicted": draw_au_maps(batch, book, predicted),
            "all": draw_au_maps(batch, codebook.generic(book), jnp.zeros_like(predicted)),
        }
        return forward, of_predicted.cam, drawn

    # Two programs, as in `make_forward`. Besides, where one program both draws AU maps and sums them over the batch,
    # the compiler makes the batch their innermost axis, and drawing takes ten times as long.
    def compare_all(batch, forward, predicted_cam, drawn):
        au_map, has_map = drawn["label"]
        columns, scores = compare(batch, forward, au_map, has_map)
        columns["has_predicted_map"] = drawn["predicted"][1]
        baselines = baseline_maps(drawn["all"][0])
        for name, map_ in baselines.items():
            scores[ScoreKey("cosine", name, "label")] = jnp.where(has_map, metrics.cosine(map_, au_map), jnp.nan)
        cells = {name: resize.area_resize(map_, _BASELINE_SIZE) for name, map_ in baselines.items()}
        # Attention and baselines are the same for both targets; the CAM and the AU map are not.
        for target, cam in (("label", forward.cam), ("predicted", predicted_cam)):
            target_map, known = drawn[target]
            for name, map_ in (all_maps(forward._replace(cam=cam)) | cells).items():
                for metric, values in metrics.scores(map_, target_map).items():
                    scores[ScoreKey(metric, name, target)] = jnp.where(known, values, jnp.nan)
        one_hot = jax.nn.one_hot(batch.expression, len(book.expressions)) * batch.valid[:, None]
        sum_by_class = functools.partial(jnp.einsum, "bk,bhw->khw", one_hot, precision=jax.lax.Precision.HIGHEST)
        class_sums = {name: sum_by_class(cams.normalize(map_)) for name, map_ in all_maps(forward).items()}
        class_sums["au_map"] = sum_by_class(au_map)
        return columns, scores, all_maps(forward), class_sums

    jitted_forward = jax.jit(forward_both, out_shardings=sharded(mesh))
    jitted_compare = jax.jit(compare_all, out_shardings=replicated(mesh))

    def eval_step(variables, batch):
        forward, predicted_cam, drawn = jitted_forward(variables, batch)
        columns, scores, maps, class_sums = jitted_compare(batch, forward, predicted_cam, drawn)
        maps = {name: maps[name] for name in all_maps(forward)}  # JAX returns dictionaries sorted by key
        return Outputs(columns, scores, maps, drawn["label"][0], class_sums)

    return eval_step


def float_images(batch: Batch) -> Float[Array, "batch height width 3"]:
    """Returns the images of a batch with values in [0, 1]."""
    return jnp.asarray(batch.image, jnp.float32) / 255.0


def forward_batch(
    model: methods.Classifier, config: Config, variables: methods.Variables, batch: Batch
) -> methods.Forward:
    """Returns the forward pass of a batch; the CAM is that of its expressions."""
    image = augment.normalize(float_images(batch), config.normalization)
    return methods.forward(model, variables, image, batch.expression)


def baseline_maps(all_aus: Float[Array, "batch h w"]) -> dict[str, Float[Array, "batch h w"]]:
    """Returns maps that ignore the network: uniform, centred Gaussian, and `all_aus`, all AUs of the face."""
    y, x = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in all_aus.shape[1:])
    gaussian = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2))
    # Behind a barrier, because the compiler would fold these constants for every batch size, which takes seconds.
    constant = jax.lax.optimization_barrier({"uniform": np.ones_like(gaussian), "centred_gaussian": gaussian})
    maps = {name: jnp.broadcast_to(value, all_aus.shape) for name, value in constant.items()}
    return maps | {"all_au_map": all_aus}


def draw_au_maps(batch: Batch, book: codebook.Codebook, expression: Array | np.ndarray) -> AuMaps:
    """Returns the AU map of an expression for each face, and which faces have one."""
    known = batch.has_landmarks & batch.valid
    return au_maps.batch_au_maps(batch.landmarks, expression, known, size=batch.image.shape[1:3], codebook=book)


def class_mean_cosines(
    batches: Iterable[Batch], means: Float[np.ndarray, "classes height width"], book: codebook.Codebook
) -> Float[np.ndarray, " faces"]:
    """Returns the cosine of each face's AU map with the mean AU map of its class; pixels are not used."""

    @jax.jit
    def cosines(batch):
        au_map, _ = draw_au_maps(batch, book, batch.expression)
        return metrics.cosine(jnp.asarray(means)[batch.expression], au_map)

    return np.concatenate([np.asarray(cosines(batch))[np.asarray(batch.valid)] for batch in batches])


def batch_size(config: Config, mesh: Mesh, *, most: int = sys.maxsize) -> int:
    """Returns the eval batch size: the configured one, or `most` if that is less, and a multiple of the devices."""
    return -(-min(config.data.eval_batch_size, most) // mesh.size) * mesh.size


def whole_split(source: FaceSource, config: Config, mesh: Mesh) -> Iterator[Batch]:
    """Yields every face of a split once, in order, at the network's input size."""
    return feed.batches(
        source,
        np.arange(len(source)),
        batch_size=batch_size(config, mesh),
        size=config.input_size,
        threads=config.data.read_threads,
    )


def predict(
    eval_step: EvalStep,
    variables: methods.Variables,
    batches: Iterable[Batch],
    *,
    mesh: Mesh,
    sinks: Sequence[Sink] = (),
    keep: Collection[str] | None = None,
) -> Predictions:
    """Returns predictions of all batches and their scores, of the metrics `keep` or of all.

    Every sink is called with each batch and its outputs, of which columns and scores are on the host. Batches are on
    the host or, if they are evaluated repeatedly, on the mesh already. The devices compute one batch ahead of the host.
    """
    columns: list[dict[str, np.ndarray]] = []
    scores: list[Scores] = []

    def started():
        for batch in batches:
            yield batch, eval_step(variables, batch if isinstance(batch.image, jax.Array) else to_mesh(batch, mesh))

    for batch, outputs in one_ahead(started()):
        rows, values = jax.device_get((outputs.columns, outputs.scores))
        # In the order of the eval step; JAX returns dictionaries sorted by key.
        outputs = outputs._replace(columns=rows, scores={key: values[key] for key in outputs.scores})
        columns.append({name: column[rows["valid"]] for name, column in rows.items() if name != "valid"})
        kept = {key: value for key, value in outputs.scores.items() if keep is None or key.metric in keep}
        scores.append({key: value[rows["valid"]] for key, value in kept.items()})
        for sink in sinks:
            sink(batch, outputs)

    def joined(parts):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return Predictions(joined(columns), joined(scores))


def write_scores(writer: schema.ScoreWriter, outputs: Outputs) -> None:
    """Writes the scores of a batch, which are on the host, without those of padding."""
    valid = outputs.columns["valid"]
    writer.add(outputs.columns["face"][valid], {key: values[valid] for key, values in outputs.scores.items()})


def validation_metrics(predictions: Predictions, expressions: Sequence[str], *, layer: str) -> dict[str, Any]:
    """Returns the main numbers of a validation without intervals, by key of `METRICS`, and `att_cos_by_layer`."""
    scores = {key: values for key, values in predictions.scores.items() if key.metric == "cosine"}
    maps = {key.map: CAM if key.map == CAM else ATTENTION for key in scores}
    for headline, name in (("att_cos", layer), ("cam_cos", CAM)):
        if name in maps:
            scores[ScoreKey(headline)] = scores[ScoreKey("cosine", name, "label")]
    columns = predictions.columns
    no_subjects = np.full(len(columns["face"]), "")
    faces = summary.Faces(columns["expression"], columns["predicted"], columns["logits"], no_subjects)
    table = summary.summarize(faces, scores, expressions, resampled=False)
    numbers = summary.headline(table, maps)
    del numbers["baselines"]
    return numbers


def evaluate(run: Run, faces: Faces, workdir: pathlib.Path, split: str, *, all_maps: bool = True) -> pathlib.Path:
    """Evaluates a run on a split and returns RUN/eval/<split>, which holds the files of `results.schema`.

    The evaluation of the validation split also fits the temperature that calibrates the run's probabilities. Several
    processes share the faces; process 0 writes the files. Without `all_maps`, maps.npz lacks the maps of all faces.
    """
    source, mesh, config = faces.source(split), data_mesh(), run.config
    directory = workdir / "eval" / split
    metadata = describe(run, split, faces)
    layer = metadata["attention_layer"]
    landmarks: list[Batch] = []

    scores_file = contextlib.nullcontext()
    if processes.is_first():
        schema.remove_metadata(directory, schema.METADATA)
        scores_file = schema.ScoreWriter(directory / schema.SCORES)
    maps_in = directory if all_maps and processes.is_first() else None
    with MapCollector(len(source), attention_layer=layer, directory=maps_in) as collector:
        with scores_file as writer:

            def write_batch(batch, outputs):
                if writer is not None:
                    write_scores(writer, outputs)
                # Without the pixels, of which only the size is needed; a slice would keep all of them in memory.
                landmarks.append(batch._replace(image=np.empty((*batch.image.shape[:3], 0), np.uint8)))

            columns, scores = predict(
                make_full_eval_step(run.model, config, mesh),
                jax.device_put(run.variables, replicated(mesh)),
                whole_split(source, config, mesh),
                mesh=mesh,
                sinks=[collector, write_batch],
                keep=("cosine", "degenerate"),  # all are in the file
            )
            means = collector.class_means(columns["expression"], columns["has_map"], len(faces.expressions))
            own = np.concatenate([batch.index[batch.valid] for batch in landmarks])
            class_mean = np.zeros(len(source), np.float32)
            class_mean[own] = class_mean_cosines(landmarks, means["class_mean/au_map"], codebook.load(config.codebook))
            class_mean = np.where(columns["has_map"], processes.total(class_mean), np.nan)
            if writer is not None:
                writer.add(columns["face"], {ScoreKey("cosine", "class_mean_au_map", "label"): class_mean})
        if processes.is_first():
            arrays = {name: columns[name] for name in ("face", "expression", "predicted", "has_map")}
            _write(run, faces, workdir, metadata, columns, scores, arrays | collector.arrays() | means)
    return directory


def _write(run, faces, workdir, metadata, columns, scores, arrays):
    """Writes the files of an evaluation but for its scores, and the temperature if it is of the validation split."""
    split, source = metadata["split"], faces.source(metadata["split"])
    # The columns of faces.csv that are taken from the scores.
    names = [name for name, kind in metadata["maps"].items() if kind != BASELINE]
    nothing = np.full(len(columns["face"]), np.nan, np.float32)
    degenerate = np.stack([scores[ScoreKey("degenerate", name)] > 0 for name in names], axis=1)
    columns |= {
        "att_cos": scores[ScoreKey("cosine", metadata["attention_layer"], "label")],
        "cam_cos": scores.get(ScoreKey("cosine", CAM, "label"), nothing),
        "degenerate": np.array([" ".join(np.array(names)[row]) for row in degenerate], object),
    }
    # Without the images.
    rows = map(source.__getitem__, columns["face"].tolist())
    records = [{name: record[name] for name in ("id", "subject_id", "attributes")} for record in rows]
    table = schema.face_table(columns, faces.expressions, records)
    if split == "validation":
        temperature = calibration.fit_temperature(columns["logits"].astype(float), columns["expression"])
        kept = {name: metadata[name] for name in ("split", "model_selection", "checkpoint", "data")}
        files.write_json(workdir / run_files.CALIBRATION, {"temperature": temperature} | kept)
        # It is not judged on the faces that it was fitted to.
        value, problem = None, "The temperature is fitted on this split."
    else:
        value, problem = runs.temperature(run, workdir, fingerprint=faces.fingerprint)
    metadata["temperature"] = {"value": value, "problem": problem}
    # An operating point needs calibrated probabilities of both splits.
    validation = None if value is None else _validation_predictions(workdir, metadata)
    summary.write_evaluation(workdir / "eval" / split, metadata, table, arrays, validation=validation)


def evaluate_run(workdir: pathlib.Path, split: str) -> pathlib.Path:
    """Evaluates the best checkpoint of a run folder on a split of its own data; returns RUN/eval/<split>."""
    run = runs.load_run(workdir)
    return evaluate(run, runs.open_data(run, None), workdir, split)


def _validation_predictions(workdir, metadata):
    """Returns the predictions of the same weights on the validation split, and the temperature; None without them."""
    path = workdir / "eval" / "validation"
    if not (path / schema.METADATA).is_file():
        return None
    remedy = f"run {schema.eval_command(workdir, 'validation')}"
    other = schema.read_metadata(path / schema.METADATA, remedy=remedy)
    same_weights = other["checkpoint"]["step"] == metadata["checkpoint"]["step"]
    if not same_weights or other["expressions"] != metadata["expressions"]:
        return None
    value = metadata["temperature"]["value"]
    faces = schema.read_faces(path / schema.FACES, other["expressions"], remedy=remedy)
    return schema.predictions(faces, other["expressions"], temperature=value), value


def describe(run: Run, split: str, faces: Faces) -> dict[str, Any]:
    """Returns the metadata of an evaluation: what was evaluated, on which data, with which versions."""
    config = run.config
    method = run.model.method
    maps = dict.fromkeys(method.layers, ATTENTION) | ({CAM: CAM} if method.readout else {})
    return {
        "split": split,
        "model_selection": config.model_selection,
        "method": config.method,
        "au_weight": config.au_weight,
        "codebook": config.codebook,
        "seed": config.seed,
        "expressions": list(faces.expressions),
        "attention_layer": run.attention_layer,
        "maps": maps | dict.fromkeys(BASELINE_MAPS, BASELINE),
        "checkpoint": run.checkpoint,
        "data": {"dir": str(faces.directory), "fingerprint": faces.fingerprint, "about": faces.about},
        "versions": runs.versions(),
    }
