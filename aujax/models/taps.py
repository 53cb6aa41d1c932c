"""Named activations: read them, and take gradients at them, without changing the network.

A network calls `x = tap(self, "layer5", x)`. In a plain `apply` that is the identity. With
`mutable=["intermediates"]` the activation comes back under its name, and a collection `"perturbations"` among the
variables is added to it, so that the gradient with respect to that perturbation is the gradient at the activation.
"""

from collections.abc import Mapping, Sequence
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

    Each is shaped like its activation for this batch; `select` leaves out those whose gradients are not wanted.
    """
    _, updates = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["intermediates"]), variables, image)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), updates["intermediates"])


def select(tree: Tree, names: Sequence[str]) -> dict[str, Any]:
    """Returns the part of such a collection that holds the named taps; a ValueError lists those there are.

    >>> select({"backbone": {"layer4": 1.0, "layer5": 2.0}, "head": {"class_maps": 3.0}}, ("layer5",))
    {'backbone': {'layer5': 2.0}}
    """
    if missing := sorted(set(names) - read(tree).keys()):
        raise ValueError(f"activations must be some of {', '.join(read(tree))}, got {', '.join(missing)}")
    return _pruned(tree, frozenset(names))


def _pruned(tree: Tree, names: frozenset[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        part = _pruned(value, names) if isinstance(value, Mapping) else value
        if name in names or (isinstance(value, Mapping) and part):
            kept[name] = part
    return kept
