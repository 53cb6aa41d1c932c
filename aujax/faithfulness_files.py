"""What `eval.py --faithfulness` leaves behind: faithfulness.json and faithfulness.csv, from interventions on a run.

Per face: the drop of the predicted class's probability by each hidden action unit (`faithfulness.au_effects`), the
curves of deletion, insertion and ROAD of the reported attention, the CAM and noise, and how alike all maps stay when
stages are randomised and when the picture is mirrored or shifted (`sanity`). The CAM is that of the predicted class.
"""

import csv
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from aujax import augment, codebook, evaluation, faithfulness, methods, metrics, sanity
from aujax.data import feed
from aujax.data.batch import Batch, data_mesh, replicated, sharded, to_mesh_ahead
from aujax.data.store import Faces
from aujax.runs import Run

JSON, CSV = "faithfulness.json", "faithfulness.csv"
RANDOM = "random"  # the map of noise, among the curves
_CURVES = ("deletion", "insertion", "road")
# What is said of the use of a face's AUs, by the fields of `faithfulness.Use`: numbers, and where they mean something.
_REGIONS = {
    "in_codebook": ("in_codebook", "listed"),
    "outside": ("outside", "unlisted"),
    "control": ("control", "controlled"),
}
_TOP = {"top_in_codebook": ("member", "listed"), "chance_in_codebook": ("chance", "listed")}

Columns = dict[str, Any]


class Programs(NamedTuple):
    """The compiled passes: every pass through the network for one purpose is one program, whatever it is given."""

    pictures: Callable[[Batch], jax.Array]
    effects: Callable[[methods.Variables, jax.Array, Batch], Columns]
    look: Callable[[methods.Variables, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
    curves: Callable[[methods.Variables, jax.Array, dict[str, jax.Array], jax.Array], Columns]


def make_programs(run: Run, mesh: Mesh, *, filling: str, temperature: float = 1.0) -> Programs:
    """Returns the programs that read a run's network, at that temperature, batches divided over the mesh."""
    config, model = run.config, run.model
    book = codebook.load(config.codebook)
    whole, divided = replicated(mesh), sharded(mesh)

    def normalized(image: jax.Array) -> jax.Array:
        return augment.normalize(image, config.normalization)

    def score(variables: methods.Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, normalized(image)) / temperature  # type: ignore[operator]

    def effects(variables: methods.Variables, image: jax.Array, batch: Batch) -> Columns:
        asked, where = functools.partial(score, variables), batch.has_landmarks & batch.valid
        found = faithfulness.au_effects(asked, image, batch.landmarks, where, codebook=book, filling=filling)
        predicted = found.probability.argmax(-1)
        drop = jnp.take_along_axis(found.drop, predicted[:, None, None], axis=-1)[..., 0]
        use = faithfulness.use(found, aus=book.all_aus, codebook=book)
        return {"predicted": predicted, "drop": drop, "drawn": found.drawn, **use._asdict()}

    def look(
        variables: methods.Variables, image: jax.Array, expression: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward = methods.forward(model, variables, normalized(image), expression)
        maps = {f"attention/{layer}": value for layer, value in forward.attention.items()}
        return forward.logits.argmax(-1), maps if forward.cam is None else {**maps, "cam": forward.cam}

    def curves(
        variables: methods.Variables, image: jax.Array, maps: dict[str, jax.Array], expression: jax.Array
    ) -> Columns:
        draw = functools.partial(faithfulness.curves, functools.partial(score, variables), image, maps, expression)
        found = draw(filling=filling) | {"road": draw(kinds=("deletion",), filling="road")["deletion"]}
        return {f"{kind}:{name}": curve for kind, by_map in found.items() for name, curve in by_map.items()}

    return Programs(
        jax.jit(lambda batch: jnp.asarray(batch.image, jnp.float32) / 255.0, out_shardings=divided),
        jax.jit(effects, out_shardings=whole),
        jax.jit(look, out_shardings=divided),
        jax.jit(curves, out_shardings=whole),
    )


def make_measurement(run: Run, mesh: Mesh, *, filling: str, temperature: float = 1.0) -> Callable[[Batch], Columns]:
    """Returns batch on the mesh -> one row per face of all that is measured, still on the devices."""
    programs, size = make_programs(run, mesh, filling=filling, temperature=temperature), run.config.input_size
    layer = run.model.method.aligned(run.config.au_layers)[-1]
    variables = jax.device_put(run.variables, replicated(mesh))
    # Another draw than the one that the training may have begun with.
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    fresh = jax.device_put(methods.init(run.model, key, jnp.zeros((1, size, size, 3))), replicated(mesh))
    order = sanity.stages(run.model, size)
    randomised = {stage: sanity.randomised(variables, fresh, order[: i + 1]) for i, stage in enumerate(order)}
    alike, noise = jax.jit(_each(sanity.similarity)), jax.jit(faithfulness.random_maps)
    views = {
        name: (jax.jit(view.picture), jax.jit(_each(view.similarity)))
        for name, view in sanity.views((size, size)).items()
    }

    def measure(batch: Batch) -> Columns:
        image = programs.pictures(batch)
        columns = programs.effects(variables, image, batch)
        predicted, maps = programs.look(variables, image, columns["predicted"])
        shown = {name: maps[name] for name in (f"attention/{layer}", "cam") if name in maps}
        columns |= programs.curves(variables, image, {**shown, RANDOM: noise(batch.index)}, predicted)
        for stage, mixed in randomised.items():
            others = programs.look(mixed, image, predicted)[1]
            columns |= {f"randomisation:{stage}:{name}": value for name, value in alike(maps, others).items()}
        for name, (move, compare) in views.items():
            again, others = programs.look(variables, move(image), predicted)
            columns |= {f"stability:{name}:{which}": value for which, value in compare(maps, others).items()}
            columns[f"stability:{name}:agreement"] = again == predicted
        return columns | {"index": batch.index, "expression": batch.expression, "valid": batch.valid}

    return measure


def _each(compare: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., dict[str, jax.Array]]:
    """Returns a comparison of each map with the one of the same name."""
    return lambda first, second: {name: compare(first[name], second[name]) for name in first}


def evaluate_faithfulness(
    run: Run,
    faces: Faces,
    split: str,
    directory: pathlib.Path,
    *,
    filling: str = "blur",
    temperature: float = 1.0,
    limit: int | None = None,
    progress: Callable[[str], object] = print,
) -> None:
    """Writes faithfulness.json and faithfulness.csv into the directory, of `limit` faces of the split (None: of all).

    Which faces is drawn by a shuffle that depends on the number of faces alone. `temperature` calibrates the
    probabilities, for drops of a network that is too sure of itself do not compare with those of another. `progress`
    is told now and then how far it is.
    """
    source, mesh, config = faces.source(split), data_mesh(), run.config
    drawn = np.sort(np.random.default_rng(0).permutation(len(source))[:limit])
    batch_size = -(-min(config.data.eval_batch_size, len(drawn)) // mesh.size) * mesh.size
    batches = feed.batches(
        source, drawn, batch_size=batch_size, size=config.input_size, threads=config.data.read_threads
    )
    measure, rows, told = make_measurement(run, mesh, filling=filling, temperature=temperature), [], 0
    for batch in to_mesh_ahead(batches, mesh):
        row = measure(batch)
        # As lists, for JAX brings dictionaries into another order, and stages go from the top downwards.
        rows.append(dict(zip(row, jax.device_get(list(row.values())), strict=True)))
        done = min(len(rows) * batch_size, len(drawn))
        if 10 * done // len(drawn) > told:
            told = 10 * done // len(drawn)
            progress(f"faithfulness: {done} of {len(drawn)} faces")
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    valid = columns.pop("valid")
    columns = {name: column[valid] for name, column in columns.items()}
    book = codebook.load(config.codebook)
    about = evaluation.describe(run, split, faces)
    about |= {"num_examples": len(drawn), "filling": filling, "temperature": temperature}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / JSON).unlink(missing_ok=True)
    _write_rows(directory / CSV, columns, book)
    (directory / JSON).write_text(json.dumps(about | summarize(columns, book), indent=1) + "\n")


def summarize(columns: dict[str, np.ndarray], book: codebook.Codebook) -> dict[str, Any]:
    """Returns what faithfulness.json holds, from one row per face; a mean without any face is None.

    Means of interventions are those of each predicted expression, and then over expressions; all others are over faces.
    """
    names = [f"AU{number}" for number in book.all_aus]
    predicted, drop, drawn = columns["predicted"], columns["drop"], columns["drawn"]
    drops = {
        label: {name: _mean(drop[:, a][(predicted == k) & drawn[:, a]]) for a, name in enumerate(names)}
        for k, label in enumerate(book.expressions)
    }
    # The three are compared on the same faces.
    complete = columns["listed"] & columns["unlisted"] & columns["controlled"]
    where = dict.fromkeys(_REGIONS, complete) | dict.fromkeys(_TOP, columns["listed"])
    means = {
        name: _by_expression(columns[field], predicted, where[name], len(book.expressions))
        for name, (field, _) in (_REGIONS | _TOP).items()
    }
    curves: dict[str, Any] = {"fractions": list(faithfulness.FRACTIONS)}
    for kind in _CURVES:
        curves[kind] = {
            name.partition(":")[2]: {"curve": curve.mean(0).tolist(), "area": float(areas(curve).mean())}
            for name, curve in columns.items()
            if name.startswith(f"{kind}:")
        }
    return {
        "aus": list(book.all_aus),
        "interventions": {"drop": drops, **means},
        "curves": curves,
        "randomisation": _nested(columns, "randomisation"),
        "stability": _nested(columns, "stability"),
    }


def areas(curve: np.ndarray) -> np.ndarray:
    """Returns the area under the curve of each face: the mean probability over all fractions."""
    return np.trapezoid(curve, faithfulness.FRACTIONS, axis=-1)


def _nested(columns: dict[str, np.ndarray], kind: str) -> dict[str, dict[str, float]]:
    """Returns the means of the columns "kind:outer:inner" as {outer: {inner: mean}}."""
    found: dict[str, dict[str, float]] = {}
    for column, values in columns.items():
        prefix, _, rest = column.partition(":")
        outer, _, inner = rest.partition(":")
        if prefix == kind:
            found.setdefault(outer, {})[inner] = float(values.mean())
    return found


def _by_expression(values: np.ndarray, predicted: np.ndarray, where: np.ndarray, num_classes: int) -> float | None:
    means, counts = metrics.per_class_mean(values[where].astype(float), predicted[where], num_classes)
    return _mean(means[counts > 0])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _write_rows(path: pathlib.Path, columns: dict[str, np.ndarray], book: codebook.Codebook) -> None:
    curves = {name: areas(columns[name]) for kind in _CURVES for name in columns if name.startswith(f"{kind}:")}
    alike = {name: values for name, values in columns.items() if name.startswith(("randomisation:", "stability:"))}
    use, names = _REGIONS | _TOP, [f"AU{number}" for number in book.all_aus]
    header = ["index", "expression", "predicted", *use, *names, *curves, *alike]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row, index in enumerate(columns["index"]):
            labels = [book.expressions[columns[name][row]] for name in ("expression", "predicted")]
            means = [_number(columns[field][row], columns[known][row]) for field, known in use.values()]
            drops = map(_number, columns["drop"][row], columns["drawn"][row])
            others = (_number(values[row], True) for values in (*curves.values(), *alike.values()))
            writer.writerow([index, *labels, *means, *drops, *others])


def _number(value: Any, known: Any) -> str:
    return f"{float(value):.6g}" if known else ""
