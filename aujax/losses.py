"""The training losses: per example, maskable, and free of any network library.

A loss returns one value per example over its leading axes and never averages the batch; `composite` does that
once, for all named terms, with their masks. Features are (..., height, width, channels), AU maps
(..., height, width) in any size. Everything is computed in float32, whatever the inputs are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from aujax import resize
from aujax.metrics import Mean, cosine


def au_alignment(
    features: Float[Array | np.ndarray, "*batch h w c"],
    au_map: Float[Array | np.ndarray, "*batch height width"],
    *,
    where: Bool[Array | np.ndarray, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Returns 1 - cosine of the features' channel mean with the AU map (Eq. 1-3 of the paper), 0 where masked.

    The map is first resampled to the features' (h, w) by `resize.torch_aligned`. A ValueError tells which leading
    axes differ. Value and gradient are finite for all-zero maps and features.

    >>> features, au_map = jnp.ones((2, 7, 7, 64)), jnp.ones((2, 224, 224))
    >>> au_alignment(features, au_map, where=jnp.array([True, False])).round(3)
    Array([0., 0.], dtype=float32)
    """
    if features.shape[:-3] != au_map.shape[:-2]:
        raise ValueError(
            f"features {features.shape} and au_map {au_map.shape} must share their leading axes: "
            "expected (..., h, w, channels) and (..., height, width)"
        )
    attention = jnp.asarray(features).astype(jnp.float32).mean(-1)
    target = resize.torch_aligned(jnp.asarray(au_map).astype(jnp.float32), attention.shape[-2:])
    if where is not None:  # a masked map may even be infinite, as in the paper's released code: gradients stay 0
        attention, target = (jnp.where(jnp.asarray(where)[..., None, None], m, 0.0) for m in (attention, target))
    loss = 1.0 - cosine(attention, target)
    return loss if where is None else jnp.where(where, loss, 0.0)


def cross_entropy(
    logits: Float[Array | np.ndarray, "*batch classes"],
    expression: Int[Array | np.ndarray, "*batch"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*batch"]:
    """Returns -log p(expression); with smoothing, the target puts that share evenly on all classes.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)  # log 4
    Array([1.3863], dtype=float32)
    """
    target = jax.nn.one_hot(expression, logits.shape[-1])
    return soft_cross_entropy(logits, target, label_smoothing=label_smoothing)


def soft_cross_entropy(
    logits: Float[Array | np.ndarray, "*batch classes"],
    target: Float[Array | np.ndarray, "*batch classes"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, "*batch"]:
    """Returns the cross-entropy with a distribution over the classes, such as the mixed labels of CutMix.

    >>> soft_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.0, 0.7, 0.3, 0.0]])).round(4)  # log 4
    Array([1.3863], dtype=float32)
    """
    target = optax.smooth_labels(jnp.asarray(target), label_smoothing)
    return optax.softmax_cross_entropy(jnp.asarray(logits).astype(jnp.float32), target)


class Term(NamedTuple):
    """One summand of the total loss: per-example values, its weight, and which examples count."""

    value: Float[Array, "*batch"]
    weight: float = 1.0
    where: Bool[Array | np.ndarray, "*batch"] | None = None


def over_layers(values: Sequence[Float[Array, "*batch"]], reduction: str = "mean") -> Float[Array, "*batch"]:
    """Returns the mean (the released code) or the sum (the paper's text) of one loss over several layers."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    total = sum(values[1:], values[0])
    return total / len(values) if reduction == "mean" else total


def composite(
    terms: Mapping[str, Term],
    *,
    axis_name: str | None = None,
    counts: Mapping[str, Float[Array, ""]] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """Returns sum of weight x masked mean over the terms (Eq. 3), and every term's unweighted `Mean` by name.

    A term without a counted example adds 0. With `axis_name` sums and counts run over that mapped axis too, so
    that the mean is that of the global batch. `counts`, where the examples are only a part of a batch, says by how
    many each term's sum is divided: the totals of the parts add up to that of the batch.

    >>> total, means = composite({"a": Term(jnp.array([1.0, 3.0])), "b": Term(jnp.array([4.0, 9.0]), 0.5)})
    >>> float(total), float(means["b"].compute())
    (5.25, 6.5)
    """
    means = {name: Mean.of(term.value, where=term.where, axis_name=axis_name) for name, term in terms.items()}
    whole = means if counts is None else {name: mean._replace(count=counts[name]) for name, mean in means.items()}
    total = sum((term.weight * whole[name].compute() for name, term in terms.items()), jnp.zeros(()))
    return total, means
