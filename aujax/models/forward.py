"""Forward passes that also return the named activations of a network, and gradients of a logit at them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from aujax.models import taps

Variables = Mapping[str, Any]
Images = Float[ArrayLike, "batch height width 3"]
Expression = Int[ArrayLike, " batch"] | None
Logits = Float[Array, "batch classes"]


class Activations(NamedTuple):
    """Result of a forward pass: logits, activations by tap name, and BatchNorm statistics (updated in training)."""

    logits: Logits
    activations: dict[str, Array]
    batch_stats: Variables


def apply_with_taps(
    model: nn.Module,
    variables: Variables,
    image: Images,
    *,
    train: bool = False,
    expression: Expression = None,
    key: Key[Array, ""] | None = None,
) -> Activations:
    """Returns logits, all tapped activations and BatchNorm statistics of one forward pass.

    `expression` (batch,) are the labels, if known: ACoL erases the features of the labelled class. `key` is the random
    key for networks that drop activations in training (ADL). Not jitted: for use inside a jitted function.
    """
    image, expression = check_batch(image, expression)
    # `tap` sows into "intermediates"; BatchNorm writes its running statistics in training only.
    mutable = ["intermediates", "batch_stats"] if train else ["intermediates"]
    rngs = {} if key is None else {"dropout": key}
    logits, updates = model.apply(variables, image, train=train, expression=expression, mutable=mutable, rngs=rngs)
    # Unchanged in evaluation; empty for a network without BatchNorm.
    batch_stats = {**variables, **updates}.get("batch_stats", {})
    return Activations(logits, taps.read(updates["intermediates"]), batch_stats)


def gradients_at_taps(
    model: nn.Module,
    variables: Variables,
    image: Images,
    expression: Expression = None,
    *,
    at: str | Sequence[str],
) -> tuple[Activations, dict[str, Array]]:
    """Returns the result of `apply_with_taps`, and the gradient of each image's logit at the taps `at`, by tap name.

    The logit is that of `expression` (batch,), by default of the predicted expression; a number that is not a class
    has gradients of NaN. Only the layers after the earliest tap are differentiated. Compiled once per model, taps and
    shapes. The gradients suit `cams.grad_cam` and its variants:
    `cams.grad_cam(outputs.activations["layer4"], gradients["layer4"])`.

    Raises:
      ValueError: if a tap does not exist, or the batch has another shape or dtype.
    """
    return _gradients_at_taps(model, variables, image, expression, (at,) if isinstance(at, str) else tuple(at))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _gradients_at_taps(
    model: nn.Module, variables: Variables, image: Array, expression: Array | None, at: tuple[str, ...]
) -> tuple[Activations, dict[str, Array]]:
    if not at:
        return apply_with_taps(model, variables, image, expression=expression), {}

    # A tap adds its perturbation to its activation, so the gradient by a perturbation of zero is the one wanted. The
    # logits of a batch can be summed: the network in evaluation mode handles images independently.
    def score(perturbations: Variables) -> tuple[Array, Activations]:
        perturbed = {**variables, "perturbations": perturbations}
        outputs = apply_with_taps(model, perturbed, image, expression=expression)
        target = target_expression(outputs.logits, expression)
        return jnp.take_along_axis(outputs.logits, target[:, None], axis=-1).sum(), outputs

    zeros = taps.select(taps.zeros(model, variables, image), at)
    gradients, outputs = jax.grad(score, has_aux=True)(zeros)
    target = target_expression(outputs.logits, expression)
    return outputs, {
        name: nan_if_not_a_class(gradient, target, outputs.logits) for name, gradient in taps.read(gradients).items()
    }


def check_batch(image: ArrayLike, expression: ArrayLike | None) -> tuple[Array, Array | None]:
    """Returns both as JAX arrays; raises a ValueError for a wrong shape or dtype."""
    image = jnp.asarray(image)
    if image.ndim != 4 or image.shape[-1] != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image must be (batch, height, width, 3) normalised floats, got {image.dtype} {image.shape}: "
            "augment.normalize takes images in [0, 1]; for a single image, pass image[None]"
        )
    if expression is None:
        return image, None
    expression = jnp.asarray(expression)
    if expression.shape != image.shape[:1] or not jnp.issubdtype(expression.dtype, jnp.integer):
        raise ValueError(
            f"expression must be {len(image)} integers, one per image, got {expression.dtype} {expression.shape}"
        )
    return image, expression


def target_expression(logits: Logits, expression: Int[Array, " batch"] | None) -> Int[Array, " batch"]:
    """Returns the class to explain for each image: `expression`, or the predicted class if that is None."""
    return logits.argmax(axis=-1) if expression is None else expression


def nan_if_not_a_class(
    x: Float[Array, "batch ..."], expression: Int[Array, " batch"], logits: Logits
) -> Float[Array, "batch ..."]:
    """Returns `x`, with NaN for images whose expression is not a class of the network."""
    is_class = (expression >= 0) & (expression < logits.shape[-1])
    return jnp.where(is_class.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan)
