"""Which PyTorch tensor is which of our variables: a table per network and head, and per file that starts a backbone.

A row is (torch's name, path in our variables). Numbers in braces are read in our path, turned into torch's by the
table's `numbers`, and put into torch's name; so one table serves both directions.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from aujax.models import heads
from aujax.models.layers import resample_position_embedding

Row = tuple[str, str]
Tensors = Mapping[str, Any]
Numbers = Mapping[str, int]
Shapes = Mapping[str, tuple[int, ...]]


def _weight(theirs: str, ours: str) -> Row:
    return f"{theirs}.weight", f"params/{ours}/kernel"


def _affine(theirs: str, ours: str) -> tuple[Row, ...]:
    return _weight(theirs, ours), (f"{theirs}.bias", f"params/{ours}/bias")


def _layer_norm(theirs: str, ours: str) -> tuple[Row, ...]:
    return (f"{theirs}.weight", f"params/{ours}/scale"), (f"{theirs}.bias", f"params/{ours}/bias")


def _batch_norm(theirs: str, ours: str) -> tuple[Row, ...]:
    statistics = ("running_mean", "mean"), ("running_var", "var")
    return (
        *_layer_norm(theirs, ours),
        *((f"{theirs}.{name}", f"batch_stats/{ours}/{leaf}") for name, leaf in statistics),
    )


def _iresnet(unit: str) -> tuple[Row, ...]:
    """face.evoLVe's names; `unit` is what stands for one unit."""
    ours = "backbone/extractor/stage{s}_unit{u}"
    return (
        _weight("input_layer.0", "backbone/extractor/input_conv"),
        *_batch_norm("input_layer.1", "backbone/extractor/input_bn"),
        ("input_layer.2.weight", "params/backbone/extractor/input_prelu/slope"),
        *_batch_norm(f"{unit}.res_layer.0", f"{ours}/bn1"),
        _weight(f"{unit}.res_layer.1", f"{ours}/conv1"),
        (f"{unit}.res_layer.2.weight", f"params/{ours}/prelu/slope"),
        _weight(f"{unit}.res_layer.3", f"{ours}/conv2"),
        *_batch_norm(f"{unit}.res_layer.4", f"{ours}/bn2"),
        _weight(f"{unit}.shortcut_layer.0", f"{ours}/shortcut_conv"),
        *_batch_norm(f"{unit}.shortcut_layer.1", f"{ours}/shortcut_bn"),
    )


_RESNET: tuple[Row, ...] = (
    _weight("conv1", "backbone/stem_conv"),
    *_batch_norm("bn1", "backbone/stem_bn"),
    _weight("layer{s}.{b}.conv{i}", "backbone/stage{s}_block{b}/conv{i}"),
    *_batch_norm("layer{s}.{b}.bn{i}", "backbone/stage{s}_block{b}/bn{i}"),
    _weight("layer{s}.{b}.downsample.0", "backbone/stage{s}_block{b}/shortcut_conv"),
    *_batch_norm("layer{s}.{b}.downsample.1", "backbone/stage{s}_block{b}/shortcut_bn"),
)
_BLOCKS: tuple[Row, ...] = (
    ("cls_token", "params/backbone/cls_token"),
    *_layer_norm("blocks.{b}.norm{i}", "backbone/block{b}/norm{i}"),
    *_affine("blocks.{b}.attn.qkv", "backbone/block{b}/qkv"),
    *_affine("blocks.{b}.attn.proj", "backbone/block{b}/proj"),
    *_affine("blocks.{b}.mlp.fc{i}", "backbone/block{b}/fc{i}"),
    *_layer_norm("norm", "backbone/norm"),
)
_VIT: tuple[Row, ...] = (
    *_BLOCKS,
    ("pos_embed", "params/backbone/pos_embed"),
    *_affine("patch_embed.proj", "backbone/patch_embed"),
)
_CLASS_POSITION, _PATCH_POSITION = "params/backbone/cls_pos_embed", "params/backbone/patch_pos_embed"


def _under(prefix: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple((prefix + theirs, ours) for theirs, ours in rows)


def _unchanged(backbone: nn.Module, numbers: Numbers) -> Numbers:
    """Torch counts as we do."""
    del backbone
    return numbers


def _after_dropouts(backbone: Any, numbers: Numbers) -> Numbers:
    """In the released ADL each attention dropout takes a number among the blocks of its stage."""
    if "s" not in numbers:
        return numbers
    dropouts = sum(block < numbers["b"] for block in backbone.dropout_follows(numbers["s"]))
    return {**numbers, "b": numbers["b"] + dropouts}


def _stages_from_zero(backbone: nn.Module, numbers: Numbers) -> Numbers:
    del backbone
    return {**numbers, "s": numbers["s"] - 1} if "s" in numbers else numbers


def _units_in_one_row(backbone: Any, numbers: Numbers) -> Numbers:
    """face.evoLVe counts units through all stages."""
    if "s" not in numbers:
        return numbers
    return {**numbers, "n": sum(backbone.units[: numbers["s"] - 1]) + numbers["u"]}


class Released(NamedTuple):
    """How the authors name the tensors of one family of networks, and what stands before the names of its head."""

    rows: tuple[Row, ...]
    before_head: str
    numbers: Callable[[Any, Numbers], Numbers] = _unchanged


RELEASED = {
    "resnet": Released(_under("encoder.", _RESNET), "classification_head.", _after_dropouts),
    "vit": Released(_VIT, ""),
    "apvit": Released(
        (
            *_under("extractor.", _iresnet("body.{s}.{u}")),
            *_under("vit.", _BLOCKS),
            *_affine("vit.projs.0", "backbone/projection"),
            ("vit.cls_pos_embed", _CLASS_POSITION),
            ("vit.patch_pos_embed", _PATCH_POSITION),
        ),
        "classification_head.",
        _stages_from_zero,
    ),
}


def _branch(theirs: str, ours: str) -> tuple[Row, ...]:
    """One of ACoL's two; torch counts the rectifiers too."""
    return tuple(row for i in range(3) for row in _affine(f"{theirs}.{2 * i}", f"{ours}/conv{i + 1}"))


_WILDCAT = _affine("to_modalities", "head/to_modalities")
RELEASED_HEADS = {
    heads.LinearHead: _affine("fc", "head/fc"),
    heads.WildcatHead: _WILDCAT,
    heads.WildcatReferenceHead: _WILDCAT,
    heads.PeakHead: _affine("conv", "head/conv"),
    heads.AcolHead: (
        *_branch("acol_pooler.classifier_A", "head/branch_a"),
        *_branch("acol_pooler.classifier_B", "head/branch_b"),
    ),
    heads.TokenHead: _affine("head", "head/conv"),
    heads.ClassTokenHead: _affine("fc", "head/fc"),
}


def _as_it_is(tensors: Tensors, shapes: Shapes) -> Tensors:
    del shapes
    return tensors


def _position_resampled(tensors: Tensors, shapes: Shapes) -> Tensors:
    """The position embedding for our grid."""
    if "pos_embed" not in tensors:
        return tensors
    tokens = shapes["params/backbone/pos_embed"][1] - 1
    return {**tensors, "pos_embed": resample_position_embedding(np.asarray(tensors["pos_embed"]), tokens)}


def _position_split(tensors: Tensors, shapes: Shapes) -> Tensors:
    """The position embedding for our grid, in two parts: the class token's and the patches'."""
    if "pos_embed" not in tensors:
        return tensors
    position = resample_position_embedding(np.asarray(tensors["pos_embed"]), shapes[_PATCH_POSITION][1])
    others = {name: tensor for name, tensor in tensors.items() if name != "pos_embed"}
    return {**others, "pos_embed[:, :1]": position[:, :1], "pos_embed[:, 1:]": position[:, 1:]}


class WeightFile(NamedTuple):
    """One kind of file that starts a backbone, or a part of it.

    Attributes:
      title: what messages call it.
      mark: a tensor by which the kind is recognised among those of its family.
      rows: its names for our paths.
      covers: regular expression of the paths, below `params` and `batch_stats`, that it fills, all of them.
      left_out: regular expression of the names that nothing here uses.
      numbers: our numbers to those of its names.
      prepare: (its tensors, our shapes by path) to tensors with the names and shapes of `rows`.
    """

    title: str
    mark: str
    rows: tuple[Row, ...]
    covers: str
    left_out: str
    numbers: Callable[[Any, Numbers], Numbers] = _unchanged
    prepare: Callable[[Tensors, Shapes], Tensors] = _as_it_is


WEIGHT_FILES: dict[str, tuple[WeightFile, ...]] = {
    "resnet": (
        # The release loads them by name into ADL's network too, whose dropouts shift the numbers, so that blocks get
        # their successors' weights or none. Here each block gets its own.
        WeightFile(
            title="an ImageNet ResNet (torchvision, timm)",
            mark="layer1.0.conv1.weight",
            rows=_RESNET,
            covers="backbone/.*",
            left_out=r"fc\.(weight|bias)",
        ),
    ),
    "vit": (
        WeightFile(
            title="an ImageNet DeiT (timm)",
            mark="patch_embed.proj.weight",
            rows=_VIT,
            covers="backbone/.*",
            left_out=r"head\.(weight|bias)",
            prepare=_position_resampled,
        ),
    ),
    # The projection between the two is drawn.
    "apvit": (
        WeightFile(
            title="face.evoLVe's IR-50 (MS1M)",
            mark="input_layer.0.weight",
            rows=_iresnet("body.{n}"),
            covers="backbone/extractor/.*",
            left_out=r"body\.2[1-3]\..*|output_layer\..*",
            numbers=_units_in_one_row,
        ),
        WeightFile(
            title="timm's first ViT-small (768 channels, 8 blocks)",
            mark="blocks.0.attn.qkv.weight",
            rows=(*_BLOCKS, ("pos_embed[:, :1]", _CLASS_POSITION), ("pos_embed[:, 1:]", _PATCH_POSITION)),
            covers="backbone/(?!extractor/|projection/).*",
            left_out=r"(patch_embed\.proj|head)\.(weight|bias)",
            prepare=_position_split,
        ),
    ),
}
