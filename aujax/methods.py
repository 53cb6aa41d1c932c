"""The eleven methods of the paper and their variants: a table of rows, and functions that build and run any of them.

Images are normalised floats, (batch, height, width, 3). Attention and CAM are float32, (batch, h, w), at the resolution
of the network's activations and not normalised. A method is a row of `METHODS`: a backbone, a head, and how its class
activation map (CAM) is computed. Formulas of CAMs are in `aujax.cams`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aujax import augment, cams
from aujax.models import apvit, heads, resnet, vit
from aujax.models.forward import Activations as Activations
from aujax.models.forward import (
    Expression,
    Images,
    Logits,
    Variables,
    check_batch,
    nan_if_not_a_class,
    target_expression,
)
from aujax.models.forward import apply_with_taps as apply_with_taps
from aujax.models.forward import gradients_at_taps as gradients_at_taps
from aujax.models.layers import AttentionDropout

# ---- Backbones -------------------------------------------------------------------------------------------------------


class Backbone(NamedTuple):
    """A network without head: its family, its constructor, and the options of `build_model` that it has.

    A method can be built on every backbone of its own backbone's family.
    """

    family: str
    create: Callable[..., nn.Module]
    options: tuple[str, ...]


_RESNET_OPTIONS = ("output_stride", "dtype", "axis_name", "rematerialize")
_VIT_OPTIONS = ("dtype", "rematerialize")
_APVIT_OPTIONS = ("dtype", "axis_name", "rematerialize")

BACKBONES = {
    "resnet18": Backbone("resnet", resnet.resnet18, _RESNET_OPTIONS),
    "resnet34": Backbone("resnet", resnet.resnet34, _RESNET_OPTIONS),
    "resnet50": Backbone("resnet", resnet.resnet50, _RESNET_OPTIONS),
    "resnet_tiny": Backbone("resnet", resnet.resnet_tiny, _RESNET_OPTIONS),
    "deit_small": Backbone("vit", vit.deit_small, _VIT_OPTIONS),
    "vit_tiny": Backbone("vit", vit.vit_tiny, _VIT_OPTIONS),
    "apvit": Backbone("apvit", apvit.apvit, _APVIT_OPTIONS),
    "apvit_tiny": Backbone("apvit", apvit.apvit_tiny, _APVIT_OPTIONS),
}

# ---- Read-outs: how a method's CAM is computed -----------------------------------------------------------------------


class ReadoutInputs(NamedTuple):
    """What a CAM is computed from; `gradients` are those of the logit of `expression` at the taps of the read-out."""

    variables: Mapping[str, Any]
    activations: Mapping[str, Array]
    gradients: Mapping[str, Array]
    expression: Int[Array, " batch"]


class Readout(NamedTuple):
    """A function from `ReadoutInputs` to the CAM (batch, h, w), and the taps at which it needs gradients."""

    compute: Callable[[ReadoutInputs], Float[Array, "batch h w"]]
    gradients_at: tuple[str, ...] = ()


def weighted_channels(layer: str) -> Readout:
    """Returns the read-out of CAM: the channels of a layer, weighted by the linear head's weights of the class."""

    def compute(inputs: ReadoutInputs) -> Array:
        kernel = inputs.variables["params"]["head"]["fc"]["kernel"]
        return cams.cam(inputs.activations[layer], jnp.take(kernel, inputs.expression, axis=1).T)

    return Readout(compute)


def from_gradients(formula: Callable[[Array, Array], Array], layer: str) -> Readout:
    """Returns the read-out that applies a formula of `cams`, such as `cams.grad_cam`, to a layer and its gradient."""
    return Readout(lambda inputs: formula(inputs.activations[layer], inputs.gradients[layer]), (layer,))


def _class_map(inputs: ReadoutInputs) -> Array:
    return heads.class_map(inputs.activations["class_maps"], inputs.expression)


def _both_branches(inputs: ReadoutInputs) -> Array:
    erased = heads.class_map(inputs.activations["erased_maps"], inputs.expression)
    return cams.acol_cam(_class_map(inputs), erased)


def _attention_times_class_map(inputs: ReadoutInputs) -> Array:
    return cams.ts_cam(inputs.activations["attention"][..., 0], _class_map(inputs))


# ---- Rows ------------------------------------------------------------------------------------------------------------


class Option(NamedTuple):
    """A hyper-parameter of a method, with its published value and its range.

    The range is closed, from `least` to `most`; with `above`, `least` itself is excluded. An option whose published
    value is an int takes integers only.
    """

    name: str
    value: float
    least: float = 0.0
    most: float = 1.0
    above: bool = False


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of `METHODS`.

    Attributes:
      name: as in the paper's tables; a variant is named after a slash.
      backbone: the published network, a key of `BACKBONES`.
      head: module class, called with the number of classes, and with `options` unless `backbone_fields` uses them.
      readout: how the CAM is computed; None for a method without CAM.
      tap: activation aligned with the AU map by default.
      layers: activations whose attention is reported.
      image_size: side in pixels of the (square) input of the published model.
      options: hyper-parameters with their published values.
      backbone_fields: function from the options to the fields of the backbone that they set.
      supervised: taps that hold additional logits, each with a cross-entropy of its own in training.
      mix: batch augmentation applied to the training views, such as CutMix; None for none.
    """

    name: str
    backbone: str
    head: Callable[..., nn.Module]
    readout: Readout | None
    tap: str
    layers: tuple[str, ...]
    image_size: int = 224
    options: tuple[Option, ...] = ()
    backbone_fields: Callable[..., dict[str, Any]] | None = None
    supervised: tuple[str, ...] = ()
    mix: augment.Mix | None = None

    def aligned(self, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Returns the layers aligned with the AU map: `chosen`, or the method's own."""
        return chosen or (self.tap,)

    def reported_layer(self, chosen: tuple[str, ...] = ()) -> str:
        """Returns the layer whose attention is reported: the last one that is aligned with the AU map."""
        return self.aligned(chosen)[-1]

    @property
    def training(self) -> "Method":
        """The fields that affect training: equal for rows that differ only in name and read-out."""
        return dataclasses.replace(self, name="", readout=None)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of the backbones that the method can be built on."""
        family = BACKBONES[self.backbone].family
        return tuple(name for name, row in BACKBONES.items() if row.family == family)

    def with_options(self, values: Mapping[str, float]) -> "Method":
        """Returns the row with other hyper-parameters; raises a ValueError for an unknown name or invalid value."""
        if unknown := sorted(values.keys() - {option.name for option in self.options}):
            names = ", ".join(option.name for option in self.options) or "none"
            raise ValueError(f"{self.name} has no option {', '.join(unknown)}; its options: {names}")
        options = []
        for option in self.options:
            value = values.get(option.name, option.value)
            inside = option.least <= value <= option.most and not (option.above and value == option.least)
            kind = type(option.value)
            if not inside or kind(value) != value:
                numbers = "an integer" if kind is int else "a number"
                start = f"above {option.least:g}, up to" if option.above else f"from {option.least:g} to"
                raise ValueError(f"option {option.name} must be {numbers} {start} {option.most:g}, got {value:g}")
            options.append(option._replace(value=kind(value)))
        return dataclasses.replace(self, options=tuple(options)) if values else self


# Partial rows: the methods on a ResNet-50; those of them with CAM's linear head; the variants of WILDCAT and of ADL.
_STAGES = ("layer1", "layer2", "layer3", "layer4", "layer5")
_RESNET = functools.partial(Method, backbone="resnet50", tap="layer5", layers=_STAGES)
_LINEAR = functools.partial(_RESNET, head=heads.LinearHead)
_WILDCAT = functools.partial(_RESNET, head=heads.WildcatHead, readout=Readout(_class_map))
_ADL = functools.partial(
    _LINEAR,
    options=(Option("rate", 0.4), Option("threshold", 0.1)),
    backbone_fields=lambda rate, threshold: {"attention_dropout": AttentionDropout(rate, threshold)},
)

_MODALITIES = Option("modalities", 5, 1, 64)
_KMAX = Option("kmax", 0.5, above=True)

# "/reference" rows reproduce the authors' released code where it differs from the cited paper.
METHODS = {
    row.name: row
    for row in (
        _LINEAR("CAM", readout=weighted_channels("layer5")),
        _WILDCAT("WILDCAT", options=(_MODALITIES, _KMAX, Option("kmin", 0.1), Option("alpha", 0.6))),
        _WILDCAT("WILDCAT/reference", options=(_MODALITIES, _KMAX)),
        _LINEAR("GradCAM", readout=from_gradients(cams.grad_cam, "layer5")),
        _LINEAR("GradCAM++", readout=from_gradients(cams.grad_cam_pp, "layer5")),
        _LINEAR("GradCAM++/reference", readout=from_gradients(cams.grad_cam_pp_reference, "layer5")),
        _RESNET(
            "ACoL",
            head=heads.AcolHead,
            readout=Readout(_both_branches),
            options=(Option("threshold", 0.1), Option("channels", 1024, 1, 4096)),
            supervised=("erased_logits",),
        ),
        _RESNET("PRM", head=heads.PeakHead, readout=Readout(_class_map)),
        _ADL("ADL", readout=weighted_channels("layer5")),
        _ADL("ADL/reference", readout=weighted_channels("layer5_block2")),
        _LINEAR("CutMix", readout=weighted_channels("layer5"), tap="layer4", mix=augment.cutmix),
        _LINEAR("LayerCAM", readout=from_gradients(cams.layer_cam, "layer5")),
        Method(
            "TS-CAM",
            backbone="deit_small",
            head=heads.TokenHead,
            readout=Readout(_attention_times_class_map),
            tap="tokens",
            layers=("tokens", "attention"),
        ),
        Method(
            "APViT",
            backbone="apvit",
            head=heads.ClassTokenHead,
            readout=None,
            tap="stage3",
            layers=("stage1", "stage2", "stage3", "attention"),
            image_size=112,
            options=(Option("tokens", 160, 1, 196), Option("keep", 0.9, above=True)),
            backbone_fields=dict,  # options and fields have the same names
        ),
    )
}


def method(name: str) -> Method:
    """Returns the row of that name; raises a ValueError that lists all names."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


# ---- Models ----------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Backbone and head of a method; returns logits. Its variables are `params` and `batch_stats`."""

    method: Method
    backbone: nn.Module
    head: nn.Module

    def __call__(
        self,
        image: Images,
        *,
        train: bool = False,
        expression: Expression = None,
    ) -> Logits:
        """Returns the logits in float32; `train` selects batch statistics and random dropping of activations."""
        return self.head(self.backbone(image, train=train), expression)


def build_model(
    name: str,
    *,
    num_classes: int = 7,
    backbone: str | None = None,
    output_stride: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    rematerialize: bool = False,
    options: Mapping[str, float] = MappingProxyType({}),
) -> Classifier:
    """Returns the classifier of method `name`, a Flax module whose `model.method` is its row of `METHODS`.

    Args:
      name: key of `METHODS`.
      num_classes: number of expressions.
      backbone: key of `BACKBONES`; None for the method's own.
      output_stride: 8, 16 or 32, the ratio of image to last activation of a residual network; None for 8. Transformers
        have none.
      dtype: of the backbone's computation. Parameters, statistics and logits are float32.
      axis_name: mesh axis over which BatchNorm averages the batch statistics; None for those of each device. Ignored by
        networks without BatchNorm.
      rematerialize: recompute the activations of a block in the backward pass instead of storing them: the same numbers
        with less memory in more time. No effect on CPUs, where XLA removes the recomputation.
      options: hyper-parameters of the method, such as `{"kmax": 0.3}` for WILDCAT; by default the published values.

    Raises:
      ValueError: if the name, the backbone, the output stride or an option is not valid for the method.
    """
    row = method(name).with_options(options)
    backbone = row.backbone if backbone is None else backbone
    if backbone not in row.backbones:
        raise ValueError(f"the backbone of method {name} must be one of {', '.join(row.backbones)}, got {backbone!r}")
    network = BACKBONES[backbone]
    if output_stride is not None and "output_stride" not in network.options:
        raise ValueError(
            f"output_stride must be left out for {backbone}, got {output_stride}: "
            "the size of a transformer's maps is its patch grid"
        )
    # A backbone takes the options that it has: transformers have no BatchNorm to average over `axis_name`.
    given = {"output_stride": output_stride, "dtype": dtype, "axis_name": axis_name, "rematerialize": rematerialize}
    fields = {key: given[key] for key in network.options if given[key] is not None}
    values = {option.name: option.value for option in row.options}
    if row.backbone_fields:
        fields |= row.backbone_fields(**values)
        values = {}
    return Classifier(row, network.create(**fields), row.head(num_classes, **values))


def init(model: nn.Module, key: Array, image: Images) -> dict[str, Any]:
    """Returns new variables `{"params": ..., "batch_stats": ...}` for images of that shape; pixels do not matter."""
    # The program runs once. On CPUs XLA would spend seconds on optimising the random initialisers.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return {"batch_stats": {}, **jax.jit(model.init, compiler_options=fast)(key, jnp.asarray(image))}


class Forward(NamedTuple):
    """Result of `forward`: logits, attention by layer name, and CAM (None for a method without CAM)."""

    logits: Logits
    attention: dict[str, Array]
    cam: Array | None


def forward(
    model: Classifier,
    variables: Variables,
    image: Images,
    expression: Expression = None,
) -> Forward:
    """Returns logits, attention of the method's layers, and CAM of `expression` (by default the predicted class).

    Compiled once per model and shape. The CAM of a number that is not a class is NaN. In ACoL `expression` also selects
    what is erased for the second branch: for the CAM of another class than the label, call `apply_with_taps` with the
    label and select from the class maps.

    Raises:
      ValueError: if the batch has another shape or dtype.
    """
    return _forward(model, variables, *check_batch(image, expression))


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: Classifier, variables: Variables, image: Array, expression: Array | None) -> Forward:
    # Without a read-out that needs gradients, `at` is empty and nothing is differentiated.
    row = model.method
    taps = row.readout.gradients_at if row.readout else ()
    outputs, gradients = gradients_at_taps(model, variables, image, expression, at=taps)
    attention = {name: cams.layer_attention(outputs.activations[name]) for name in row.layers}
    if row.readout is None:
        return Forward(outputs.logits, attention, None)
    target = target_expression(outputs.logits, expression)
    cam = row.readout.compute(ReadoutInputs(variables, outputs.activations, gradients, target))
    return Forward(outputs.logits, attention, nan_if_not_a_class(cam, target, outputs.logits))
