"""One pass through a network: logits, every named activation, and gradients at those that are wanted."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

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
    image, expression = checked(image, expression)
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
    at: str | Sequence[str],
) -> tuple[Reading, dict[str, Array]]:
    """Returns what `read` does, and the gradient of each picture's logit of `expression` at the taps `at`.

    `expression` of None means the predicted one; one that does not exist has gradients of NaN. Only what lies behind
    the earliest of the taps is differentiated. Compiled once per model, taps and shape. Feed it to `cams.grad_cam` and
    its kin: `cams.grad_cam(reading.activations["layer4"], gradients["layer4"])`.
    """
    return _read_gradients(model, variables, image, expression, (at,) if isinstance(at, str) else tuple(at))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _read_gradients(
    model: nn.Module, variables: Variables, image: Array, expression: Array | None, at: tuple[str, ...]
) -> tuple[Reading, dict[str, Array]]:
    if not at:
        return read(model, variables, image, expression=expression), {}

    def score(perturbations: Variables) -> tuple[Array, Reading]:
        reading = read(model, {**variables, "perturbations": perturbations}, image, expression=expression)
        wanted = wanted_expression(reading.logits, expression)
        return jnp.take_along_axis(reading.logits, wanted[:, None], axis=-1).sum(), reading

    zeros = taps.select(taps.zeros(model, variables, image), at)
    gradients, reading = jax.grad(score, has_aux=True)(zeros)
    real = exists(wanted_expression(reading.logits, expression), reading.logits)
    return reading, {name: nan_unless(real, gradient) for name, gradient in taps.read(gradients).items()}


def checked(image: ArrayLike, expression: ArrayLike | None) -> tuple[Array, Array | None]:
    """Returns both as arrays; a ValueError tells what a batch must look like."""
    image = jnp.asarray(image)
    if image.ndim != 4 or image.shape[-1] != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image must be (batch, height, width, 3) normalised floats, got {image.dtype} {image.shape}: "
            "augment.normalize takes pictures in [0, 1]; for one picture, image[None]"
        )
    if expression is None:
        return image, None
    expression = jnp.asarray(expression)
    if expression.shape != image.shape[:1] or not jnp.issubdtype(expression.dtype, jnp.integer):
        raise ValueError(
            f"expression must be {len(image)} whole numbers, one for each picture, got {expression.dtype} "
            f"{expression.shape}"
        )
    return image, expression


def wanted_expression(
    logits: Float[Array, "batch classes"], expression: Int[Array, " batch"] | None
) -> Int[Array, " batch"]:
    """Returns the expression that was asked for: the predicted one if none was."""
    return logits.argmax(axis=-1) if expression is None else expression


def exists(expression: Int[Array, " batch"], logits: Float[Array, "batch classes"]) -> Bool[Array, " batch"]:
    """Returns which expressions the network has a logit for."""
    return (expression >= 0) & (expression < logits.shape[-1])


def nan_unless(real: Bool[Array, " batch"], x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Returns `x` where `real`, and NaN elsewhere."""
    return jnp.where(real.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan)
