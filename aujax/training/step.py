"""One optimisation step: views, AU maps, composite loss, update; the same numbers on any number of devices.

The step of one device is written with the mesh axis "data" in view and mapped over the mesh by `jax.shard_map`.
Randomness is a function of the seed, the step and the picture's place in the global batch, so neither the number
of devices nor an interruption changes it.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from aujax import au_maps, augment, codebook, losses, methods, metrics
from aujax.config import Config
from aujax.data import device_cache
from aujax.data.batch import DATA_AXIS, Batch
from aujax.metrics import Mean

Means = dict[str, Mean]
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", Means]]
# (state, means so far, faces, rows (steps, B), valid (steps, B), first, last) -> (state, means)
ResidentSteps = Callable[..., tuple["TrainState", Means]]
_OverParts = Callable[[Callable[..., Any], Any, Any], tuple[Any, Means]]

_EVERYWHERE, _DIVIDED = PartitionSpec(), PartitionSpec(DATA_AXIS)


class TrainState(NamedTuple):
    """Everything that training changes, as arrays."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(variables: methods.Variables, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
    )


def make_train_step(
    model: methods.Classifier, tx: optax.GradientTransformation, config: Config, mesh: Mesh
) -> TrainStep:
    """Returns the jitted step (state, batch) -> (state, means by name); the state passed in is given up.

    The means are those of the global batch: "loss", "accuracy" (for the face's own label, also where faces are mixed)
    and the terms of `losses.composite`.
    """
    step = _device_step(model, tx, config, mesh)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(_EVERYWHERE, _DIVIDED), out_specs=(_EVERYWHERE, _EVERYWHERE))
    return jax.jit(mapped, donate_argnums=0)


def make_resident_steps(
    model: methods.Classifier, tx: optax.GradientTransformation, config: Config, mesh: Mesh
) -> ResidentSteps:
    """Returns the jitted steps `first` to `last` (exclusive) of an epoch over faces that live on the devices.

    `rows` and `valid` say for each step of the epoch which faces make its batch; the means are added to those passed
    in, which are given up like the state. Where `loops_are_fast` says no, it is one step: the caller asks for no more.
    """
    step, looped = _device_step(model, tx, config, mesh), loops_are_fast(mesh)

    def steps(
        state: TrainState,
        totals: Means,
        faces: Batch,
        rows: Int[Array, "steps batch"],
        valid: Bool[Array, "steps batch"],
        first: Int[Array, ""],
        last: Int[Array, ""],
    ) -> tuple[TrainState, Means]:
        def one(index: Int[Array, ""], carry: tuple[TrainState, Means]) -> tuple[TrainState, Means]:
            state, means = step(carry[0], device_cache.take(faces, rows[index], valid[index]))
            return state, jax.tree.map(jnp.add, carry[1], means)

        # Not `scan`, whose length is part of the program: here one program makes any number of steps.
        return jax.lax.fori_loop(first, last, one, (state, totals)) if looped else one(first, (state, totals))

    specs = (_EVERYWHERE, _EVERYWHERE, _DIVIDED, *[_EVERYWHERE] * 4)
    mapped = jax.shard_map(steps, mesh=mesh, in_specs=specs, out_specs=(_EVERYWHERE, _EVERYWHERE))
    return jax.jit(mapped, donate_argnums=(0, 1))


def loops_are_fast(mesh: Mesh) -> bool:
    """Returns whether a step may be in a compiled loop: on a CPU, convolutions there are many times slower."""
    return mesh.devices.flat[0].platform != "cpu"


def no_means(model: methods.Classifier, config: Config) -> Means:
    """Returns the means of no face at all, to which those of steps are added."""
    names = ("loss", "accuracy", *_terms(model.method, config))
    return {name: Mean(np.zeros((), np.float32), np.zeros((), np.float32)) for name in names}


def _device_step(model: methods.Classifier, tx: optax.GradientTransformation, config: Config, mesh: Mesh) -> TrainStep:
    over_parts = _scanned if loops_are_fast(mesh) and config.gradient_accumulation > 1 else _one_by_one

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Means]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step), 4)
        with jax.named_scope("views"):
            views = training_views(keys[0], keys[1], batch, config, model.head.num_classes)
            views = model.method.mix(keys[2], views, valid=batch.valid, axis_name=DATA_AXIS)
        with jax.named_scope("gradients"):
            gradients, statistics, means = _gradients(state, keys[3], batch, views, model, config, over_parts)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, statistics, opt_state), means

    return step


def training_views(
    order_key: Key[Array, ""], key: Key[Array, ""], batch: Batch, config: Config, num_classes: int
) -> augment.Views:
    """Returns normalised random views of a device's pictures, with their AU maps and labels.

    The map is drawn from the landmarks of the stored picture and then moves with it. `order_key` draws what the whole
    batch shares, `key` what each picture has for itself.
    """
    book = codebook.load(config.codebook)
    size = batch.image.shape[1:3]
    maps, has_map = au_maps.batch_au_maps(
        batch.landmarks, batch.expression, batch.has_landmarks & batch.valid, size=size, codebook=book
    )
    image = jnp.asarray(batch.image, jnp.float32) / 255.0
    order = jax.random.permutation(order_key, 4)
    place = jax.lax.axis_index(DATA_AXIS) * len(batch.index) + jnp.arange(len(batch.index))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, place)

    def view(key: Key[Array, ""], image: Array, au_map: Array) -> tuple[Array, Array]:
        return augment.training_view(key, order, image, au_map, size=config.input_size, policy=config.augment)

    image, maps = jax.vmap(view)(keys, image, maps)
    image = augment.normalize(image, config.normalization)
    return augment.Views(image, maps, has_map, jax.nn.one_hot(batch.expression, num_classes))


def _gradients(
    state: TrainState,
    key: Key[Array, ""],
    batch: Batch,
    views: augment.Views,
    model: methods.Classifier,
    config: Config,
    over_parts: _OverParts,
) -> tuple[Any, Any, Means]:
    """Returns the gradient of the global batch's loss, the new statistics, and the means of its faces.

    The batch passes the network in `config.gradient_accumulation` parts, divided by the counts of the whole: what
    accumulates is the gradient of the whole batch. Only BatchNorm sees each part alone, and moves its running
    statistics once for each. Every n-th face makes a part, so that parts of the global batch have the same faces on
    any number of devices; what a method draws for the batch (`key`) is the same for all parts.
    """
    terms = _terms(model.method, config)
    counts = jax.lax.psum({x: term.where(batch, views).sum(dtype=jnp.float32) for x, term in terms.items()}, DATA_AXIS)
    # What differs per device until the end: gradients, which are then added up once and not in every part.
    params = jax.lax.pcast(state.params, DATA_AXIS, to="varying")
    statistics = state.batch_stats
    if config.batch_norm == "per_device":
        statistics = jax.lax.pcast(statistics, DATA_AXIS, to="varying")

    def part(carry: tuple[Any, Any], faces: tuple[Batch, augment.Views]) -> tuple[tuple[Any, Any], Means]:
        accumulated, statistics = carry
        value_and_grad = jax.value_and_grad(_loss, has_aux=True)
        (loss, (statistics, means)), gradients = value_and_grad(params, statistics, key, *faces, counts, model, config)
        # Counted in faces like its terms, so that a partial batch weighs no more than its faces.
        means["loss"] = Mean(loss * counts["cross_entropy"], means["cross_entropy"].count)
        return (jax.tree.map(jnp.add, accumulated, gradients), statistics), means

    nothing = jax.lax.pcast(jax.tree.map(jnp.zeros_like, state.params), DATA_AXIS, to="varying")
    faces = jax.tree.map(lambda x: _parts(x, config.gradient_accumulation), (batch, views))
    (gradients, statistics), means = over_parts(part, (nothing, statistics), faces)
    if config.batch_norm == "per_device":
        statistics = jax.lax.pmean(statistics, DATA_AXIS)
    return jax.lax.psum(gradients, DATA_AXIS), statistics, means


def _scanned(part: Callable[..., Any], carry: Any, faces: Any) -> tuple[Any, Means]:
    """Returns the last carry and the sum of the parts' means."""
    carry, means = jax.lax.scan(part, carry, faces)
    return carry, jax.tree.map(lambda x: x.sum(axis=0), means)


def _one_by_one(part: Callable[..., Any], carry: Any, faces: Any) -> tuple[Any, Means]:
    """Returns what `_scanned` does, without a loop in the program."""
    totals = []
    for index in range(len(faces[0].index)):
        carry, means = part(carry, jax.tree.map(operator.itemgetter(index), faces))
        totals.append(means)
    return carry, jax.tree.map(lambda *x: sum(x[1:], x[0]), *totals)


def _parts(x: Array | np.ndarray, count: int) -> Array:
    return jnp.moveaxis(jnp.reshape(x, (-1, count, *x.shape[1:])), 1, 0)


class _Term(NamedTuple):
    """What a term of the loss is made of: per-face values of a reading, which faces count, and its weight."""

    value: Callable[[methods.Activations, augment.Views], Float[Array, " batch"]]
    where: Callable[[Batch, augment.Views], Bool[Array, " batch"]]
    weight: float = 1.0


def _terms(row: methods.Method, config: Config) -> dict[str, _Term]:
    """Returns the terms of Eq. 3 of the paper, by name."""

    def classification(logits: Callable[[methods.Activations], Array]) -> _Term:
        def value(reading: methods.Activations, views: augment.Views) -> Float[Array, " batch"]:
            return losses.soft_cross_entropy(logits(reading), views.target, label_smoothing=config.label_smoothing)

        return _Term(value, lambda batch, _: jnp.asarray(batch.valid))

    def alignment(reading: methods.Activations, views: augment.Views) -> Float[Array, " batch"]:
        taps = [reading.activations[name] for name in row.aligned(config.au_layers)]
        values = [losses.au_alignment(features, views.au_map, where=views.has_map) for features in taps]
        return losses.over_layers(values, config.au_layer_reduction)

    terms = {"cross_entropy": classification(lambda reading: reading.logits)}
    for name in row.supervised:
        terms[f"cross_entropy_{name}"] = classification(lambda reading, name=name: reading.activations[name])
    if config.au_weight:
        terms["alignment"] = _Term(alignment, lambda _, views: views.has_map, config.au_weight)
    return terms


def _loss(
    params: Any,
    batch_stats: Any,
    key: Key[Array, ""],
    batch: Batch,
    views: augment.Views,
    counts: dict[str, Float[Array, ""]],
    model: methods.Classifier,
    config: Config,
) -> tuple[Float[Array, ""], tuple[Any, Means]]:
    """Returns this part's share of the global batch's loss, with the new statistics and the means of the part."""
    variables = {"params": params, "batch_stats": batch_stats}
    reading = methods.apply_with_taps(model, variables, views.image, train=True, expression=batch.expression, key=key)
    with jax.named_scope("loss"):
        terms = {
            name: losses.Term(term.value(reading, views), term.weight, where=term.where(batch, views))
            for name, term in _terms(model.method, config).items()
        }
        total, means = losses.composite(terms, axis_name=DATA_AXIS, counts=counts)
    right = metrics.correct(reading.logits, batch.expression).astype(jnp.float32)
    means["accuracy"] = Mean.of(right, where=batch.valid, axis_name=DATA_AXIS)
    return total, (reading.batch_stats, means)
