"""Table of the networks that a method can be built on."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from aujax.models import apvit, resnet, vit


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without head: its family, its constructor, and the options of `build_model` that it has.

    A method can be built on every backbone of its own backbone's family.
    """

    family: str
    create: Callable[..., nn.Module]
    options: tuple[str, ...]


_RESNET = ("output_stride", "dtype", "axis_name", "rematerialize")
_VIT = ("dtype", "rematerialize")
_APVIT = ("dtype", "axis_name", "rematerialize")

BACKBONES = {
    "resnet18": Backbone("resnet", resnet.resnet18, _RESNET),
    "resnet34": Backbone("resnet", resnet.resnet34, _RESNET),
    "resnet50": Backbone("resnet", resnet.resnet50, _RESNET),
    "resnet_tiny": Backbone("resnet", resnet.resnet_tiny, _RESNET),
    "deit_small": Backbone("vit", vit.deit_small, _VIT),
    "vit_tiny": Backbone("vit", vit.vit_tiny, _VIT),
    "apvit": Backbone("apvit", apvit.apvit, _APVIT),
    "apvit_tiny": Backbone("apvit", apvit.apvit_tiny, _APVIT),
}
