"""The methods: one row each, built and read by the same few functions.

Images are float, normalised, (batch, height, width, 3). Attention and CAM are (batch, h, w) float32 at the
network's own resolution, not normalised. A method is a row of `METHODS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from aujax import augment, cams, readouts
from aujax.models import heads
from aujax.models.attention_dropout import AttentionDropout
from aujax.models.backbones import BACKBONES
from aujax.models.reading import Reading as Reading
from aujax.models.reading import Variables, checked, exists, nan_unless, wanted_expression
from aujax.models.reading import read as read
from aujax.models.reading import read_gradients as read_gradients
from aujax.readouts import Readout


class Option(NamedTuple):
    """A hyper-parameter of a method: its published value and the values it may take, from `least` to `most`.

    `above` leaves `least` itself out.
    """

    name: str
    value: float
    least: float = 0.0
    most: float = 1.0
    above: bool = False

    def check(self, value: float) -> None:
        """Raises a ValueError unless the option may take this value."""
        inside = self.least < value <= self.most if self.above else self.least <= value <= self.most
        if not inside or type(self.value)(value) != value:
            kind = "a whole number" if isinstance(self.value, int) else "a number"
            start = f"above {self.least:g}, up to" if self.above else f"from {self.least:g} to"
            raise ValueError(f"option {self.name} must be {kind} {start} {self.most:g}, got {value:g}")


@dataclasses.dataclass(frozen=True)
class Method:
    """One row: what is built, what is aligned, what is read.

    Attributes:
      name: as in the paper's tables; after a slash, a variant.
      backbone: the published network, a row of `BACKBONES`.
      head: takes the number of classes, and `options` unless `backbone_fields` does.
      readout: how its CAM is read; None for a method without one.
      tap: the activation that alignment pulls on unless the user names others.
      layers: the activations whose attention is reported.
      image_size: the (square) input in pixels that the published models take.
      options: hyper-parameters with their published values.
      backbone_fields: what the options mean for the backbone, by the names of its fields.
      supervised: taps that hold further logits, each with a cross-entropy of its own in training.
      mix: what happens to a batch of training views before the network sees it.
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
    mix: augment.Mix = augment.unmixed

    def aligned(self, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Returns the layers that alignment pulls on: those chosen, or the method's own. The last one is reported."""
        return chosen or (self.tap,)

    @property
    def training(self) -> "Method":
        """What of the row decides its training: equal for rows that differ in name and reading alone."""
        return dataclasses.replace(self, name="", readout=None)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of the networks this method can stand on."""
        family = BACKBONES[self.backbone].family
        return tuple(name for name, row in BACKBONES.items() if row.family == family)

    def with_options(self, values: Mapping[str, float]) -> "Method":
        """Returns the row with other hyper-parameters; a name or a value that it cannot take is a ValueError."""
        if unknown := sorted(values.keys() - {option.name for option in self.options}):
            names = ", ".join(option.name for option in self.options) or "none"
            raise ValueError(f"{self.name} has no option {', '.join(unknown)}; its options: {names}")
        options = []
        for option in self.options:
            value = values.get(option.name, option.value)
            option.check(value)
            options.append(option._replace(value=type(option.value)(value)))
        return dataclasses.replace(self, options=tuple(options)) if values else self


_STAGES = ("layer1", "layer2", "layer3", "layer4", "layer5")
_CNN = functools.partial(Method, backbone="resnet50", tap="layer5", layers=_STAGES)
_LINEAR = functools.partial(_CNN, head=heads.LinearHead)
_KMAX, _KMIN, _ALPHA = Option("kmax", 0.5, above=True), Option("kmin", 0.1), Option("alpha", 0.6)
_MODALITIES = Option("modalities", 5, 1, 64)


def _attention_dropout(rate: float, threshold: float) -> dict[str, Any]:
    return {"attention_dropout": AttentionDropout(rate, threshold)}


_ADL = functools.partial(
    _LINEAR, options=(Option("rate", 0.4), Option("threshold", 0.1)), backbone_fields=_attention_dropout
)

METHODS = {
    row.name: row
    for row in (
        _LINEAR("CAM", readout=readouts.of_weights("layer5")),
        _CNN(
            "WILDCAT",
            head=heads.WildcatHead,
            readout=readouts.OF_CLASS_MAPS,
            options=(_MODALITIES, _KMAX, _KMIN, _ALPHA),
        ),
        _CNN(
            "WILDCAT/reference",
            head=heads.WildcatReferenceHead,
            readout=readouts.OF_CLASS_MAPS,
            options=(_MODALITIES, _KMAX),
        ),
        _LINEAR("GradCAM", readout=readouts.of_gradients(cams.grad_cam, "layer5")),
        _LINEAR("GradCAM++", readout=readouts.of_gradients(cams.grad_cam_pp, "layer5")),
        _LINEAR("GradCAM++/reference", readout=readouts.of_gradients(cams.grad_cam_pp_reference, "layer5")),
        _CNN(
            "ACoL",
            head=heads.AcolHead,
            readout=readouts.OF_BOTH_BRANCHES,
            options=(Option("threshold", 0.1), Option("channels", 1024, 1, 4096)),
            supervised=("erased_logits",),
        ),
        _CNN("PRM", head=heads.PeakHead, readout=readouts.OF_CLASS_MAPS),
        _ADL("ADL", readout=readouts.of_weights("layer5")),
        _ADL("ADL/reference", readout=readouts.of_weights("layer5_block2")),
        _LINEAR("CutMix", readout=readouts.of_weights("layer5"), tap="layer4", mix=augment.cutmix),
        _LINEAR("LayerCAM", readout=readouts.of_gradients(cams.layer_cam, "layer5")),
        Method(
            "TS-CAM",
            "deit_small",
            heads.TokenHead,
            readouts.OF_ATTENDED_TOKENS,
            tap="tokens",
            layers=("tokens", "attention"),
        ),
        Method(
            "APViT",
            "apvit",
            heads.ClassTokenHead,
            readout=None,
            tap="stage3",
            layers=("stage1", "stage2", "stage3", "attention"),
            image_size=112,
            options=(Option("tokens", 160, 1, 196), Option("keep", 0.9, above=True)),
            backbone_fields=dict,
        ),
    )
}


class Classifier(nn.Module):
    """Backbone and head of one method; returns logits. `init` gives parameters and statistics, nothing else."""

    method: Method
    backbone: nn.Module
    head: nn.Module

    def __call__(
        self,
        image: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        expression: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch classes"]:
        """Returns the logits in float32; `train` uses the batch's own statistics and draws what is dropped."""
        return self.head(self.backbone(image, train=train), expression)


class Forward(NamedTuple):
    """What is read from one batch: attention per layer name, and the CAM of the wanted expression."""

    logits: Float[Array, "batch classes"]
    attention: dict[str, Array]
    cam: Array | None


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
    rematerialize: bool = False,
    options: Mapping[str, float] = MappingProxyType({}),
) -> Classifier:
    """Returns the classifier of method `name`, a Flax module that knows its row as `model.method`.

    `backbone` and `output_stride` of None mean the method's own network and 8; a transformer has no
    `output_stride` and refuses one. `axis_name` is the mesh axis over which BatchNorm averages the batch's statistics
    (None: each device its own); a network without BatchNorm has nothing to average and takes any. `rematerialize`
    computes a block's activations again in the backward pass instead of keeping them: the same numbers in more time and
    less memory, except on a CPU, where the compiler takes out what holds the second computation back. `options` are the
    method's own hyper-parameters, such as `{"kmax": 0.3}` for WILDCAT; those left out have their published values.
    """
    row = method(name).with_options(options)
    backbone = row.backbone if backbone is None else backbone
    if backbone not in row.backbones:
        raise ValueError(f"the backbone of method {name} must be one of {', '.join(row.backbones)}, got {backbone!r}")
    chosen = BACKBONES[backbone]
    if output_stride is not None and "output_stride" not in chosen.options:
        raise ValueError(
            f"output_stride must be left out for {backbone}, got {output_stride}: "
            "the size of a transformer's maps is its patch grid"
        )
    given = {"output_stride": output_stride, "dtype": dtype, "axis_name": axis_name, "rematerialize": rematerialize}
    used = {key: given[key] for key in chosen.options if given[key] is not None}
    values = {option.name: option.value for option in row.options}
    fields, arguments = ({}, values) if row.backbone_fields is None else (row.backbone_fields(**values), {})
    return Classifier(row, chosen.create(**used, **fields), row.head(num_classes, **arguments))


def init(model: nn.Module, key: Array, image: Float[ArrayLike, "batch height width 3"]) -> dict[str, Any]:
    """Returns fresh `{"params": ..., "batch_stats": ...}` for images of that size; the pixels do not matter."""
    # It runs once: on a CPU, where drawing compiles for seconds, do without the optimiser.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return {"batch_stats": {}, **jax.jit(model.init, compiler_options=fast)(key, jnp.asarray(image))}


def forward(
    model: Classifier,
    variables: Variables,
    image: Float[ArrayLike, "batch height width 3"],
    expression: Int[ArrayLike, " batch"] | None = None,
) -> Forward:
    """Returns logits, the attention of the method's layers and the CAM of `expression` (default: the predicted one).

    Compiled once per model and shape. A class that does not exist has a CAM of NaN. ACoL's second branch is erased by
    `expression` too: for another class's CAM beside a face's label, `read` with the label and pick from the class maps.
    """
    return _forward(model, variables, *checked(image, expression))


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: Classifier, variables: Variables, image: Array, expression: Array | None) -> Forward:
    row = model.method
    at = row.readout.gradients_at if row.readout else ()
    reading, gradients = read_gradients(model, variables, image, expression, at=at)
    attention = {name: cams.layer_attention(reading.activations[name]) for name in row.layers}
    if row.readout is None:
        return Forward(reading.logits, attention, None)
    wanted = wanted_expression(reading.logits, expression)
    cam = row.readout.compute(readouts.Evidence(variables, reading.activations, gradients, wanted))
    return Forward(reading.logits, attention, nan_unless(exists(wanted, reading.logits), cam))
