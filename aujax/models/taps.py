"""Named activations of a Flax module, and gradients with respect to them, without changes to the network.

A network calls `x = tap(self, "layer5", x)`, which is the identity in a plain `apply`. With `mutable=["intermediates"]`
the activation is returned under its name. A collection `"perturbations"` in the variables is added to the activations:
the gradient with respect to a perturbation is the gradient with respect to its activation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, ArrayLike, Float

Tree = Mapping[str, Any]


def tap(module: nn.Module, name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `x` plus its perturbation, if the variables contain one, and sows the sum as `name`."""
    # `Module.perturb` would store zeros of the batch's size at `init`, and needs all perturbations or none.
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name)
    # By default Flax appends to a tuple; here the activation itself is stored.
    module.sow("intermediates", name, x, init_fn=lambda: None, reduce_fn=_newest)
    return x


def _newest(_: Any, new: Any) -> Any:
    return new


def read(intermediates: Tree) -> dict[str, Any]:
    """Returns the activations by tap name, without the names of the sub-modules that contain them.

    >>> read({"backbone": {"layer5": 1.0}, "head": {"class_maps": 2.0}})
    {'layer5': 1.0, 'class_maps': 2.0}
    """
    activations = {}
    for (*_, name), value in flatten_dict(dict(intermediates)).items():
        if name in activations:
            raise ValueError(f"activation names must be unique within a network, got twice: {name}")
        activations[name] = value
    return activations


def zeros(model: nn.Module, variables: Tree, image: Float[ArrayLike, "batch height width 3"]) -> Tree:
    """Returns the collection `"perturbations"` with zeros for every tap, without running the network.

    Each has the shape of its activation for this batch. Use `select` to keep only the taps to differentiate by.
    """
    _, updates = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["intermediates"]), variables, image)
    return jax.tree.map(jnp.zeros_like, updates["intermediates"])


def select(tree: Tree, names: Sequence[str]) -> dict[str, Any]:
    """Returns the part of a collection that contains the named taps; raises a ValueError that lists all taps.

    >>> select({"backbone": {"layer4": 1.0, "layer5": 2.0}, "head": {"class_maps": 3.0}}, ("layer5",))
    {'backbone': {'layer5': 2.0}}
    """
    if missing := sorted(set(names) - read(tree).keys()):
        raise ValueError(f"activations must be some of {', '.join(read(tree))}, got {', '.join(missing)}")
    return unflatten_dict({path: value for path, value in flatten_dict(dict(tree)).items() if path[-1] in names})
