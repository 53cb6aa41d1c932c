"""The methods: one row each, built and read by the same few functions.

Images are float, normalised, (batch, height, width, 3). Attention and CAM are (batch, h, w) float32 at the
network's own resolution, not normalised. A method is a row of `METHODS`, a network a row of `BACKBONES`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from aujax import cams
from aujax.models import resnet, taps, vit
from aujax.models.heads import LinearHead, TokenHead

Variables = Mapping[str, Any]
Activations = Mapping[str, Array]
# (variables, activations, expression (B,)) -> CAM (B, h, w) of that expression.
Readout = Callable[[Variables, Activations, Array], Array]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without a head: its family, its constructor, and which of `build_model`'s options it has."""

    family: str
    create: Callable[..., nn.Module]
    options: tuple[str, ...]


def _resnet(create: Callable[..., nn.Module]) -> Backbone:
    return Backbone("resnet", create, ("output_stride", "dtype", "axis_name"))


def _vit(create: Callable[..., nn.Module]) -> Backbone:
    return Backbone("vit", create, ("dtype",))


BACKBONES = {
    "resnet18": _resnet(resnet.resnet18),
    "resnet34": _resnet(resnet.resnet34),
    "resnet50": _resnet(resnet.resnet50),
    "resnet_tiny": _resnet(resnet.resnet_tiny),
    "deit_small": _vit(vit.deit_small),
    "vit_tiny": _vit(vit.vit_tiny),
}


def _linear_cam(variables: Variables, activations: Activations, expression: Array) -> Array:
    kernel = variables["params"]["head"]["fc"]["kernel"]
    return cams.cam(activations["layer5"], jnp.take(kernel, expression, axis=1, mode="fill").T)


def _token_cam(variables: Variables, activations: Activations, expression: Array) -> Array:
    pick = jax.vmap(lambda maps, index: jnp.take(maps, index, axis=-1, mode="fill"))
    return cams.ts_cam(activations["attention"][..., 0], pick(activations["class_maps"], expression))


@dataclasses.dataclass(frozen=True)
class Method:
    """One row: what is built, what is aligned, what is read.

    `tap` is the activation that alignment pulls on unless the user names others, `layers` are those whose
    attention is reported, `image_size` the (square) input in pixels that the published models take.
    """

    name: str
    backbone: str
    head: Callable[..., nn.Module]
    readout: Readout
    tap: str
    layers: tuple[str, ...]
    image_size: int = 224

    def aligned(self, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Returns the layers that alignment pulls on: those chosen, or the method's own. The last one is reported."""
        return chosen or (self.tap,)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of the networks this method can stand on."""
        family = BACKBONES[self.backbone].family
        return tuple(name for name, row in BACKBONES.items() if row.family == family)


_STAGES = ("layer1", "layer2", "layer3", "layer4", "layer5")

METHODS = {
    row.name: row
    for row in (
        Method("CAM", "resnet50", LinearHead, _linear_cam, tap="layer5", layers=_STAGES),
        Method("TS-CAM", "deit_small", TokenHead, _token_cam, tap="tokens", layers=("tokens", "attention")),
    )
}


class Classifier(nn.Module):
    """Backbone and head of one method; returns logits. `init` gives parameters and statistics, nothing else."""

    method: Method
    backbone: nn.Module
    head: nn.Module

    def __call__(
        self, image: Float[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits in float32; `train` uses the batch's own statistics."""
        return self.head(self.backbone(image, train=train))


class Forward(NamedTuple):
    """What is read from one batch: attention per layer name, and the CAM of the wanted expression."""

    logits: Float[Array, "batch classes"]
    attention: dict[str, Array]
    cam: Array | None


class Reading(NamedTuple):
    """Logits, activations by tap name, and BatchNorm statistics (updated when training)."""

    logits: Float[Array, "batch classes"]
    activations: dict[str, Array]
    batch_stats: Variables


def method(name: str) -> Method:
    """Returns the row of that name, or an error that lists the names there are."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def build_model(
    name: str,
    *,
    num_classes: int = 7,
    backbone: str | None = None,
    output_stride: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> Classifier:
    """Returns the classifier of method `name`, a Flax module that knows its row as `model.method`.

    `backbone` and `output_stride` of None mean the method's own network and 8; a transformer has no
    `output_stride` and refuses one. `axis_name` is the mesh axis over which BatchNorm averages the batch's statistics
    (None: each device its own); a network without BatchNorm has nothing to average and takes any.
    """
    row = method(name)
    backbone = row.backbone if backbone is None else backbone
    if backbone not in row.backbones:
        raise ValueError(f"the backbone of method {name} must be one of {', '.join(row.backbones)}, got {backbone!r}")
    chosen = BACKBONES[backbone]
    if output_stride is not None and "output_stride" not in chosen.options:
        raise ValueError(
            f"output_stride must be left out for {backbone}, got {output_stride}: "
            "the size of a transformer's maps is its patch grid"
        )
    options = {"output_stride": output_stride, "dtype": dtype, "axis_name": axis_name}
    used = {key: options[key] for key in chosen.options if options[key] is not None}
    return Classifier(row, chosen.create(**used), row.head(num_classes))


def init(model: nn.Module, key: Array, image: Float[ArrayLike, "batch height width 3"]) -> dict[str, Any]:
    """Returns fresh `{"params": ..., "batch_stats": ...}` for images of that size; the pixels do not matter."""
    # It runs once: on a CPU, where drawing compiles for seconds, do without the optimiser.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return {"batch_stats": {}, **jax.jit(model.init, compiler_options=fast)(key, jnp.asarray(image))}


def read(
    model: nn.Module,
    variables: Variables,
    image: Float[Array, "batch height width 3"],
    *,
    train: bool = False,
) -> Reading:
    """Returns logits, every tapped activation and the statistics: one pass, shared by training and evaluation."""
    mutable = ["intermediates", "batch_stats"] if train else ["intermediates"]
    logits, updates = model.apply(variables, image, train=train, mutable=mutable)
    statistics = {**variables, **updates}.get("batch_stats", {})
    return Reading(logits, taps.read(updates["intermediates"]), statistics)


def forward(
    model: Classifier,
    variables: Variables,
    image: Float[ArrayLike, "batch height width 3"],
    expression: Int[ArrayLike, " batch"] | None = None,
) -> Forward:
    """Returns logits, the attention of the method's layers and the CAM of `expression` (default: the predicted one).

    Compiled once per model and shape. A class that does not exist has a CAM of NaN.
    """
    return _forward(model, variables, image, expression)


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: Classifier, variables: Variables, image: Array, expression: Array | None) -> Forward:
    reading = read(model, variables, jnp.asarray(image))
    attention = {name: cams.layer_attention(reading.activations[name]) for name in model.method.layers}
    expression = reading.logits.argmax(axis=-1) if expression is None else jnp.asarray(expression)
    return Forward(reading.logits, attention, model.method.readout(variables, reading.activations, expression))
