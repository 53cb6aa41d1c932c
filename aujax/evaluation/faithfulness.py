"""`eval.py --faithfulness`: what a network's predictions depend on, by occluding parts of the face.

Per face: the probability drop for each occluded action unit (`occlusion.occlude_aus`), the curves of deletion,
insertion and ROAD for the reported attention, the CAM and a random ordering, and how similar all maps stay when stages
of the network are randomised and when the image is mirrored or shifted (`sanity`). CAMs are those of the predicted
expression, and so are the target AUs.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aujax import augment, codebook, methods, occlusion
from aujax.data import feed
from aujax.data.batch import Batch, data_mesh, replicated, sharded, to_mesh_ahead
from aujax.data.store import Faces
from aujax.evaluation import evaluate, sanity
from aujax.results import schema, summary
from aujax.results.registry import CAM, RANDOM
from aujax.results.schema import ScoreKey, Scores
from aujax.runs import Run

_CURVES = ("deletion", "insertion", "road")
_PREDICTED = "predicted"  # the target of all these scores


class Programs(NamedTuple):
    """The compiled programs; every forward pass for one purpose is the same program, whatever its inputs are."""

    to_float: Callable[[Batch], jax.Array]
    occlude_aus: Callable[[methods.Variables, jax.Array, Batch], dict[str, jax.Array]]
    forward: Callable[[methods.Variables, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
    curves: Callable[..., dict[str, dict[str, jax.Array]]]


def make_programs(run: Run, mesh: Mesh, *, imputation: str, temperature: float = 1.0) -> Programs:
    """Returns the programs for a run's network, its logits divided by `temperature`."""
    config, model = run.config, run.model
    book = codebook.load(config.codebook)
    whole, divided = replicated(mesh), sharded(mesh)

    def normalized(image: jax.Array) -> jax.Array:
        return augment.normalize(image, config.normalization)

    def score(variables: methods.Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, normalized(image)) / temperature  # type: ignore[operator]

    def occlude_aus(variables: methods.Variables, image: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        where = batch.has_landmarks & batch.valid
        classifier = functools.partial(score, variables)
        effects = occlusion.occlude_aus(classifier, image, batch.landmarks, where, codebook=book, imputation=imputation)
        predicted = effects.probability.argmax(-1)
        drop = jnp.take_along_axis(effects.probability_drop, predicted[:, None, None], axis=-1)[..., 0]
        targets = occlusion.target_au_summary(effects, aus=book.all_aus, codebook=book)
        return {"predicted": predicted, "drop": drop, "has_region": effects.has_region, **targets._asdict()}

    def forward(
        variables: methods.Variables, image: jax.Array, expression: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = methods.forward(model, variables, normalized(image), expression)
        maps = dict(outputs.attention) if outputs.cam is None else {**outputs.attention, CAM: outputs.cam}
        return outputs.logits.argmax(-1), maps

    def curves(
        variables: methods.Variables, image: jax.Array, maps: dict[str, jax.Array], expression: jax.Array
    ) -> dict[str, dict[str, jax.Array]]:
        classifier = functools.partial(score, variables)
        perturb = functools.partial(occlusion.perturbation_curves, classifier, image, maps, expression)
        road = perturb(kinds=("deletion",), imputation="road")["deletion"]
        return perturb(imputation=imputation) | {"road": road}

    return Programs(
        jax.jit(lambda batch: jnp.asarray(batch.image, jnp.float32) / 255.0, out_shardings=divided),
        jax.jit(occlude_aus, out_shardings=whole),
        jax.jit(forward, out_shardings=divided),
        jax.jit(curves, out_shardings=whole),
    )


class Measured(NamedTuple):
    """The values of one batch, a row per face.

    Attributes:
      occluded: "predicted", "drop" (B, AUs), "has_region" (B, AUs) and the fields of `occlusion.TargetAUSummary`.
      curves: by kind and map, (B, fractions).
      randomised: similarity by stage and map.
      views: similarity by view and map.
      same_prediction: by view.
      valid: False for padding.
    """

    occluded: dict[str, Any]
    curves: dict[str, dict[str, Any]]
    randomised: dict[str, dict[str, Any]]
    views: dict[str, dict[str, Any]]
    same_prediction: dict[str, Any]
    index: Any
    valid: Any


def make_measurement(
    run: Run, mesh: Mesh, *, imputation: str, temperature: float = 1.0
) -> tuple[Callable[[Batch], Measured], tuple[str, ...]]:
    """Returns batch on the mesh -> `Measured`, still on the devices, and the stages in the order of randomisation."""
    programs = make_programs(run, mesh, imputation=imputation, temperature=temperature)
    size = run.config.input_size
    layer = run.attention_layer
    variables = jax.device_put(run.variables, replicated(mesh))
    # Not the key with which the training may have begun.
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    fresh = jax.device_put(methods.init(run.model, key, jnp.zeros((1, size, size, 3))), replicated(mesh))
    order = sanity.stages(run.model, size)
    randomised = {stage: sanity.randomised(variables, fresh, order[: i + 1]) for i, stage in enumerate(order)}
    similarity = jax.jit(_by_map(sanity.similarity))
    random_maps = jax.jit(occlusion.random_maps)
    views = {
        name: (jax.jit(view.transform), jax.jit(_by_map(view.similarity)))
        for name, view in sanity.views((size, size)).items()
    }

    def measure(batch: Batch) -> Measured:
        image = programs.to_float(batch)
        occluded = programs.occlude_aus(variables, image, batch)
        predicted, maps = programs.forward(variables, image, occluded["predicted"])
        reported = {name: maps[name] for name in (layer, CAM) if name in maps}
        curves = programs.curves(variables, image, {**reported, RANDOM: random_maps(batch.index)}, predicted)
        by_stage = {
            stage: similarity(maps, programs.forward(mixed, image, predicted)[1]) for stage, mixed in randomised.items()
        }
        by_view, same_prediction = {}, {}
        for name, (transform, compare) in views.items():
            again, others = programs.forward(variables, transform(image), predicted)
            by_view[name] = compare(maps, others)
            same_prediction[name] = again == predicted
        return Measured(occluded, curves, by_stage, by_view, same_prediction, batch.index, batch.valid)

    return measure, order


def _by_map(compare: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., dict[str, jax.Array]]:
    """Returns a comparison of each map with that of the same name."""
    return lambda first, second: {name: compare(first[name], second[name]) for name in first}


def scores_of(measured: Measured, book: codebook.Codebook) -> Scores:
    """Returns the scores of a batch on the host by key; NaN where a face has no such number."""
    scores: Scores = {}
    occluded = measured.occluded
    for number, au in enumerate(book.all_aus):
        drop = np.where(occluded["has_region"][:, number], occluded["drop"][:, number], np.nan)
        scores[ScoreKey("probability_drop", "", _PREDICTED, f"AU{au}")] = drop
    # Target AUs, non-target AUs and the control are compared on the same faces.
    complete = occluded["has_target"] & occluded["has_non_target"] & occluded["has_control"]
    target, non_target, control = occluded["target_drop"], occluded["non_target_drop"], occluded["control_drop"]
    values = {
        "target_drop": (target, complete),
        "non_target_drop": (non_target, complete),
        "control_drop": (control, complete),
        "target_over_non_target": (target - non_target, complete),
        "target_over_control": (target - control, complete),
        "top_au_is_target": (occluded["top_is_target"], occluded["has_target"]),
        "top_au_is_target_by_chance": (occluded["target_share"], occluded["has_target"]),
    }
    for metric, (column, known) in values.items():
        scores[ScoreKey(metric, "", _PREDICTED)] = np.where(known, column, np.nan)
    for kind in _CURVES:
        curves = measured.curves[kind]
        areas = {name: np.trapezoid(curve, occlusion.FRACTIONS, axis=-1) for name, curve in curves.items()}
        for name, curve in curves.items():
            scores[ScoreKey(kind, name, _PREDICTED)] = areas[name]
            for place, fraction in enumerate(occlusion.FRACTIONS):
                scores[ScoreKey(f"{kind}_curve", name, _PREDICTED, f"{fraction:g}")] = curve[:, place]
            if name != RANDOM:
                gain = areas[RANDOM] - areas[name]
                scores[ScoreKey(f"{kind}_gain", name, _PREDICTED)] = -gain if kind == "insertion" else gain
    for metric, by_condition in (
        ("randomisation_similarity", measured.randomised),
        ("view_similarity", measured.views),
    ):
        for condition, by_name in by_condition.items():
            for name, values_of_map in by_name.items():
                scores[ScoreKey(metric, name, _PREDICTED, condition)] = values_of_map
    for view, same in measured.same_prediction.items():
        scores[ScoreKey("same_prediction", "", "", view)] = same.astype(np.float32)
    return scores


def evaluate_faithfulness(
    run: Run,
    faces: Faces,
    workdir: pathlib.Path,
    split: str,
    *,
    imputation: str = "blur",
    temperature: float = 1.0,
    limit: int | None = None,
    progress: Callable[[str], object] = print,
) -> None:
    """Writes faithfulness.json, .parquet and _summary.csv into RUN/eval/<split>.

    Args:
      run: the loaded run.
      faces: the data set.
      workdir: the run folder; the split must have been evaluated.
      split: of the data set.
      imputation: how occluded regions are filled, a row of `occlusion.IMPUTATIONS`.
      temperature: calibrates the probabilities; drops of an overconfident network do not compare with those of another.
      limit: the number of faces, drawn by a shuffle that depends on the size of the split alone; None: all.
      progress: called with a line of text after every tenth of the faces.
    """
    source, mesh, config = faces.source(split), data_mesh(), run.config
    directory = workdir / "eval" / split
    drawn = np.sort(np.random.default_rng(0).permutation(len(source))[:limit])
    batch_size = -(-min(config.data.eval_batch_size, len(drawn)) // mesh.size) * mesh.size
    batches = feed.batches(
        source, drawn, batch_size=batch_size, size=config.input_size, threads=config.data.read_threads
    )
    measure, stages = make_measurement(run, mesh, imputation=imputation, temperature=temperature)
    book = codebook.load(config.codebook)
    schema.remove_metadata(directory, schema.FAITHFULNESS)
    done = reported = 0
    predicted: list[np.ndarray] = []
    scores: list[Scores] = []
    with schema.ScoreWriter(directory / schema.FAITHFULNESS_SCORES) as writer:
        for batch in to_mesh_ahead(batches, mesh):
            measured = jax.device_get(measure(batch))
            # JAX sorts dictionaries by key; randomisation goes from the head down.
            measured = measured._replace(randomised={stage: measured.randomised[stage] for stage in stages})
            valid = measured.valid
            rows = {key: np.asarray(values)[valid] for key, values in scores_of(measured, book).items()}
            writer.add(measured.index[valid], rows)
            scores.append(rows)
            predicted.append(measured.occluded["predicted"][valid])
            done += int(valid.sum())
            if 10 * done // len(drawn) > reported:
                reported = 10 * done // len(drawn)
                progress(f"faithfulness: {done} of {len(drawn)} faces")
    metadata = evaluate.describe(run, split, faces) | {
        "num_faces": len(drawn),
        "faces": drawn.tolist(),
        "imputation": imputation,
        "temperature": temperature,
        "aus": list(book.all_aus),
        "fractions": list(occlusion.FRACTIONS),
    }
    labels = np.array([source[int(row)]["expression"] for row in drawn])
    subjects = np.array([source[int(row)]["subject_id"] for row in drawn])
    no_logits = np.zeros((len(drawn), len(book.expressions)))
    predictions = summary.Faces(labels, np.concatenate(predicted), no_logits, subjects)
    all_scores = {key: np.concatenate([rows[key] for rows in scores]) for key in scores[0]}
    summary.write_faithfulness(directory, metadata, predictions, all_scores)
