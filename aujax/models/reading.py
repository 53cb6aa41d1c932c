"""One pass through a network: logits, every named activation, and gradients at those that are wanted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from aujax.models import taps

Variables = Mapping[str, Any]


class Reading(NamedTuple):
    """Logits, activations by tap name, and BatchNorm statistics (updated when training)."""

    logits: Float[Array, "batch classes"]
    activations: dict[str, Array]
    batch_stats: Variables


def read(
    model: nn.Module,
    variables: Variables,
    image: Float[ArrayLike, "batch height width 3"],
    *,
    train: bool = False,
    expression: Int[ArrayLike, " batch"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Reading:
    """Returns logits, every tapped activation and the statistics: one pass, shared by training and evaluation.

    `expression` is what the faces show, where known: ACoL erases by it. `key` is needed for training what drops.
    """
    image, expression = jnp.asarray(image), None if expression is None else jnp.asarray(expression)
    mutable = ["intermediates", "batch_stats"] if train else ["intermediates"]
    streams = {} if key is None else {"dropout": key}
    logits, updates = model.apply(variables, image, train=train, expression=expression, mutable=mutable, rngs=streams)
    statistics = {**variables, **updates}.get("batch_stats", {})
    return Reading(logits, taps.read(updates["intermediates"]), statistics)


def read_gradients(
    model: nn.Module,
    variables: Variables,
    image: Float[ArrayLike, "batch height width 3"],
    expression: Int[ArrayLike, " batch"] | None = None,
    *,
    at: tuple[str, ...],
) -> tuple[Reading, dict[str, Array]]:
    """Returns what `read` does, and the gradient of each picture's logit of `expression` at the taps `at`.

    `expression` of None means the predicted one. Only what lies behind the earliest of the taps is differentiated.
    Feed it to `cams.grad_cam` and its kin: `cams.grad_cam(reading.activations["layer4"], gradients["layer4"])`.
    """
    image, expression = jnp.asarray(image), None if expression is None else jnp.asarray(expression)
    if not at:
        return read(model, variables, image, expression=expression), {}

    def score(perturbations: Variables) -> tuple[Array, Reading]:
        reading = read(model, {**variables, "perturbations": perturbations}, image, expression=expression)
        wanted = reading.logits.argmax(axis=-1) if expression is None else expression
        return jnp.take_along_axis(reading.logits, wanted[:, None], axis=-1).sum(), reading

    zeros = taps.select(taps.zeros(model, variables, image), at)
    gradients, reading = jax.grad(score, has_aux=True)(zeros)
    return reading, taps.read(gradients)
