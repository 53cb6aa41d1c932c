"""The networks that a method can stand on, a row each."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from aujax.models import apvit, resnet, vit


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without a head: its family, its constructor, and which of `build_model`'s options it has."""

    family: str
    create: Callable[..., nn.Module]
    options: tuple[str, ...]


def _resnet(create: Callable[..., nn.Module]) -> Backbone:
    return Backbone("resnet", create, ("output_stride", "dtype", "axis_name", "rematerialize"))


BACKBONES = {
    "resnet18": _resnet(resnet.resnet18),
    "resnet34": _resnet(resnet.resnet34),
    "resnet50": _resnet(resnet.resnet50),
    "resnet_tiny": _resnet(resnet.resnet_tiny),
    "deit_small": Backbone("vit", vit.deit_small, ("dtype", "rematerialize")),
    "vit_tiny": Backbone("vit", vit.vit_tiny, ("dtype", "rematerialize")),
    "apvit": Backbone("apvit", apvit.apvit, ("dtype", "axis_name", "rematerialize")),
    "apvit_tiny": Backbone("apvit", apvit.apvit_tiny, ("dtype", "axis_name", "rematerialize")),
}
