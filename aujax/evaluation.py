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
from jaxtyping import Array, Bool, Float

from aujax import au_maps, augment, cams, codebook, map_scores, methods, metrics, resize
from aujax.config import Config
from aujax.data import feed
from aujax.data.batch import Batch, replicated, sharded, to_mesh
from aujax.data.store import Faces, FaceSource
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


Drawn = tuple[Array, Array]  # maps (B, h, w) and which faces have one (B,)
Reader = Callable[[methods.Variables, Batch], Outputs]
Sink = Callable[[Batch, Outputs], None]


class Evaluation(NamedTuple):
    """The summary of metrics.json, and one row per face."""

    summary: dict[str, Any]
    columns: dict[str, np.ndarray]


def make_forward(model: methods.Classifier, config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted (variables, batch on the mesh) -> the pass through the network, AU maps, and which there are.

    `make_reader` compares them in a program of its own: within one, XLA on a CPU draws a map anew for every row that
    is read of it.
    """
    book = codebook.load(config.codebook)

    def forward(variables: methods.Variables, batch: Batch) -> tuple[methods.Forward, Array, Array]:
        return _forward(model, config, variables, batch), *_au_maps(batch, book, batch.expression)

    return jax.jit(forward, out_shardings=sharded(mesh))


def make_reader(forward: Callable[..., tuple[methods.Forward, Array, Array]], mesh: Mesh) -> Reader:
    """Returns what a validation reads of a batch: `compare`, after what `make_forward` gave, compiled or yet to be."""
    comparing = jax.jit(compare, out_shardings=replicated(mesh))

    def read(variables: methods.Variables, batch: Batch) -> Outputs:
        shown, au_map, has_map = forward(variables, batch)
        return Outputs(comparing(batch, shown, au_map, has_map), _maps(shown), au_map, {})

    return read


def compare(
    batch: Batch, forward: methods.Forward, au_map: Float[Array, "batch h w"], has_map: Bool[Array, " batch"]
) -> dict[str, Array]:
    """Returns columns of a pass through the network: its maps beside the AU maps, its logits beside the labels."""
    maps = _maps(forward)
    cosines = {f"cosine/{name}": metrics.map_cosine(value, au_map) for name, value in maps.items() if name != "cam"}
    if forward.cam is not None:
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
    return columns | cosines | informative


def make_thorough_reader(model: methods.Classifier, config: Config, mesh: Mesh) -> Reader:
    """Returns a reader that also gives the cosines of trivial maps, `map_scores` and the class sums.

    The scores are those of maps and AU maps of the labelled class ("label:<map>:<score>") and of the predicted one
    ("predicted:<map>:<score>", where "has_predicted_map").
    """
    book = codebook.load(config.codebook)
    whole, divided = replicated(mesh), sharded(mesh)

    def both(variables: methods.Variables, batch: Batch) -> tuple[methods.Forward, Array | None, dict[str, Drawn]]:
        forward = _forward(model, config, variables, batch)
        predicted = forward.logits.argmax(-1)
        # The compiler sees that this is the same pass through the network, but for what an expression decides.
        of_predicted = _forward(model, config, variables, batch._replace(expression=predicted))
        drawn = {
            "label": _au_maps(batch, book, batch.expression),
            "predicted": _au_maps(batch, book, predicted),
            "all": _generic_maps(batch, book),
        }
        return forward, of_predicted.cam, drawn

    # Two programs, as of `make_forward`. Besides, where one both draws AU maps and sums them over the batch, the
    # compiler makes the batch their innermost axis, and drawing them takes ten times as long.
    def summarize(
        batch: Batch, forward: methods.Forward, predicted_cam: Array | None, drawn: dict[str, Drawn]
    ) -> tuple[dict, dict]:
        (au_map, has_map), (predicted_map, has_predicted_map) = drawn["label"], drawn["predicted"]
        maps, trivial = _maps(forward), _trivial_maps(drawn["all"][0])
        shown = {name: cams.normalize(value) for name, value in maps.items()} | {"au_map": au_map}
        cells = {name: map_scores.shrunk(map_, _CELLS) for name, map_ in trivial.items()}
        columns = compare(batch, forward, au_map, has_map)
        columns |= {f"cosine/{name}": metrics.cosine(map_, au_map) for name, map_ in trivial.items()}
        columns |= _scores("label", maps | cells, au_map)
        of_predicted = maps | cells | ({} if predicted_cam is None else {"cam": predicted_cam})
        columns |= _scores("predicted", of_predicted, predicted_map) | {"has_predicted_map": has_predicted_map}
        return columns, _class_sums(shown, batch, len(book.expressions))

    forward_both, summarize_all = jax.jit(both, out_shardings=divided), jax.jit(summarize, out_shardings=whole)

    def read(variables: methods.Variables, batch: Batch) -> Outputs:
        shown, predicted_cam, drawn = forward_both(variables, batch)
        columns, class_sums = summarize_all(batch, shown, predicted_cam, drawn)
        return Outputs(columns, _maps(shown), drawn["label"][0], class_sums)

    return read


def _forward(model: methods.Classifier, config: Config, variables: methods.Variables, batch: Batch) -> methods.Forward:
    image = augment.normalize(jnp.asarray(batch.image, jnp.float32) / 255.0, config.normalization)
    return methods.forward(model, variables, image, batch.expression)


def _maps(forward: methods.Forward) -> dict[str, Array]:
    maps = {f"attention/{layer}": attention for layer, attention in forward.attention.items()}
    return maps if forward.cam is None else maps | {"cam": forward.cam}


def _scores(of: str, maps: dict[str, Array], au_map: Float[Array, "batch height width"]) -> dict[str, Array]:
    return {
        f"{of}:{name}:{score}": value
        for name, map_ in maps.items()
        for score, value in map_scores.scores(map_, au_map).items()
    }


def _trivial_maps(units: Float[Array, "batch h w"]) -> dict[str, Float[Array, "batch h w"]]:
    """Returns what any map must beat: a flat one, a blob in the middle, and `units`, all action units of the face."""
    y, x = (np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in units.shape[1:])
    blob = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.5**2))
    # No constants: for each batch the compiler would compute with them while it compiles, for seconds.
    same = jax.lax.optimization_barrier({"uniform": np.ones_like(blob), "centred_gaussian": blob})
    return {name: jnp.broadcast_to(value, units.shape) for name, value in same.items()} | {"all_au_map": units}


def class_mean_cosines(
    batches: Iterable[Batch], means: Float[np.ndarray, "classes height width"], book: codebook.Codebook
) -> Float[np.ndarray, " faces"]:
    """Returns the cosine of each face's AU map with the mean AU map of its class; the pixels do not matter."""

    @jax.jit
    def cosines(batch: Batch) -> Array:
        au_map, _ = _au_maps(batch, book, batch.expression)
        return metrics.cosine(jnp.asarray(means)[batch.expression], au_map)

    return np.concatenate([np.asarray(cosines(batch))[np.asarray(batch.valid)] for batch in batches])


def _class_sums(maps: dict[str, Array], batch: Batch, num_classes: int) -> dict[str, Float[Array, "classes h w"]]:
    one_hot = jax.nn.one_hot(batch.expression, num_classes) * batch.valid[:, None]
    exact = jax.lax.Precision.HIGHEST
    return {name: jnp.einsum("bk,bhw->khw", one_hot, value, precision=exact) for name, value in maps.items()}


def _au_maps(batch: Batch, book: codebook.Codebook, expression: Array | np.ndarray) -> Drawn:
    known = batch.has_landmarks & batch.valid
    return au_maps.batch_au_maps(batch.landmarks, expression, known, size=batch.image.shape[1:3], codebook=book)


def _generic_maps(batch: Batch, book: codebook.Codebook) -> Drawn:
    known = batch.has_landmarks & batch.valid
    return au_maps.batch_generic_maps(batch.landmarks, known, size=batch.image.shape[1:3], codebook=book)


def batch_size(config: Config, mesh: Mesh) -> int:
    """Returns how many faces are read at a time: as configured, or what the devices can divide above it."""
    return -(-config.data.eval_batch_size // mesh.size) * mesh.size


def whole_split(source: FaceSource, config: Config, mesh: Mesh) -> Iterator[Batch]:
    """Yields every face of a split once, in order, at the size the network sees."""
    return feed.batches(
        source,
        np.arange(len(source)),
        batch_size=batch_size(config, mesh),
        size=config.input_size,
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
        "protocol": {"validation": "heldout", "test": "paper"}[config.model_selection],
        "method": config.method,
        "au_weight": config.au_weight,
        "codebook": config.codebook,
        "seed": config.seed,
        "attention_layer": run.model.method.aligned(config.au_layers)[-1],
        "checkpoint": run.checkpoint,
        "data": {"dir": str(faces.directory), "fingerprint": faces.fingerprint, "about": faces.about},
        "versions": versions(),
    }
