"""One optimisation step: views, AU maps, composite loss, update; the same numbers on any number of devices.

The step of one device is written with the mesh axis "data" in view and mapped over the mesh by `jax.shard_map`.
Randomness is a function of the seed, the step and the picture's place in the global batch, so neither the number
of devices nor an interruption changes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from aujax import au_maps, augment, codebook, losses, methods, metrics
from aujax.config import Config, OptimizerConfig
from aujax.data.records import DATA_AXIS, Batch
from aujax.metrics import Mean

LEAST_LEARNING_RATE = 1e-7
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", dict[str, Mean]]]


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


def learning_rate(options: OptimizerConfig, *, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the rate as a function of the step: linear warm-up, then constant, in steps, or half a cosine."""
    warmup = round(options.warmup_epochs * steps_per_epoch)
    rate = options.learning_rate
    after_warmup = {
        "constant": optax.constant_schedule(rate),
        "step": optax.exponential_decay(
            rate,
            options.step_epochs * steps_per_epoch,
            options.step_factor,
            staircase=True,
            end_value=LEAST_LEARNING_RATE,
        ),
        "cosine": optax.cosine_decay_schedule(rate, max(1, epochs * steps_per_epoch - warmup)),
    }[options.schedule]
    if not warmup:
        return after_warmup
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after_warmup], [warmup])


def make_optimizer(options: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns SGD as torch computes it: decay joins the gradient, then Nesterov momentum, then the rate."""
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.momentum > 0),
    )


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
    per_device_statistics = config.batch_norm == "per_device"

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step), 4)
        views = training_views(keys[0], keys[1], batch, config, model.head.num_classes)
        views = model.method.mix(keys[2], views, valid=batch.valid, axis_name=DATA_AXIS)
        value_and_grad = jax.value_and_grad(_loss, has_aux=True)
        (loss, (statistics, means)), gradients = value_and_grad(
            state.params, state.batch_stats, keys[3], model, config, batch, views
        )
        if per_device_statistics:
            statistics = jax.lax.pmean(statistics, DATA_AXIS)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        # Counted in faces like its terms, so that a partial batch weighs no more than its faces.
        faces = means["cross_entropy"].count
        means["loss"] = Mean(loss * faces, faces)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), statistics, opt_state), means

    everywhere, divided = PartitionSpec(), PartitionSpec(DATA_AXIS)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(everywhere, divided), out_specs=(everywhere, everywhere))
    return jax.jit(mapped, donate_argnums=0)


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
        return augment.training_view(key, order, image, au_map, size=config.picture_size, policy=config.augment)

    image, maps = jax.vmap(view)(keys, image, maps)
    image = augment.normalize(image, config.normalization)
    return augment.Views(image, maps, has_map, jax.nn.one_hot(batch.expression, num_classes))


def _loss(
    params: Any,
    batch_stats: Any,
    key: Key[Array, ""],
    model: methods.Classifier,
    config: Config,
    batch: Batch,
    views: augment.Views,
) -> tuple[Float[Array, ""], tuple[Any, dict[str, Mean]]]:
    """Returns Eq. 3 of the paper over the global batch, with the new statistics and the terms' means."""
    row, variables = model.method, {"params": params, "batch_stats": batch_stats}
    reading = methods.read(model, variables, views.image, train=True, expression=batch.expression, key=key)

    def classification(logits: Array) -> losses.Term:
        value = losses.soft_cross_entropy(logits, views.target, label_smoothing=config.label_smoothing)
        return losses.Term(value, where=batch.valid)

    terms = {"cross_entropy": classification(reading.logits)}
    terms |= {f"cross_entropy_{name}": classification(reading.activations[name]) for name in row.supervised}
    if config.au_weight:
        layers = row.aligned(config.au_layers)
        values = [losses.au_alignment(reading.activations[x], views.au_map, where=views.has_map) for x in layers]
        value = losses.over_layers(values, config.au_layer_reduction)
        terms["alignment"] = losses.Term(value, config.au_weight, where=views.has_map)
    total, means = losses.composite(terms, axis_name=DATA_AXIS)
    right = metrics.correct(reading.logits, batch.expression).astype(jnp.float32)
    means["accuracy"] = Mean.of(right, where=batch.valid, axis_name=DATA_AXIS)
    return total, (reading.batch_stats, means)
