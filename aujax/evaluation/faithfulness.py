"""`aujax eval --faithfulness`: what a network's predictions depend on, by occluding parts of the face.

Per face: the probability drop for each occluded action unit (`occlusion.occlude_aus`), the curves of deletion,
insertion and ROAD for the reported attention, the CAM and a random ordering, and two sanity checks: how similar all
maps stay when stages of the network are randomised, where they should change, and when the image is mirrored or
shifted, where they should not. CAMs are those of the predicted expression, and so are the target AUs.

Images are (batch, height, width, 3), maps (batch, h, w) of any resolution. Similarity is the Pearson correlation of two
maps of one face: 1 for equal maps, about 0 for unrelated ones, 0 if one of them is degenerate.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Real

from aujax import augment, cams, codebook, methods, metrics, occlusion, processes, resize
from aujax.data import feed
from aujax.data.batch import Batch, data_mesh, replicate, replicated, sharded
from aujax.data.store import Faces
from aujax.evaluation import evaluate
from aujax.evaluation.evaluate import EvalStep, Outputs
from aujax.models.forward import Variables
from aujax.results import schema, summary
from aujax.results.registry import BASELINE_ORDERINGS, CAM, METRICS, NORMALISED, RANDOM
from aujax.results.schema import ScoreKey, Scores
from aujax.runs import Run

MIN_FULL_DROP = 0.1  # below it, the probability hardly depends on the image, and a share of it is noise
SHIFT = 1 / 28  # of the image's side: 8 of 224 pixels
_PREDICTED = "predicted"  # the target of all these scores, but those of active AUs

Images = Real[Array, "batch height width 3"]
Maps = Float[Array, "batch h w"]
MapsByName = dict[str, Array]


def stages(model: nn.Module, size: int) -> tuple[str, ...]:
    """Returns the stages of a network for images of `size`, from the head down to the first.

    A stage is a prefix of parameter names in the backbone: "stage4_block0" and "stage4_block1" belong to "stage4".
    """
    prefixes: dict[str, None] = {}

    def init():
        variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
        # Recorded here, in the order of the calls: JAX sorts the keys of the tree that it returns.
        prefixes.update(dict.fromkeys(name.split("_")[0] for name in variables["params"]["backbone"]))
        return variables

    jax.eval_shape(init)
    return ("head", *reversed(prefixes))


def randomised(variables: Variables, fresh: Variables, names: Collection[str]) -> Variables:
    """Returns the variables with parameters and statistics of the named stages replaced by newly initialised ones.

    Cascading randomisation goes from the head down (Adebayo et al. 2018): pass `stages(...)[:n]` for n = 1, 2, ...
    """

    def select(path, trained, new):
        _, part, name = (entry.key for entry in path[:3])  # such as "params", "backbone", "stage4_block0"
        stage = "head" if part == "head" else name.split("_")[0]
        return new if stage in names else trained

    return jax.tree_util.tree_map_with_path(select, variables, fresh)


def similarity(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """Returns the correlation of two maps of each face.

    >>> similarity(jnp.eye(4)[None], 3 - jnp.eye(4)[None])
    Array([-1.], dtype=float32)
    """
    return metrics.pearson(*(cams.normalize(maps).reshape(len(maps), -1) for maps in (first, second)))


def mirror(images: Images) -> Images:
    """Returns the images mirrored left to right."""
    return images[:, :, ::-1]


def mirror_similarity(maps: Maps, of_mirrored: Maps) -> Float[Array, " batch"]:
    """Returns the similarity of maps and those of the mirrored images, 1 if the maps mirror with the image."""
    return similarity(maps, of_mirrored[..., ::-1])


def shift(images: Images) -> Images:
    """Returns the square images moved by `SHIFT` to the right and down; the border is repeated."""
    side = images.shape[1]
    source = np.maximum(np.arange(side) - _shift_pixels(side), 0)
    return images[:, source][:, :, source]


def shift_similarity(maps: Maps, of_shifted: Maps, *, side: int) -> Float[Array, " batch"]:
    """Returns the similarity of maps, moved like images of `side` pixels, and those of the shifted images.

    It is computed where both maps show the face.
    """
    cells = maps.shape[1]
    offset = _shift_pixels(side) * cells / side
    # Linear interpolation between the cells that lie `offset` before each cell.
    source = np.clip(np.arange(cells) - offset, 0, cells - 1)
    weights = np.maximum(1 - np.abs(source[:, None] - np.arange(cells)[None, :]), 0.0).astype(np.float32)
    seen = slice(int(np.ceil(offset)), None)
    return similarity(resize.separable(maps, weights, weights)[:, seen, seen], of_shifted[:, seen, seen])


def _shift_pixels(side: int) -> int:
    return max(round(side * SHIFT), 1)


def baseline_orderings(batch: Batch, *, book: codebook.Codebook) -> tuple[MapsByName, Bool[Array, " batch"]]:
    """Returns the maps of `BASELINE_ORDERINGS`, and which labels have an AU map."""
    au_map, has_map = evaluate.draw_au_maps(batch, book, batch.expression)
    gaussian = evaluate.baseline_maps(au_map)["centred_gaussian"]
    maps = (occlusion.random_maps(jnp.asarray(batch.index)), gaussian, au_map)
    return dict(zip(BASELINE_ORDERINGS, maps, strict=True)), has_map


def make_measurement(
    run: Run,
    mesh: Mesh,
    *,
    imputation: str,
    temperature: float = 1.0,
    active: Bool[np.ndarray, "faces aus"] | None = None,
) -> EvalStep:
    """Returns the eval step of faithfulness, for `evaluate.predict`; its outputs have no maps.

    The logits are divided by `temperature`. `active` are the AUs of the codebook that each face of the split shows, if
    the data set records them. All forward passes that give maps are one compiled program, whatever the variables and
    images are.
    """
    config, model = run.config, run.model
    book = codebook.load(config.codebook)
    size = config.input_size
    whole, divided = replicated(mesh), sharded(mesh)
    views = {
        "mirrored": (jax.jit(mirror), mirror_similarity),
        "shifted": (jax.jit(shift), functools.partial(shift_similarity, side=size)),
    }

    def logits(variables, image):
        return model.apply(variables, augment.normalize(image, config.normalization)) / temperature  # type: ignore[operator]

    @functools.partial(jax.jit, out_shardings=whole)
    def occlude_aus(variables, batch, active):
        effects = occlusion.occlude_aus(
            functools.partial(logits, variables),
            evaluate.float_images(batch),
            batch.landmarks,
            batch.has_landmarks & batch.valid,
            codebook=book,
            imputation=imputation,
            targets=() if active is None else (active[batch.index],),
        )
        summarize = functools.partial(occlusion.target_au_summary, aus=book.all_aus, codebook=book)
        predicted = effects.probability.argmax(-1)
        drop = jnp.take_along_axis(effects.probability_drop, predicted[:, None, None], axis=-1)[..., 0]
        occluded = {"predicted": predicted, "drop": drop, "has_region": effects.has_region}
        occluded |= summarize(effects)._asdict()
        for of_active in effects.of_targets:
            occluded |= {f"active_{name}": values for name, values in summarize(of_active)._asdict().items()}
        return occluded

    @functools.partial(jax.jit, out_shardings=divided)
    def forward(variables, batch):
        outputs = evaluate.forward_batch(model, config, variables, batch)
        return outputs.logits.argmax(-1), evaluate.all_maps(outputs)

    @functools.partial(jax.jit, out_shardings=whole)
    def curves(variables, batch, maps):
        image, expression = evaluate.float_images(batch), jnp.asarray(batch.expression)
        classifier = functools.partial(logits, variables)
        perturb = functools.partial(occlusion.perturbation_curves, classifier, image, maps, expression)
        road = perturb(kinds=("deletion",), imputation="road")["deletion"]
        return perturb(imputation=imputation) | {"road": road}

    baselines = jax.jit(functools.partial(baseline_orderings, book=book), out_shardings=divided)
    # Divided over the devices like the labels of a batch: for other placements `forward` would be compiled again.
    divide = jax.jit(lambda values: values, out_shardings=divided)
    gather = jax.jit(lambda values: values, out_shardings=whole)
    # Differs from the key of the training's initialisation.
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    fresh = methods.init(model, key, jnp.zeros((1, size, size, 3)))
    trained, fresh, active = replicate((run.variables, fresh, active), mesh)
    order = stages(model, size)
    mixed = {stage: randomised(trained, fresh, order[: i + 1]) for i, stage in enumerate(order)}

    def measure(variables, batch):
        occluded = occlude_aus(variables, batch, active)
        baseline, has_map = baselines(batch)
        predicted = divide(occluded["predicted"])
        predicted, maps = forward(variables, batch._replace(expression=predicted))
        of_predicted = batch._replace(expression=predicted)
        orderings = {name: maps[name] for name in (run.attention_layer, CAM) if name in maps} | baseline
        curves_of_maps = curves(variables, of_predicted, orderings)
        similarities: dict[ScoreKey, Array] = {}
        for stage, stage_variables in mixed.items():
            _, others = forward(stage_variables, of_predicted)
            for name, values in compare_maps(similarity, maps, others).items():
                similarities[ScoreKey("randomisation_similarity", name, _PREDICTED, stage)] = values
        for view, (transform, compare) in views.items():
            again, others = forward(variables, of_predicted._replace(image=transform(batch.image)))
            for name, values in compare_maps(compare, maps, others).items():
                similarities[ScoreKey("view_similarity", name, _PREDICTED, view)] = values
            similarities[ScoreKey("same_prediction", condition=view)] = (again == predicted).astype(jnp.float32)
        columns = {"face": batch.index, "expression": batch.expression, "valid": batch.valid}
        columns["predicted"] = occluded["predicted"]
        columns, gathered, has_map = gather((columns, similarities, has_map))
        # Only now, when all work of the devices has been started, does the host wait for results.
        occluded, curves_of_maps = jax.device_get((occluded | {"has_map": has_map}, curves_of_maps))
        scores: dict[ScoreKey, Any] = dict(occlusion_scores(occluded, curves_of_maps, book))
        scores |= {key: gathered[key] for key in similarities}  # JAX sorts the keys
        return Outputs(columns, scores, {}, None, {})

    return measure


@functools.partial(jax.jit, static_argnums=0)
def compare_maps(compare: Callable[[Maps, Maps], Array], first: MapsByName, second: MapsByName) -> MapsByName:
    """Returns the similarity of each map with that of the same name: a program without a forward pass."""
    return {name: compare(first[name], second[name]) for name in first}


def occlusion_scores(
    occluded: Mapping[str, np.ndarray], curves: Mapping[str, Mapping[str, np.ndarray]], book: codebook.Codebook
) -> Scores:
    """Returns the scores of occluded AUs and of perturbation curves, NaN where a face has no such number.

    Normalised scores are divided by p(whole image) - p(everything imputed) of the face.

    Args:
      occluded: "drop" (batch, AUs) of the predicted class, "has_region" (batch, AUs), "has_map" (batch,): whether the
        label has an AU map, and the fields of `occlusion.TargetAUSummary`; these also after "active_", with the AUs
        that a face shows as target AUs, if these are known.
      curves: probabilities (batch, fractions), by kind and map.
      book: the codebook of the AUs.
    """
    scores: Scores = {}
    whole = curves["deletion"][RANDOM][:, 0]

    def add(metric, values, name="", *, imputed: Any = 0.0):
        """Adds a score as it is and, from its value when everything is imputed, normalised."""
        (target,) = METRICS[metric].targets
        scores[ScoreKey(metric, name, target)] = values
        enough = full_drop >= MIN_FULL_DROP
        share = np.where(enough, (values - imputed) / np.where(enough, full_drop, 1.0), np.nan)
        scores[ScoreKey(metric + NORMALISED, name, target)] = share

    for number, au in enumerate(book.all_aus):
        drop = np.where(occluded["has_region"][:, number], occluded["drop"][:, number], np.nan)
        scores[ScoreKey("probability_drop", "", _PREDICTED, f"AU{au}")] = drop

    # Target AUs, non-target AUs and the control are compared on the same faces.
    complete = occluded["has_target"] & occluded["has_non_target"] & occluded["has_control"]
    target, non_target, control = (
        np.where(complete, occluded[metric], np.nan) for metric in ("target_drop", "non_target_drop", "control_drop")
    )
    drops = {
        "target_drop": target,
        "non_target_drop": non_target,
        "control_drop": control,
        "target_over_non_target": target - non_target,
        "target_over_control": target - control,
    }
    if "active_target_drop" in occluded:
        complete = occluded["active_has_target"] & occluded["active_has_control"]
        active, control = (
            np.where(complete, occluded[metric], np.nan) for metric in ("active_target_drop", "active_control_drop")
        )
        drops |= {"active_drop": active, "active_control_drop": control, "active_over_control": active - control}
    full_drop = whole - curves["deletion"][RANDOM][:, -1]
    scores[ScoreKey("full_drop", "", _PREDICTED, "occlusion")] = full_drop
    for metric, values in drops.items():
        add(metric, values)
    for metric, values in (("top_au_is_target", "top_is_target"), ("top_au_is_target_by_chance", "target_share")):
        scores[ScoreKey(metric, "", _PREDICTED)] = np.where(occluded["has_target"], occluded[values], np.nan)

    for kind, imputed_by, sign in (("deletion", "deletion", -1), ("insertion", "deletion", 1), ("road", "road", -1)):
        imputed = curves[imputed_by][RANDOM][:, -1]
        full_drop = whole - imputed
        if kind == "road":
            scores[ScoreKey("full_drop", "", _PREDICTED, "road")] = full_drop
        areas = {name: np.trapezoid(curve, occlusion.FRACTIONS, axis=-1) for name, curve in curves[kind].items()}
        for name, curve in curves[kind].items():
            exists = occluded["has_map"] if name == "label_au_map" else True
            add(kind, np.where(exists, areas[name], np.nan), name, imputed=imputed)
            if name != RANDOM:
                add(f"{kind}_gain", np.where(exists, sign * (areas[name] - areas[RANDOM]), np.nan), name)
            for fraction, values in zip(occlusion.FRACTIONS, curve.T, strict=True):
                scores[ScoreKey(f"{kind}_curve", name, _PREDICTED, f"{fraction:g}")] = np.where(exists, values, np.nan)
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

    Several processes share the faces; process 0 writes the files.

    Args:
      run: the loaded run.
      faces: the data set.
      workdir: the run folder; the split must have been evaluated.
      split: of the data set.
      imputation: how occluded regions are filled, a row of `occlusion.IMPUTATIONS`.
      temperature: calibrates the probabilities; drops of an overconfident network do not compare with those of another.
      limit: the number of faces, drawn by a shuffle that depends on the size of the split alone; None: all.
      progress: called in process 0 with a line of text after every tenth of the faces.
    """
    source, mesh, config = faces.source(split), data_mesh(), run.config
    directory = workdir / "eval" / split
    sampled = np.sort(np.random.default_rng(0).permutation(len(source))[:limit])
    batches = feed.batches(
        source,
        sampled,
        batch_size=evaluate.batch_size(config, mesh, most=len(sampled)),
        size=config.input_size,
        threads=config.data.read_threads,
    )
    book = codebook.load(config.codebook)
    subjects, active = [], np.zeros((len(source), len(book.all_aus)), bool)
    for row in sampled:
        record = source[int(row)]
        subjects.append(record["subject_id"])
        active[row] = np.isin(book.all_aus, record["aus"])
    known = active if active.any() else None
    measure = make_measurement(run, mesh, imputation=imputation, temperature=temperature, active=known)
    scores_file = contextlib.nullcontext()
    if processes.is_first():
        schema.remove_metadata(directory, schema.FAITHFULNESS)
        scores_file = schema.ScoreWriter(directory / schema.FAITHFULNESS_SCORES)
    done = 0
    with scores_file as writer:

        def write_batch(_, outputs):
            nonlocal done
            if writer is None:
                return
            evaluate.write_scores(writer, outputs)
            before, done = done, done + int(outputs.columns["valid"].sum())
            if 10 * done // len(sampled) > 10 * before // len(sampled):
                progress(f"faithfulness: {done} of {len(sampled)} faces")

        variables = replicate(run.variables, mesh)
        columns, scores = evaluate.predict(measure, variables, batches, mesh=mesh, sinks=[write_batch])
    if not processes.is_first():
        return
    metadata = evaluate.describe(run, split, faces) | {
        "num_faces": len(sampled),
        "faces": sampled.tolist(),
        "imputation": imputation,
        "temperature": temperature,
        "aus": list(book.all_aus),
        "fractions": list(occlusion.FRACTIONS),
    }
    no_logits = np.zeros((len(sampled), len(book.expressions)))
    predictions = summary.Faces(columns["expression"], columns["predicted"], no_logits, np.array(subjects))
    summary.write_faithfulness(directory, metadata, predictions, scores)
