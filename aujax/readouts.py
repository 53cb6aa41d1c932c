"""How a method's CAM is read: from class weights, from the head's own maps, or from gradients.

A read-out takes `Evidence`, all that one pass left behind, and returns the CAM (batch, h, w) of the wanted
expressions, at the network's own resolution and not normalised. The arithmetic is in `aujax.cams`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aujax import cams
from aujax.models.heads import class_map


class Evidence(NamedTuple):
    """Variables, activations by tap name, gradients of the wanted logits at some of them, and whose they are."""

    variables: Mapping[str, Any]
    activations: Mapping[str, Array]
    gradients: Mapping[str, Array]
    expression: Int[Array, " batch"]


@dataclasses.dataclass(frozen=True)
class Readout:
    """A function of the evidence, and the taps at which it needs gradients."""

    compute: Callable[[Evidence], Float[Array, "batch h w"]]
    gradients_at: tuple[str, ...] = ()


def of_weights(layer: str) -> Readout:
    """Returns the read-out that weighs a layer's channels by the linear head's weights of the class."""

    def compute(evidence: Evidence) -> Array:
        kernel = evidence.variables["params"]["head"]["fc"]["kernel"]
        return cams.cam(evidence.activations[layer], jnp.take(kernel, evidence.expression, axis=1).T)

    return Readout(compute)


def of_gradients(formula: Callable[[Array, Array], Array], layer: str) -> Readout:
    """Returns the read-out that applies a formula of `cams`, such as `cams.grad_cam`, to a layer."""
    return Readout(lambda evidence: formula(evidence.activations[layer], evidence.gradients[layer]), (layer,))


def _class_maps(evidence: Evidence) -> Array:
    return class_map(evidence.activations["class_maps"], evidence.expression)


def _both_branches(evidence: Evidence) -> Array:
    first, second = (evidence.activations[name] for name in ("class_maps", "erased_maps"))
    return cams.acol_cam(class_map(first, evidence.expression), class_map(second, evidence.expression))


def _attended_tokens(evidence: Evidence) -> Array:
    return cams.ts_cam(evidence.activations["attention"][..., 0], _class_maps(evidence))


OF_CLASS_MAPS = Readout(_class_maps)
OF_BOTH_BRANCHES = Readout(_both_branches)
OF_ATTENDED_TOKENS = Readout(_attended_tokens)
