"""Named activations: read them, and take gradients at them, without changing the network.

A network calls `x = tap(self, "layer5", x)`. In a plain `apply` that is the identity. With
`mutable=["intermediates"]` the activation comes back under its name, and a collection `"perturbations"` among the
variables is added to it, so that the gradient with respect to that perturbation is the gradient at the activation.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tree = Mapping[str, Any]


def tap(module: nn.Module, name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `x`, plus its perturbation if one was given, and sow it as `name`."""
    # Not `Module.perturb`: that one stores batch-sized zeros at `init` and wants every perturbation or none.
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name)
    # Replacing, where Flax would append: an activation and not a tuple of one.
    module.sow("intermediates", name, x, init_fn=lambda: None, reduce_fn=_newest)
    return x


def _newest(_: Any, new: Any) -> Any:
    return new


def read(intermediates: Tree) -> dict[str, Any]:
    """Returns the activations by their own names, whichever sub-module sowed them.

    >>> read({"backbone": {"layer5": 1.0}, "head": {"class_maps": 2.0}})
    {'layer5': 1.0, 'class_maps': 2.0}
    """
    activations: dict[str, Any] = {}
    for name, value in intermediates.items():
        found = read(value) if isinstance(value, Mapping) else {name: value}
        if twice := sorted(activations.keys() & found.keys()):
            raise ValueError(f"activation names must differ within one network, got twice: {', '.join(twice)}")
        activations |= found
    return activations


def zeros(model: nn.Module, variables: Tree, image: Float[Array, "batch height width 3"]) -> Tree:
    """Returns the collection `"perturbations"` of zeros for every tap, found without computing anything.

    Leave out the taps whose gradients are not wanted; each is shaped like its activation for this batch.
    """
    _, updates = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["intermediates"]), variables, image)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), updates["intermediates"])
