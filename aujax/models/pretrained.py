"""Weights of PyTorch models as variables of aujax and back: ImageNet's and the authors' released models.

State dicts are dicts of NumPy arrays, as `aujax.weight_files.read` returns and `write` accepts them. They may be
nested; the keys are then joined with a dot. PyTorch's layouts, kernels (out, in, height, width) and linear layers
(out, in), are used in state dicts only. A state dict is loaded completely or refused: one `ValueError` then names
every kind of mismatch.

The tables below name tensors for each network and head, and for each kind of file that initialises a backbone. A row
is (PyTorch's name, path in our variables). Numbers in braces are read from the path, renumbered where PyTorch counts
differently, and put into PyTorch's name, so one table serves both directions.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# `methods` imports `heads`, `backbones` and other modules of this folder, but not this module: there is no cycle.
from aujax import methods
from aujax.models import heads
from aujax.models.backbones import BACKBONES
from aujax.models.layers import resample_position_embedding as resample_position_embedding

Row = tuple[str, str]
Rows = tuple[Row, ...]
Tensors = Mapping[str, Any]
Variables = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
# (backbone, numbers of a path that has a stage) to those of PyTorch's name that differ or are added.
Renumber = Callable[[Any, Mapping[str, int]], dict[str, int]]

# PyTorch's count of training steps in BatchNorm, which is not used here.
_COUNTER = "num_batches_tracked"
# Training scripts nest a state dict once more, or mark data parallelism, by one of these before every name.
_WRAPPERS = ("model.", "state_dict.", "module.")
_LISTED = 3  # lines of an error for each kind of mismatch


def _weight(theirs: str, ours: str) -> Row:
    return f"{theirs}.weight", f"params/{ours}/kernel"


def _affine(theirs: str, ours: str) -> Rows:
    return _weight(theirs, ours), (f"{theirs}.bias", f"params/{ours}/bias")


def _layer_norm(theirs: str, ours: str) -> Rows:
    return (f"{theirs}.weight", f"params/{ours}/scale"), (f"{theirs}.bias", f"params/{ours}/bias")


def _batch_norm(theirs: str, ours: str) -> Rows:
    return (
        *_layer_norm(theirs, ours),
        (f"{theirs}.running_mean", f"batch_stats/{ours}/mean"),
        (f"{theirs}.running_var", f"batch_stats/{ours}/var"),
    )


def _iresnet(unit: str) -> Rows:
    """face.evoLVe's names; `unit` is its name of a unit."""
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


_RESNET = (
    _weight("conv1", "backbone/stem_conv"),
    *_batch_norm("bn1", "backbone/stem_bn"),
    _weight("layer{s}.{b}.conv{i}", "backbone/stage{s}_block{b}/conv{i}"),
    *_batch_norm("layer{s}.{b}.bn{i}", "backbone/stage{s}_block{b}/bn{i}"),
    _weight("layer{s}.{b}.downsample.0", "backbone/stage{s}_block{b}/shortcut_conv"),
    *_batch_norm("layer{s}.{b}.downsample.1", "backbone/stage{s}_block{b}/shortcut_bn"),
)
_BLOCKS = (
    ("cls_token", "params/backbone/cls_token"),
    *_layer_norm("blocks.{b}.norm{i}", "backbone/block{b}/norm{i}"),
    *_affine("blocks.{b}.attn.qkv", "backbone/block{b}/qkv"),
    *_affine("blocks.{b}.attn.proj", "backbone/block{b}/proj"),
    *_affine("blocks.{b}.mlp.fc{i}", "backbone/block{b}/fc{i}"),
    *_layer_norm("norm", "backbone/norm"),
)
_POSITION = "params/backbone/pos_embed"
_VIT = (*_BLOCKS, ("pos_embed", _POSITION), *_affine("patch_embed.proj", "backbone/patch_embed"))
_CLASS_POSITION = "params/backbone/cls_pos_embed"
_PATCH_POSITION = "params/backbone/patch_pos_embed"


def _under(prefix: str, rows: Rows) -> Rows:
    return tuple((prefix + theirs, ours) for theirs, ours in rows)


def _after_dropouts(backbone: Any, numbers: Mapping[str, int]) -> dict[str, int]:
    """In the released ADL each attention dropout takes a number among the blocks of its stage."""
    dropouts = sum(block < numbers["b"] for block in backbone.dropout_follows(numbers["s"]))
    return {"b": numbers["b"] + dropouts}


def _stages_from_zero(backbone: Any, numbers: Mapping[str, int]) -> dict[str, int]:
    return {"s": numbers["s"] - 1}


def _units_of_all_stages(backbone: Any, numbers: Mapping[str, int]) -> dict[str, int]:
    """face.evoLVe counts units through all stages."""
    return {"n": sum(backbone.units[: numbers["s"] - 1]) + numbers["u"]}


class Released(NamedTuple):
    """The authors' names for the tensors of a family of networks, and the prefix of the names of its head."""

    rows: Rows
    head_prefix: str
    renumber: Renumber | None = None


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
_WILDCAT = _affine("to_modalities", "head/to_modalities")
_ACOL = "acol_pooler.classifier"
RELEASED_HEADS = {
    heads.LinearHead: _affine("fc", "head/fc"),
    heads.WildcatHead: _WILDCAT,
    heads.WildcatReferenceHead: _WILDCAT,
    heads.PeakHead: _affine("conv", "head/conv"),
    # PyTorch counts the rectifiers between the convolutions too.
    heads.AcolHead: (
        *_affine(f"{_ACOL}_A.0", "head/branch_a/conv1"),
        *_affine(f"{_ACOL}_A.2", "head/branch_a/conv2"),
        *_affine(f"{_ACOL}_A.4", "head/branch_a/conv3"),
        *_affine(f"{_ACOL}_B.0", "head/branch_b/conv1"),
        *_affine(f"{_ACOL}_B.2", "head/branch_b/conv2"),
        *_affine(f"{_ACOL}_B.4", "head/branch_b/conv3"),
    ),
    heads.TokenHead: _affine("head", "head/conv"),
    heads.ClassTokenHead: _affine("fc", "head/fc"),
}


class WeightFile(NamedTuple):
    """A kind of file that initialises a backbone, or a part of it.

    Attributes:
      title: its name in messages.
      mark: a tensor that only this kind has among those of its family.
      rows: its names for our paths.
      covers: regular expression of the paths, below `params` and `batch_stats`, that it must fill.
      ignored: regular expression of the names that are not used here.
      renumber: as in `Released`.
    """

    title: str
    mark: str
    rows: Rows
    covers: str
    ignored: str
    renumber: Renumber | None = None


WEIGHT_FILES = {
    # The release loads ResNets by name into ADL's network too, whose dropouts shift the numbers: blocks get the
    # weights of their successors or none. Here each block gets its own.
    "resnet": (
        WeightFile(
            title="an ImageNet ResNet (torchvision, timm)",
            mark="layer1.0.conv1.weight",
            rows=_RESNET,
            covers="backbone/.*",
            ignored=r"fc\.(weight|bias)",
        ),
    ),
    "vit": (
        WeightFile(
            title="an ImageNet DeiT (timm)",
            mark="patch_embed.proj.weight",
            rows=_VIT,
            covers="backbone/.*",
            ignored=r"head\.(weight|bias)",
        ),
    ),
    # The projection between the two parts stays random.
    "apvit": (
        WeightFile(
            title="face.evoLVe's IR-50 (MS1M)",
            mark="input_layer.0.weight",
            rows=_iresnet("body.{n}"),
            covers="backbone/extractor/.*",
            ignored=r"body\.2[1-3]\..*|output_layer\..*",
            renumber=_units_of_all_stages,
        ),
        WeightFile(
            title="timm's first ViT-small (768 channels, 8 blocks)",
            mark="blocks.0.attn.qkv.weight",
            rows=(*_BLOCKS, ("pos_embed[:, :1]", _CLASS_POSITION), ("pos_embed[:, 1:]", _PATCH_POSITION)),
            covers="backbone/(?!extractor/|projection/).*",
            ignored=r"(patch_embed\.proj|head)\.(weight|bias)",
        ),
    ),
}


def load_backbone(state_dict: Tensors, model: methods.Classifier, variables: Variables) -> dict[str, Any]:
    """Returns `variables` with the weights of a file that initialises a backbone: a row of `WEIGHT_FILES`.

    An ImageNet head is ignored and ours is unchanged. A position embedding of another square grid is resampled as
    timm does it. A network of several parts takes several files, one after another in any order.

    Raises:
      ValueError: the state dict is of no known kind, or does not fit the network.
    """
    title = f"the backbone of method {model.method.name}"
    tensors = _flat(state_dict)
    kinds = WEIGHT_FILES[BACKBONES[model.method.backbone].family]
    kind = next((kind for kind in kinds if kind.mark in tensors), None)
    if kind is None:
        expected = " or ".join(kind.title for kind in kinds)
        got = _recognised(tensors) or f"{len(tensors)} tensors such as {', '.join([*tensors][:3]) or 'none'}"
        raise ValueError(f"these weights do not fit {title}: expected {expected}, got {got}")
    leaves = _paths(variables)
    shapes = {path: np.shape(x) for path, x in leaves.items() if re.fullmatch(kind.covers, path.partition("/")[2])}
    tensors = {name: x for name, x in tensors.items() if not re.fullmatch(kind.ignored, name)}
    if "pos_embed" in tensors and _POSITION in shapes:
        position = np.asarray(tensors["pos_embed"])
        tensors["pos_embed"] = resample_position_embedding(position, shapes[_POSITION][1] - 1)
    elif "pos_embed" in tensors and _PATCH_POSITION in shapes:
        position = np.asarray(tensors.pop("pos_embed"))
        position = resample_position_embedding(position, shapes[_PATCH_POSITION][1])
        tensors["pos_embed[:, :1]"] = position[:, :1]
        tensors["pos_embed[:, 1:]"] = position[:, 1:]
    names = _names(shapes, kind.rows, kind.renumber, model.backbone)
    loaded = _convert(tensors, names, shapes, title, lambda given, wanted: f"expected the tensors of {kind.title}")
    return {**variables, **unflatten_dict({**leaves, **loaded}, sep="/")}


def not_loaded(before: Variables, after: Variables) -> list[str]:
    """Returns the parts of the backbone, such as "projection", that `load_backbone` did not change."""
    old = _paths(before)
    new = _paths(after)
    unchanged = [path for path in old if path.startswith("params/backbone/") and old[path] is new[path]]
    return sorted({path.split("/")[2] for path in unchanged})


def from_reference(
    state_dict: Tensors,
    method: str,
    *,
    num_classes: int = 7,
    backbone: str | None = None,
    options: Mapping[str, float] = MappingProxyType({}),
    image_size: int | None = None,
) -> dict[str, Any]:
    """Returns `{"params": ..., "batch_stats": ...}` of a released model, for `build_model` with the same arguments.

    `image_size` of None is the method's own; the position embedding of a transformer belongs to one size.

    Raises:
      ValueError: the state dict does not fit the method.
    """
    build = functools.partial(_build, method, backbone=backbone, options=tuple(options.items()), image_size=image_size)
    model, shapes = build(num_classes=num_classes)
    tensors = _flat(state_dict)

    def advise(given: Shapes, wanted: Shapes) -> str:
        if classes := _other_classes(given, wanted, build, num_classes):
            return classes
        known = _recognised(given)
        return f"they look like {known}" if known else "choose the model they belong to, or a complete file"

    title = f"method {method} with {num_classes} classes"
    loaded = _convert(tensors, _released_names(model, shapes), shapes, title, advise)
    return {"batch_stats": {}, **unflatten_dict(loaded, sep="/")}


def to_reference(variables: Variables, method: str, *, backbone: str | None = None) -> dict[str, np.ndarray]:
    """Returns the state dict that the authors' PyTorch model of that method loads with `strict=True`.

    Names are flat and dotted, weights float32; the step counters of PyTorch's BatchNorm are included, at zero.

    Raises:
      ValueError: the variables do not fit the method.
    """
    model, wanted = _build(method, backbone=backbone)
    leaves = _paths(variables)
    problems = {
        "missing": [path for path in wanted if path not in leaves],
        "unexpected": [path for path in leaves if path not in wanted],
    }
    if any(problems.values()):
        raise ValueError(
            f"these variables do not fit method {method}; name the method and the backbone they belong to:"
            f"{_listed(problems)}"
        )
    tensors = {}
    for path, name in _released_names(model, leaves).items():
        array = np.asarray(leaves[path], np.float32)
        # (height, width, in, out) -> (out, in, height, width) and (in, out) -> (out, in)
        array = np.moveaxis(array, (-2, -1), (1, 0)) if path.endswith("/kernel") else array
        tensors[name] = np.array(array, order="C")
        if name.endswith(".running_var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return tensors


@functools.cache
def _build(
    method: str,
    *,
    num_classes: int = 7,
    backbone: str | None = None,
    options: tuple[tuple[str, float], ...] = (),
    image_size: int | None = None,
) -> tuple[methods.Classifier, Shapes]:
    """Returns the model, and the shapes of its variables by path."""
    model = methods.build_model(method, num_classes=num_classes, backbone=backbone, options=dict(options))
    side = image_size or model.method.image_size
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return model, {path: leaf.shape for path, leaf in _paths(variables).items()}


def _head_rows(model: methods.Classifier) -> Rows:
    prefix = RELEASED[BACKBONES[model.method.backbone].family].head_prefix
    return _under(prefix, RELEASED_HEADS.get(type(model.head), ()))


def _released_names(model: methods.Classifier, paths: Collection[str]) -> dict[str, str]:
    released = RELEASED[BACKBONES[model.method.backbone].family]
    return _names(paths, (*released.rows, *_head_rows(model)), released.renumber, model.backbone)


def _names(paths: Collection[str], rows: Rows, renumber: Renumber | None, backbone: Any) -> dict[str, str]:
    """Returns PyTorch's name of each path."""
    patterns = [(theirs, re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours))) for theirs, ours in rows]
    names = {}
    for path in paths:
        for theirs, pattern in patterns:
            if match := pattern.fullmatch(path):
                numbers = {key: int(value) for key, value in match.groupdict().items()}
                if renumber and "s" in numbers:
                    numbers |= renumber(backbone, numbers)
                names[path] = theirs.format(**numbers)
                break
        else:
            raise ValueError(f"no PyTorch name is known for {path}: add its row to aujax/models/pretrained.py")
    return names


def _convert(
    tensors: Tensors, names: Mapping[str, str], shapes: Shapes, title: str, advise: Callable[[Shapes, Shapes], str]
) -> dict[str, np.ndarray]:
    """Returns our arrays by path for each of `shapes`.

    `advise` gives the sentence on a mismatch, from the given and the expected shapes by PyTorch's names.

    Raises:
      ValueError: a tensor is missing, unexpected, of another shape, or not of finite numbers; the message lists all.
    """
    wanted = {name: _torch_shape(path, shapes[path]) for path, name in names.items()}
    given = {name: tuple(np.shape(x)) for name, x in tensors.items() if not name.endswith(_COUNTER)}
    problems: dict[str, list[str]] = {"missing": [], "unexpected": [], "misshaped": [], "unusable": []}
    for name, shape in wanted.items():
        if name not in given:
            problems["missing"].append(f"{name} {shape}")
        elif given[name] != shape:
            problems["misshaped"].append(f"{name}: expected {shape}, got {given[name]}")
        else:
            tensor = np.asarray(tensors[name])
            if not jnp.issubdtype(tensor.dtype, jnp.floating):
                bad = tensor.dtype.name
            else:
                with np.errstate(over="ignore"):  # a double can be too large for float32
                    count = tensor.size - np.count_nonzero(np.isfinite(tensor.astype(np.float32, copy=False)))
                bad = f"{count} of {tensor.size} that are not" if count else ""
            if bad:
                problems["unusable"].append(f"{name}: expected finite floating-point numbers, got {bad}")
    problems["unexpected"] = [f"{name} {shape}" for name, shape in given.items() if name not in wanted]
    if count := sum(map(len, problems.values())):
        advice = "choose the file as it was trained, complete and not quantised"
        if given != wanted:
            advice = advise(given, wanted)
        raise ValueError(
            f"these weights do not fit {title}: {count} of {len(wanted.keys() | given.keys())} tensors differ; "
            f"{advice}:{_listed(problems)}"
        )
    arrays = {}
    for path, name in names.items():
        array = np.asarray(tensors[name], np.float32)
        # (out, in, height, width) -> (height, width, in, out) and (out, in) -> (in, out)
        arrays[path] = np.moveaxis(array, (1, 0), (-2, -1)) if path.endswith("/kernel") else array
    return arrays


def _torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in PyTorch's layout."""
    return (*shape[:-3:-1], *shape[:-2]) if path.endswith("/kernel") else shape


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Returns the first problems of each kind, a line each, and the number of the others."""
    lines = [f"{kind} {line}" for kind, found in problems.items() for line in found[:_LISTED]]
    lines += [f"and {len(found) - _LISTED} more {kind}" for kind, found in problems.items() if len(found) > _LISTED]
    return "".join(f"\n  {line}" for line in lines)


def _released_shapes(model: methods.Classifier, shapes: Shapes) -> Shapes:
    return {name: _torch_shape(path, shapes[path]) for path, name in _released_names(model, shapes).items()}


def _other_classes(given: Shapes, wanted: Shapes, build: Callable[..., Any], num_classes: int) -> str:
    """Returns advice if these are weights of the same method for another number of classes, otherwise ""."""
    if given.keys() != wanted.keys():
        return ""
    # The tensors that differ are those of the head, whose first sizes are the classes, or maps for each class.
    name = next(name for name in wanted if given[name] != wanted[name])
    if not given[name] or not wanted[name]:
        return ""
    count = given[name][0] * num_classes // wanted[name][0]
    if not count or _released_shapes(*build(num_classes=count)) != given:
        return ""
    maps = wanted[name][0] // num_classes
    return f"expected {num_classes} classes{f' of {maps} maps' if maps > 1 else ''}, the file has {count}"


def _recognised(names: Collection[str]) -> str:
    """Returns what a file with tensors of these names seems to be, or "" if nothing that is known here."""
    weights = {name for name in names if not name.endswith(_COUNTER)}
    released = []
    for method in methods.METHODS:
        # Tracing a network takes a while; its head is known immediately.
        head_names = {name for name, _ in _head_rows(methods.build_model(method))}
        if head_names <= weights and _released_shapes(*_build(method)).keys() == weights:
            released.append(method)
    if released:
        return f"the released weights of {', '.join(released)}"
    return next((kind.title for kinds in WEIGHT_FILES.values() for kind in kinds if kind.mark in weights), "")


def _paths(variables: Variables) -> dict[str, Any]:
    return dict(flatten_dict(dict(variables), sep="/"))


def _flat(state_dict: Tensors) -> dict[str, Any]:
    """Returns the tensors by dotted name, without the wrappers of training scripts."""
    tensors = dict(flatten_dict(dict(state_dict), sep="."))
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _flat({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors
