"""How well a classifier recognises expressions, and how well its maps agree with the AU maps.

The protocol is the paper's (section 4.1): whole pictures; the CAM of the labelled class; cosines over the faces
that have an AU map, averaged per expression and then over expressions; accuracy over all faces. `make_reader` reads
what a validation needs, `make_thorough_reader` all that `eval.py` reports.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from aujax import au_maps, augment, cams, codebook, map_scores, methods, metrics, resize
from aujax.config import Config
from aujax.data import feed
from aujax.data.builders import Faces, FaceSource
from aujax.data.records import Batch, replicated, sharded, to_mesh
from aujax.evaluation_summary import summarize
from aujax.runs import Run, versions

_CELLS = (28, 28)  # of a trivial map, to be scored as coarse as a network's


class Outputs(NamedTuple):
    """What one batch gives: columns (B, ...), maps (B, h, w) and, if wanted, sums over each class (K, h, w).

    Columns and sums are whole on every device, maps divided over them; nothing is copied to the host unasked.
    """

    columns: dict[str, Array]
    maps: dict[str, Array]
    au_map: Float[Array, "batch height width"]
    class_sums: dict[str, Array]


Reader = Callable[[methods.Variables, Batch], Outputs]
Sink = Callable[[Batch, Outputs], None]


class Evaluation(NamedTuple):
    """The summary of metrics.json, and one row per face."""

    summary: dict[str, Any]
    columns: dict[str, np.ndarray]


def make_reader(model: methods.Classifier, config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted pass (variables, batch on the mesh) -> `Outputs`, all that evaluation asks of a network."""
    book = codebook.load(config.codebook)

    def read(variables: methods.Variables, batch: Batch) -> Outputs:
        image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, config.normalization)
        return compare(methods.forward(model, variables, image, batch.expression), batch, book=book)

    whole, divided = replicated(mesh), sharded(mesh)
    return jax.jit(read, out_shardings=Outputs(columns=whole, maps=divided, au_map=divided, class_sums=whole))  # type: ignore[arg-type]


def compare(forward: methods.Forward, batch: Batch, *, book: codebook.Codebook) -> Outputs:
    """Returns what is made of a pass through the network: its maps beside the AU maps, its logits beside the labels."""
    au_map, has_map = _au_maps(au_maps.batch_au_maps, batch, book, batch.expression)
    maps = {f"attention/{layer}": attention for layer, attention in forward.attention.items()}
    cosines = {f"cosine/{name}": metrics.map_cosine(value, au_map) for name, value in maps.items()}
    if forward.cam is not None:
        maps["cam"] = forward.cam
        cosines["cosine/cam"] = metrics.resampled_cosine(cams.normalize(forward.cam), au_map, resize.bilinear_matrix)
    informative = {f"informative/{name}": cams.informative(value) for name, value in maps.items()}
    columns = {
        "index": batch.index,
        "expression": batch.expression,
        "predicted": forward.logits.argmax(-1).astype(jnp.int32),
        "probability": jax.nn.softmax(forward.logits).max(-1),
        "logits": forward.logits,
        "has_map": has_map,
        "valid": batch.valid,
    }
    return Outputs(columns | cosines | informative, maps, au_map, {})


def make_thorough_reader(model: methods.Classifier, config: Config, mesh: Mesh) -> Reader:
    """Returns a reader that also gives the cosines of trivial maps, `map_scores` and the class sums.

    The scores are those of maps and AU maps of the labelled class ("label:<map>:<score>") and of the predicted one
    ("predicted:<map>:<score>", where "has_predicted_map").
    """
    book = codebook.load(config.codebook)
    whole, divided = replicated(mesh), sharded(mesh)

    def read(variables: methods.Variables, batch: Batch) -> tuple[Outputs, Array | None]:
        image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, config.normalization)
        forward = methods.forward(model, variables, image, batch.expression)
        # The compiler sees that this is the same pass through the network, but for what an expression decides.
        of_predicted = methods.forward(model, variables, image, forward.logits.argmax(-1))
        return compare(forward, batch, book=book), of_predicted.cam

    # A program of its own. Where one program draws AU maps and sums them over the batch, the compiler makes the batch
    # their innermost axis, and drawing them takes ten times as long.
    def summarize(batch: Batch, outputs: Outputs, predicted_cam: Array | None) -> tuple[dict, dict]:
        shown = {name: cams.normalize(value) for name, value in outputs.maps.items()} | {"au_map": outputs.au_map}
        class_sums = _class_sums(shown, batch, len(book.expressions))
        trivial = _trivial_maps(batch, book)
        columns = {f"cosine/{name}": metrics.cosine(map_, outputs.au_map) for name, map_ in trivial.items()}
        cells = {name: map_scores.shrunk(map_, _CELLS) for name, map_ in trivial.items()}
        columns |= _scores("label", outputs.maps | cells, outputs.au_map)
        maps = outputs.maps | cells | ({} if predicted_cam is None else {"cam": predicted_cam})
        au_map, drawn = _au_maps(au_maps.batch_au_maps, batch, book, outputs.columns["predicted"])
        return columns | _scores("predicted", maps, au_map) | {"has_predicted_map": drawn}, class_sums

    outputs_on = Outputs(columns=whole, maps=divided, au_map=divided, class_sums=whole)  # type: ignore[arg-type]
    read_all, summarize_all = (
        jax.jit(read, out_shardings=(outputs_on, divided)),
        jax.jit(summarize, out_shardings=whole),
    )

    def thorough(variables: methods.Variables, batch: Batch) -> Outputs:
        outputs, predicted_cam = read_all(variables, batch)
        columns, class_sums = summarize_all(batch, outputs, predicted_cam)
        return outputs._replace(columns=outputs.columns | columns, class_sums=class_sums)

    return thorough


def _scores(of: str, maps: dict[str, Array], au_map: Float[Array, "batch height width"]) -> dict[str, Array]:
    return {
        f"{of}:{name}:{score}": value
        for name, map_ in maps.items()
        for score, value in map_scores.scores(map_, au_map).items()
    }


def _trivial_maps(batch: Batch, book: codebook.Codebook) -> dict[str, Float[Array, "batch height width"]]:
    """Returns what any map must beat: a flat one, a blob in the middle, all action units of the face at once."""
    y, x = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in batch.image.shape[1:3])
    blob = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2))
    units, _ = _au_maps(au_maps.batch_generic_maps, batch, book)
    # No constants: for each batch the compiler would compute with them while it compiles, for seconds.
    same = jax.lax.optimization_barrier({"uniform": np.ones_like(blob), "centred_gaussian": blob})
    return {name: jnp.broadcast_to(value, units.shape) for name, value in same.items()} | {"all_au_map": units}


def class_mean_cosines(
    batches: Iterable[Batch], means: Float[np.ndarray, "classes height width"], book: codebook.Codebook
) -> Float[np.ndarray, " faces"]:
    """Returns the cosine of each face's AU map with the mean AU map of its class; the pixels do not matter."""

    @jax.jit
    def cosines(batch: Batch) -> Array:
        au_map, _ = _au_maps(au_maps.batch_au_maps, batch, book, batch.expression)
        return metrics.cosine(jnp.asarray(means)[batch.expression], au_map)

    return np.concatenate([np.asarray(cosines(batch))[np.asarray(batch.valid)] for batch in batches])


def _class_sums(maps: dict[str, Array], batch: Batch, num_classes: int) -> dict[str, Float[Array, "classes h w"]]:
    one_hot = jax.nn.one_hot(batch.expression, num_classes) * batch.valid[:, None]
    exact = jax.lax.Precision.HIGHEST
    return {name: jnp.einsum("bk,bhw->khw", one_hot, value, precision=exact) for name, value in maps.items()}


def _au_maps(draw: Callable[..., Any], batch: Batch, book: codebook.Codebook, *labels: Any) -> tuple[Array, Array]:
    known = batch.has_landmarks & batch.valid
    return draw(batch.landmarks, *labels, known, size=batch.image.shape[1:3], codebook=book)


def batch_size(config: Config, mesh: Mesh) -> int:
    """Returns how many faces are read at a time: as configured, or what the devices can divide above it."""
    return -(-config.data.eval_batch_size // mesh.size) * mesh.size


def whole_split(source: FaceSource, config: Config, mesh: Mesh) -> Iterator[Batch]:
    """Yields every face of a split once, in order, at the size the network sees."""
    return feed.batches(
        source,
        np.arange(len(source)),
        batch_size=batch_size(config, mesh),
        size=config.picture_size,
        threads=config.data.read_threads,
    )


def evaluate(
    read: Reader,
    variables: methods.Variables,
    batches: Iterable[Batch],
    *,
    mesh: Mesh,
    expressions: Sequence[str],
    sinks: Sequence[Sink] = (),
) -> Evaluation:
    """Returns the numbers of one pass over the batches; every sink sees each batch with what was read from it.

    A batch lies on the host or, to be read more than once, on the mesh already.
    """
    rows: list[dict[str, np.ndarray]] = []
    for batch, outputs in _read_ahead(read, variables, batches, mesh):
        rows.append(jax.device_get(outputs.columns))
        for sink in sinks:
            sink(batch, outputs)
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    valid = columns.pop("valid")
    columns = {name: column[valid] for name, column in columns.items()}
    return Evaluation(summarize(columns, expressions), columns)


def _read_ahead(
    read: Reader, variables: methods.Variables, batches: Iterable[Batch], mesh: Mesh
) -> Iterator[tuple[Batch, Outputs]]:
    """Yields each batch with what is read from it, when the devices have got the next one to work on meanwhile."""
    waiting = None
    for batch in batches:
        outputs = read(variables, batch if isinstance(batch.image, jax.Array) else to_mesh(batch, mesh))
        if waiting:
            yield waiting
        waiting = batch, outputs
    if waiting:
        yield waiting


def describe(run: Run, split: str, faces: Faces) -> dict[str, Any]:
    """Returns what metrics.json says about where its numbers come from."""
    config = run.config
    return {
        "split": split,
        "protocol": config.protocol,
        "method": config.method,
        "au_weight": config.au_weight,
        "codebook": config.codebook,
        "seed": config.seed,
        "attention_layer": run.model.method.aligned(config.au_layers)[-1],
        "checkpoint": run.checkpoint,
        "data": {"dir": str(faces.directory), "fingerprint": faces.fingerprint, "about": faces.about},
        "versions": versions(),
    }
