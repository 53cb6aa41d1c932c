"""One optimization step: views, AU maps, composite loss, update; on any number of devices the same up to rounding.

The step of one device uses the mesh axis "data" by name and is mapped over the mesh by `jax.shard_map`. Randomness is a
function of the seed, the step and the image's position in the global batch, so neither the number of devices nor an
interruption changes it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, Key

from aujax import au_maps, augment, codebook, losses, methods, metrics
from aujax.config import Config
from aujax.data import device_cache
from aujax.data.batch import DATA_AXIS, Batch
from aujax.metrics import Mean
from aujax.models.layers import for_cpu

Means = dict[str, Mean]
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", Means]]

_REPLICATED = PartitionSpec()
_SHARDED = PartitionSpec(DATA_AXIS)


class TrainState(NamedTuple):
    """Everything that training changes, as arrays."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The argument of the model's `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(variables: methods.Variables, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
    )


class Training(NamedTuple):
    """What a training step is made of; it stays the same during a training."""

    model: methods.Classifier
    tx: optax.GradientTransformation
    config: Config
    mesh: Mesh


def make_train_step(training: Training) -> TrainStep:
    """Returns the jitted step (state, batch) -> (state, means by name); it donates the memory of the state.

    The means are those of the global batch: "loss", "accuracy" (for the face's own label, also where faces are mixed)
    and the terms of `losses.composite`.
    """
    return jax.jit(
        jax.shard_map(
            _device_step(training),
            mesh=training.mesh,
            in_specs=(_REPLICATED, _SHARDED),
            out_specs=_REPLICATED,
        ),
        donate_argnums=0,
    )


def make_cached_steps(training: Training, count: int = 1) -> Callable[..., tuple[TrainState, Means]]:
    """Returns `count` jitted steps of an epoch over device-resident faces, from the step `first` on.

    It is a function (state, means so far, faces, rows (steps, B), valid (steps, B), first) -> (state, means). `rows`
    and `valid` are the faces in the batch of each step of the epoch. The means are added to those passed in, whose
    memory is donated like that of the state.
    """
    step = _device_step(training)

    def steps(state, totals, faces, rows, valid, first):
        def body(carry, index):
            state, means = step(carry[0], device_cache.take(faces, rows[index], valid[index]))
            return (state, jax.tree.map(jnp.add, carry[1], means)), None

        if count == 1:
            return body((state, totals), first)[0]
        # The length is part of the program: after each step of a loop of unknown length a GPU waits for the host.
        return jax.lax.scan(body, (state, totals), first + jnp.arange(count))[0]

    specs = (_REPLICATED, _REPLICATED, _SHARDED, *[_REPLICATED] * 3)
    mapped = jax.shard_map(steps, mesh=training.mesh, in_specs=specs, out_specs=_REPLICATED)
    return jax.jit(mapped, donate_argnums=(0, 1))


def steps_per_call(total: int, mesh: Mesh) -> int:
    """Returns how many of the `total` steps of an epoch are one program: on a CPU 1, otherwise about 16.

    On a CPU, convolutions inside a compiled loop are many times slower. A divisor of `total` needs no second program,
    of one step, for the rest of the epoch.
    """
    if for_cpu(mesh):
        return 1
    return max((count for count in range(8, 33) if total % count == 0), default=16)


def zero_means(training: Training) -> Means:
    """Returns means over no face, to which those of steps are added."""
    names = ("loss", "accuracy", *_term_names(training.model, training.config))
    return {name: Mean(np.zeros((), np.float32), np.zeros((), np.float32)) for name in names}


def _term_names(model, config):
    """Returns the names of the terms of the loss, Eq. 3 of the paper."""
    names = ["cross_entropy"]
    names += [f"cross_entropy_{layer}" for layer in model.method.supervised]
    if config.au_weight:
        names.append("alignment")
    return names


def _device_step(training) -> TrainStep:
    """Returns the step of one device, as a function of the replicated state and of its part of the global batch.

    The batch is computed in `config.gradient_accumulation` parts, each divided by the counts of the whole batch: their
    sum is the gradient of the whole batch. Only BatchNorm normalizes each part by itself, and updates its running
    statistics once per part. Every n-th face makes a part, so that a part of the global batch has the same faces on any
    number of devices; a method's random choices for the batch is the same for all parts.
    """
    model, tx, config, mesh = training
    parts = config.gradient_accumulation
    names = _term_names(model, config)

    def loss_of_part(params, statistics, key, batch: Batch, views: augment.Views, counts):
        """Returns the part's share of the global batch's loss, with the new statistics and the means of the part."""
        variables = {"params": params, "batch_stats": statistics}
        output = methods.apply_with_taps(
            model, variables, views.image, train=True, expression=batch.expression, key=key
        )

        def cross_entropy(logits):
            value = losses.soft_cross_entropy(logits, views.target, label_smoothing=config.label_smoothing)
            return losses.Term(value, where=batch.valid)

        with jax.named_scope("loss"):
            terms = {"cross_entropy": cross_entropy(output.logits)}
            for layer in model.method.supervised:
                terms[f"cross_entropy_{layer}"] = cross_entropy(output.activations[layer])
            if config.au_weight:
                values = []
                for layer in model.method.aligned(config.au_layers):
                    values.append(losses.au_alignment(output.activations[layer], views.au_map, where=views.has_map))
                value = losses.over_layers(values, config.au_layer_reduction)
                terms["alignment"] = losses.Term(value, config.au_weight, where=views.has_map)
            total, means = losses.composite(terms, axis_name=DATA_AXIS, counts=counts)
        correct = metrics.correct(output.logits, batch.expression).astype(jnp.float32)
        means["accuracy"] = Mean.of(correct, where=batch.valid, axis_name=DATA_AXIS)
        return total, (output.batch_stats, means)

    def gradients_of_batch(state: TrainState, key, batch: Batch, views: augment.Views):
        """Returns the gradient of the global batch's loss, the new statistics, and the means over its faces."""
        masks = dict.fromkeys(names, jnp.asarray(batch.valid)) | {"alignment": views.has_map}
        counts = jax.lax.psum({name: masks[name].sum(dtype=jnp.float32) for name in names}, DATA_AXIS)
        # Marked as different on each device, so that gradients are summed over devices once and not in every part.
        params = jax.lax.pcast(state.params, DATA_AXIS, to="varying")
        statistics = state.batch_stats
        if config.batch_norm == "per_device":
            statistics = jax.lax.pcast(statistics, DATA_AXIS, to="varying")

        def add_part(carry, part):
            accumulated, statistics, totals = carry
            value_and_grad = jax.value_and_grad(loss_of_part, has_aux=True)
            (loss, (statistics, means)), gradients = value_and_grad(params, statistics, key, *part, counts)
            # Counted in faces like its terms, so that a partial batch weighs no more than its faces.
            means["loss"] = Mean(loss * counts["cross_entropy"], means["cross_entropy"].count)
            accumulated, totals = jax.tree.map(jnp.add, (accumulated, totals), (gradients, means))
            return (accumulated, statistics, totals), None

        zeros = jax.lax.pcast(jax.tree.map(jnp.zeros_like, state.params), DATA_AXIS, to="varying")
        faces = jax.tree.map(
            lambda x: jnp.moveaxis(jnp.reshape(x, (-1, parts, *x.shape[1:])), 1, 0),
            (batch, views),
        )
        carry = (zeros, statistics, zero_means(training))
        if parts > 1 and not for_cpu(mesh):
            carry, _ = jax.lax.scan(add_part, carry, faces)
        else:  # not an unrolled `scan`, whose gradients are rounded differently
            for index in range(parts):
                carry, _ = add_part(carry, jax.tree.map(lambda x, index=index: x[index], faces))
        gradients, statistics, means = carry
        if config.batch_norm == "per_device":
            statistics = jax.lax.pmean(statistics, DATA_AXIS)
        return jax.lax.psum(gradients, DATA_AXIS), statistics, means

    def step(state, batch):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step), 4)
        with jax.named_scope("views"):
            views = training_views(keys[0], keys[1], batch, config, model.head.num_classes)
            if model.method.mix:
                views = model.method.mix(keys[2], views, valid=batch.valid, axis_name=DATA_AXIS)
        with jax.named_scope("gradients"):
            gradients, statistics, means = gradients_of_batch(state, keys[3], batch, views)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, statistics, opt_state), means

    return step


def training_views(
    order_key: Key[Array, ""], key: Key[Array, ""], batch: Batch, config: Config, num_classes: int
) -> augment.Views:
    """Returns normalized random views of a device's images, with their AU maps and labels.

    A map is drawn from the landmarks of the stored image and then transformed with it.

    Args:
      order_key: for what the whole batch shares, the order of the color changes.
      key: for what differs by image.
      batch: this device's part of the global batch.
      config: of the run.
      num_classes: length of the labels.
    """
    book = codebook.load(config.codebook)
    size = batch.image.shape[1:3]
    maps, has_map = au_maps.batch_au_maps(
        batch.landmarks, batch.expression, batch.has_landmarks & batch.valid, size=size, codebook=book
    )
    order = jax.random.permutation(order_key, 4)
    # Position in the global batch, so that an image has the same key on any number of devices.
    position = jax.lax.axis_index(DATA_AXIS) * len(batch.index) + jnp.arange(len(batch.index))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)

    def view(face):
        return augment.training_view(*face, size=config.input_size, policy=config.augment)

    # One by one, an image stays in a CPU's cache, and a change that is not drawn for it is not computed. With an order
    # of each face's own, a GPU computes all changes: at a branch it would wait for the host.
    over_faces = functools.partial(jax.lax.map, view) if for_cpu() else jax.vmap(view)
    orders = jnp.broadcast_to(order, (len(keys), len(order)))
    image, maps = over_faces((keys, orders, jnp.asarray(batch.image), maps))
    image = augment.normalize(image, config.normalization)
    return augment.Views(image, maps, has_map, jax.nn.one_hot(batch.expression, num_classes))
