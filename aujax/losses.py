"""Training losses: per example, with masks, and independent of any network library.

A loss returns one value per example, of the shape of its leading axes, and never averages over the batch; `composite`
does that once, for all named terms, with their masks. Features are (..., height, width, channels), AU maps
(..., height, width) of any size. All losses are computed in float32, regardless of the input dtype.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from aujax import resize
from aujax.metrics import AUMaps, Expression, Mean, PerClass, PerExample, Where, cosine


def au_alignment(
    features: Float[Array | np.ndarray, "*batch h w c"],
    au_map: AUMaps,
    *,
    where: Where = None,
) -> PerExample:
    """Returns 1 - cosine of the features' channel mean with the AU map (Eq. 1-3 of the paper), 0 where masked.

    The map is first resampled to the features' (h, w) by `resize.torch_aligned`. Leading axes that differ are a
    ValueError. Value and gradient are finite for all-zero maps and features.

    >>> features, au_map = jnp.ones((2, 7, 7, 64)), jnp.ones((2, 224, 224))
    >>> au_alignment(features, au_map, where=jnp.array([True, False])).round(3)
    Array([0., 0.], dtype=float32)
    """
    if features.shape[:-3] != au_map.shape[:-2]:
        raise ValueError(
            f"features {features.shape} and au_map {au_map.shape} must share their leading axes: "
            "expected (..., h, w, channels) and (..., height, width)"
        )
    if where is not None and where.shape != au_map.shape[:-2]:
        raise ValueError(f"where must have one value per AU map, shape {au_map.shape[:-2]}, got {where.shape}")
    attention = jnp.asarray(features, jnp.float32).mean(-1)
    target = resize.torch_aligned(jnp.asarray(au_map, jnp.float32), attention.shape[-2:])
    if where is not None:
        # A masked map may be infinite, as in the released code. Replaced before the cosine, its gradient is 0, not NaN.
        attention, target = (jnp.where(jnp.asarray(where)[..., None, None], m, 0.0) for m in (attention, target))
    loss = 1.0 - cosine(attention, target)
    return loss if where is None else jnp.where(where, loss, 0.0)


def cross_entropy(logits: PerClass, expression: Expression, *, label_smoothing: float = 0.0) -> PerExample:
    """Returns -log p(expression); with label smoothing, that fraction of the target is spread evenly over all classes.

    NaN for an index that is no class of the logits.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)  # log 4
    Array([1.3863], dtype=float32)
    """
    target = jax.nn.one_hot(expression, logits.shape[-1])
    value = soft_cross_entropy(logits, target, label_smoothing=label_smoothing)
    # The row of such an index has no 1: the loss would be 0, and a label of another class list would go unnoticed.
    return jnp.where(target.any(-1), value, jnp.nan)


def soft_cross_entropy(logits: PerClass, target: PerClass, *, label_smoothing: float = 0.0) -> PerExample:
    """Returns the cross-entropy with a target distribution over the classes, such as the mixed labels of CutMix.

    >>> soft_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.0, 0.7, 0.3, 0.0]])).round(4)  # log 4
    Array([1.3863], dtype=float32)
    """
    target = optax.smooth_labels(jnp.asarray(target), label_smoothing)
    return optax.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), target)


class Term(NamedTuple):
    """A term of the total loss: its values per example, its weight, and the mask of the examples that count."""

    value: PerExample
    weight: float = 1.0
    where: Where = None


def over_layers(values: Sequence[PerExample], reduction: str = "mean") -> PerExample:
    """Returns the mean (as in the released code) or the sum (as in the paper's text) of a loss over several layers."""
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
    """Returns the sum over terms of weight x masked mean (Eq. 3), and the unweighted `Mean` of each term by name.

    A term without a counted example adds 0. With `axis_name`, sums and counts are also taken over that mapped axis, so
    that the mean is that of the global batch. `counts` is for gradient accumulation, where the examples are a part of
    a batch: the number of examples of the whole batch by which each term's sum is divided, so that the totals of the
    parts add up to the total of the batch.

    >>> total, means = composite({"a": Term(jnp.array([1.0, 3.0])), "b": Term(jnp.array([4.0, 9.0]), 0.5)})
    >>> float(total), float(means["b"].compute())
    (5.25, 6.5)
    """
    means = {name: Mean.of(term.value, where=term.where, axis_name=axis_name) for name, term in terms.items()}
    whole = means if counts is None else {name: mean._replace(count=counts[name]) for name, mean in means.items()}
    total = sum((term.weight * whole[name].compute() for name, term in terms.items()), jnp.zeros(()))
    return total, means
