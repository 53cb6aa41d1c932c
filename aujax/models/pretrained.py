"""Weights of PyTorch models as our variables: torchvision's ResNets, timm's DeiT and ViT, the authors' released models.

Works on dicts of NumPy arrays, as `aujax.weight_files.read` gives them. A state dict may be nested; its keys are then
joined with a dot. Torch's layouts (OIHW kernels, linear layers (out, in)) end here. Nothing is loaded by halves:
every missing, unexpected and misshaped tensor is named in one `ValueError`.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from aujax import methods
from aujax.models.heads import LinearHead, TokenHead

StateDict = Mapping[str, Any]
Row = tuple[str, str]


def _affine(theirs: str, ours: str) -> tuple[Row, ...]:
    return ((f"{theirs}.weight", f"params/{ours}/kernel"), (f"{theirs}.bias", f"params/{ours}/bias"))


def _layer_norm(theirs: str, ours: str) -> tuple[Row, ...]:
    return ((f"{theirs}.weight", f"params/{ours}/scale"), (f"{theirs}.bias", f"params/{ours}/bias"))


def _batch_norm(theirs: str, ours: str) -> tuple[Row, ...]:
    statistics = ("running_mean", "mean"), ("running_var", "var")
    return (
        *_layer_norm(theirs, ours),
        *((f"{theirs}.{name}", f"batch_stats/{ours}/{leaf}") for name, leaf in statistics),
    )


# (torch's name, path in our variables); `{s}`, `{b}` and `{i}` stand for the same number on both sides.
RESNET_NAMES: tuple[Row, ...] = (
    ("conv1.weight", "params/backbone/stem_conv/kernel"),
    *_batch_norm("bn1", "backbone/stem_bn"),
    ("layer{s}.{b}.conv{i}.weight", "params/backbone/stage{s}_block{b}/conv{i}/kernel"),
    *_batch_norm("layer{s}.{b}.bn{i}", "backbone/stage{s}_block{b}/bn{i}"),
    ("layer{s}.{b}.downsample.0.weight", "params/backbone/stage{s}_block{b}/shortcut_conv/kernel"),
    *_batch_norm("layer{s}.{b}.downsample.1", "backbone/stage{s}_block{b}/shortcut_bn"),
)
VIT_NAMES: tuple[Row, ...] = (
    ("cls_token", "params/backbone/cls_token"),
    ("pos_embed", "params/backbone/pos_embed"),
    *_affine("patch_embed.proj", "backbone/patch_embed"),
    *_layer_norm("blocks.{b}.norm{i}", "backbone/block{b}/norm{i}"),
    *_affine("blocks.{b}.attn.qkv", "backbone/block{b}/qkv"),
    *_affine("blocks.{b}.attn.proj", "backbone/block{b}/proj"),
    *_affine("blocks.{b}.mlp.fc{i}", "backbone/block{b}/fc{i}"),
    *_layer_norm("norm", "backbone/norm"),
)
BACKBONE_NAMES = {"resnet": RESNET_NAMES, "vit": VIT_NAMES}
HEAD_NAMES = {LinearHead: _affine("fc", "head/fc"), TokenHead: _affine("head", "head/conv")}
# What the authors' files put before the names of the backbone and of the head.
REFERENCE_PREFIXES = {"resnet": ("encoder.", "classification_head."), "vit": ("", "")}

# ImageNet's own classifier, discarded; and torch's count of steps, which nothing here needs.
_IMAGENET_HEAD = re.compile(r"(fc|head)\.(weight|bias)")
_UNUSED = re.compile(r"(.*\.)?num_batches_tracked")
# Training scripts wrap a state dict once more, or mark data parallelism, by one of these before every name.
_WRAPPERS = ("model.", "state_dict.", "module.")


def load_backbone(state_dict: StateDict, model: methods.Classifier, variables: methods.Variables) -> dict[str, Any]:
    """Returns `variables` with the backbone's weights taken from an ImageNet model of torchvision or timm.

    The 1000-class head is left out and ours stays as it was. A position embedding of another square grid is
    resampled as timm does it: bicubic with antialiasing, the class token's own part kept.
    """
    names = BACKBONE_NAMES[methods.BACKBONES[model.method.backbone].family]
    leaves = _paths(variables)
    shapes = {path: np.shape(leaf) for path, leaf in leaves.items() if path.split("/")[1] == "backbone"}
    tensors = {name: x for name, x in _unwrapped(_flat(state_dict)).items() if not _IMAGENET_HEAD.fullmatch(name)}
    position = shapes.get("params/backbone/pos_embed")
    if position is not None and "pos_embed" in tensors:
        tensors["pos_embed"] = _position_embedding(np.asarray(tensors["pos_embed"]), position)
    loaded = _convert(tensors, names, shapes, f"the backbone of method {model.method.name}")
    return {**variables, **unflatten_dict({**leaves, **loaded}, sep="/")}


def from_reference(state_dict: StateDict, method: str, *, num_classes: int = 7) -> dict[str, Any]:
    """Returns `{"params": ..., "batch_stats": ...}` of a released model, for `build_model(method)` as it stands."""
    model = methods.build_model(method, num_classes=num_classes)
    row = model.method
    family = methods.BACKBONES[row.backbone].family
    image = jnp.zeros((1, row.image_size, row.image_size, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    shapes = {path: leaf.shape for path, leaf in _paths(variables).items()}
    before_backbone, before_head = REFERENCE_PREFIXES[family]
    names = (
        *((before_backbone + theirs, ours) for theirs, ours in BACKBONE_NAMES[family]),
        *((before_head + theirs, ours) for theirs, ours in HEAD_NAMES[row.head]),
    )
    loaded = _convert(_flat(state_dict), names, shapes, f"method {method} with {num_classes} classes")
    return {"batch_stats": {}, **unflatten_dict(loaded, sep="/")}


def _convert(
    tensors: StateDict, names: tuple[Row, ...], shapes: Mapping[str, tuple[int, ...]], title: str
) -> dict[str, np.ndarray]:
    """Returns our arrays by path, one for each of `shapes`; raises once, with every mismatch."""
    paths = {_their_name(path, names): path for path in shapes}
    wanted = {name: _their_shape(path, shapes[path]) for name, path in paths.items()}
    given = {name: np.shape(tensor) for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in given]
    problems += [f"unexpected {name} {shape}" for name, shape in given.items() if name not in wanted]
    problems += [
        f"misshaped {name}: expected {shape}, got {given[name]}"
        for name, shape in wanted.items()
        if name in given and given[name] != shape
    ]
    if problems:
        raise ValueError(
            f"these weights do not fit {title}: {len(problems)} of {len(wanted.keys() | given.keys())} tensors differ; "
            "choose the model they belong to, or other weights:\n  " + "\n  ".join(problems)
        )
    return {path: _our_layout(path, np.asarray(tensors[name], np.float32)) for name, path in paths.items()}


def _their_name(path: str, names: tuple[Row, ...]) -> str:
    for theirs, ours in names:
        pattern = re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours)
        if match := re.fullmatch(pattern, path):
            return theirs.format(**match.groupdict())
    raise ValueError(f"no PyTorch name is known for {path}: add its row to the tables of {__name__}")


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-3:-1], *shape[:-2]) if path.endswith("/kernel") else shape


def _our_layout(path: str, tensor: np.ndarray) -> np.ndarray:
    # (out, in, height, width) -> (height, width, in, out) and (out, in) -> (in, out).
    return np.moveaxis(tensor, (1, 0), (-2, -1)) if path.endswith("/kernel") else tensor


def _flat(state_dict: StateDict) -> dict[str, Any]:
    return dict(flatten_dict(dict(state_dict), sep="."))


def _paths(variables: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten_dict(dict(variables), sep="/"))


def _unwrapped(tensors: StateDict) -> dict[str, Any]:
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return dict(tensors)


def _position_embedding(theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `theirs` resampled to `shape` (1, 1 + grid, channels) if both grids are square, else as it was."""
    if theirs.ndim != 3 or theirs.shape == shape:
        return theirs
    side, our_side, channels = math.isqrt(theirs.shape[1] - 1), math.isqrt(shape[1] - 1), theirs.shape[2]
    if side**2 != theirs.shape[1] - 1 or our_side**2 != shape[1] - 1:
        return theirs
    grid = theirs[0, 1:].reshape(side, side, channels).astype(np.float32)
    grid = np.asarray(jax.image.resize(grid, (our_side, our_side, channels), "cubic", antialias=True))
    return np.concatenate([theirs[:, :1], grid.reshape(1, -1, channels)], axis=1)
