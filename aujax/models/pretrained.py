"""Weights of PyTorch models as variables of aujax and back: ImageNet's and the authors' released models.

State dicts are dicts of NumPy arrays, as `aujax.weight_files.read` returns and `write` accepts them. They may be
nested; the keys are then joined with a dot. PyTorch's layouts, kernels (out, in, height, width) and linear layers
(out, in), are used in state dicts only. A state dict is loaded completely or refused: one `ValueError` then names
every kind of mismatch.

The tables below name tensors for each network and head, and for each kind of file that initialises a backbone. A line
is: PyTorch's name of a layer, its path in our variables, and its kind. Numbers in braces are read from the path,
renumbered where PyTorch counts differently, and put into PyTorch's name, so one table serves both directions.
"""

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# `methods` imports `heads` and other modules of this folder, but not this module: there is no cycle.
from aujax import methods
from aujax.models import heads

Rows = tuple[tuple[str, str], ...]  # PyTorch's name of a tensor, path in our variables
Tensors = Mapping[str, Any]
Variables = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
# (backbone, numbers of a path that has a stage) to those of PyTorch's name that differ or are added.
Renumber = Callable[[Any, Mapping[str, int]], dict[str, Any]]

# PyTorch's count of training steps in BatchNorm, which is not used here.
_COUNTER = "num_batches_tracked"
# Training scripts nest a state dict once more, or mark data parallelism, by one of these before every name.
_WRAPPERS = ("model.", "state_dict.", "module.")
_LISTED = 3  # lines of an error for each kind of mismatch

# The tensors of a layer of each kind: the end of PyTorch's name and our path, where * is the path of the layer.
_KINDS = {
    "parameter": {"": "params/*"},
    "slope": {".weight": "params/*/slope"},
    "kernel": {".weight": "params/*/kernel"},
    "affine": {".weight": "params/*/kernel", ".bias": "params/*/bias"},
    "layer_norm": {".weight": "params/*/scale", ".bias": "params/*/bias"},
    "batch_norm": {
        ".weight": "params/*/scale",
        ".bias": "params/*/bias",
        ".running_mean": "batch_stats/*/mean",
        ".running_var": "batch_stats/*/var",
    },
}


def _rows(table: str, prefix: str = "") -> Rows:
    """Returns a row for each tensor of a table's layers; `prefix` comes before PyTorch's names."""
    rows = []
    for theirs, ours, kind in map(str.split, filter(None, table.splitlines())):
        for ending, path in _KINDS[kind].items():
            rows.append((prefix + theirs + ending, path.replace("*", ours)))
    return tuple(rows)


_RESNET = """
conv1                       backbone/stem_conv                            kernel
bn1                         backbone/stem_bn                              batch_norm
layer{s}.{b}.conv{i}        backbone/stage{s}_block{b}/conv{i}            kernel
layer{s}.{b}.bn{i}          backbone/stage{s}_block{b}/bn{i}              batch_norm
layer{s}.{b}.downsample.0   backbone/stage{s}_block{b}/shortcut_conv      kernel
layer{s}.{b}.downsample.1   backbone/stage{s}_block{b}/shortcut_bn        batch_norm
"""
_BLOCKS = """
cls_token                   backbone/cls_token                            parameter
blocks.{b}.norm{i}          backbone/block{b}/norm{i}                     layer_norm
blocks.{b}.attn.qkv         backbone/block{b}/qkv                         affine
blocks.{b}.attn.proj        backbone/block{b}/proj                        affine
blocks.{b}.mlp.fc{i}        backbone/block{b}/fc{i}                       affine
norm                        backbone/norm                                 layer_norm
"""
_PATCHES = """
pos_embed                   backbone/pos_embed                            parameter
patch_embed.proj            backbone/patch_embed                          affine
"""
# face.evoLVe's names; {n} is the number of a unit.
_IR_50 = """
input_layer.0               backbone/extractor/input_conv                 kernel
input_layer.1               backbone/extractor/input_bn                   batch_norm
input_layer.2               backbone/extractor/input_prelu                slope
body.{n}.res_layer.0        backbone/extractor/stage{s}_unit{u}/bn1       batch_norm
body.{n}.res_layer.1        backbone/extractor/stage{s}_unit{u}/conv1     kernel
body.{n}.res_layer.2        backbone/extractor/stage{s}_unit{u}/prelu     slope
body.{n}.res_layer.3        backbone/extractor/stage{s}_unit{u}/conv2     kernel
body.{n}.res_layer.4        backbone/extractor/stage{s}_unit{u}/bn2       batch_norm
body.{n}.shortcut_layer.0   backbone/extractor/stage{s}_unit{u}/shortcut_conv kernel
body.{n}.shortcut_layer.1   backbone/extractor/stage{s}_unit{u}/shortcut_bn   batch_norm
"""
_APVIT = """
projs.0                     backbone/projection                           affine
cls_pos_embed               backbone/cls_pos_embed                        parameter
patch_pos_embed             backbone/patch_pos_embed                      parameter
"""
# timm's position embedding, which `load_backbone` splits into the class token's and the patches'.
_SPLIT_POSITION = """
pos_embed[:,:1]             backbone/cls_pos_embed                        parameter
pos_embed[:,1:]             backbone/patch_pos_embed                      parameter
"""


def _after_dropouts(backbone: Any, numbers: Mapping[str, int]) -> dict[str, Any]:
    """In the released ADL each attention dropout takes a number among the blocks of its stage."""
    dropouts = sum(block < numbers["b"] for block in backbone.dropout_follows(numbers["s"]))
    return {"b": numbers["b"] + dropouts}


def _units_by_stage(backbone: Any, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The released APViT numbers stages, from 0, and the units of each."""
    return {"n": f"{numbers['s'] - 1}.{numbers['u']}"}


def _units_of_all_stages(backbone: Any, numbers: Mapping[str, int]) -> dict[str, Any]:
    """face.evoLVe counts units through all stages."""
    return {"n": sum(backbone.units[: numbers["s"] - 1]) + numbers["u"]}


# The authors' names for the tensors of a family of networks, and of the heads.
RELEASED = {
    "resnet": (_rows(_RESNET, "encoder."), _after_dropouts),
    "vit": (_rows(_BLOCKS + _PATCHES), None),
    "apvit": (_rows(_IR_50, "extractor.") + _rows(_BLOCKS + _APVIT, "vit."), _units_by_stage),
}
_FC = "classification_head.fc head/fc affine"
RELEASED_HEADS = {
    heads.LinearHead: _FC,
    heads.WildcatHead: "classification_head.to_modalities head/to_modalities affine",
    heads.PeakHead: "classification_head.conv head/conv affine",
    # PyTorch counts the rectifiers between the convolutions too.
    heads.AcolHead: """
classification_head.acol_pooler.classifier_A.0   head/branch_a/conv1   affine
classification_head.acol_pooler.classifier_A.2   head/branch_a/conv2   affine
classification_head.acol_pooler.classifier_A.4   head/branch_a/conv3   affine
classification_head.acol_pooler.classifier_B.0   head/branch_b/conv1   affine
classification_head.acol_pooler.classifier_B.2   head/branch_b/conv2   affine
classification_head.acol_pooler.classifier_B.4   head/branch_b/conv3   affine
""",
    heads.TokenHead: "head head/conv affine",
    heads.ClassTokenHead: _FC,
}


class WeightFile(NamedTuple):
    """A kind of file that initialises a backbone, or a part of it.

    Attributes:
      title: its name in messages.
      mark: a tensor that only this kind has among those of its family.
      rows: its names for our paths.
      covers: regular expression of the paths, below `params` and `batch_stats`, that it must fill.
      ignored: regular expression of the names that are not used here.
      renumber: the numbers in its names, where they differ from ours.
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
            rows=_rows(_RESNET),
            covers="backbone/.*",
            ignored=r"fc\.(weight|bias)",
        ),
    ),
    "vit": (
        WeightFile(
            title="an ImageNet DeiT (timm)",
            mark="patch_embed.proj.weight",
            rows=_rows(_BLOCKS + _PATCHES),
            covers="backbone/.*",
            ignored=r"head\.(weight|bias)",
        ),
    ),
    # The projection between the two parts stays random.
    "apvit": (
        WeightFile(
            title="face.evoLVe's IR-50 (MS1M)",
            mark="input_layer.0.weight",
            rows=_rows(_IR_50),
            covers="backbone/extractor/.*",
            ignored=r"body\.2[1-3]\..*|output_layer\..*",
            renumber=_units_of_all_stages,
        ),
        WeightFile(
            title="timm's first ViT-small (768 channels, 8 blocks)",
            mark="blocks.0.attn.qkv.weight",
            rows=_rows(_BLOCKS + _SPLIT_POSITION),
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
    kinds = WEIGHT_FILES[methods.BACKBONES[model.method.backbone].family]
    kind = next((kind for kind in kinds if kind.mark in tensors), None)
    if kind is None:
        expected = " or ".join(kind.title for kind in kinds)
        got = _recognised(tensors) or f"{len(tensors)} tensors such as {', '.join([*tensors][:3]) or 'none'}"
        raise ValueError(f"these weights do not fit {title}: expected {expected}, got {got}")
    leaves = _paths(variables)
    shapes = {path: np.shape(x) for path, x in leaves.items() if re.fullmatch(kind.covers, path.partition("/")[2])}
    tensors = {name: x for name, x in tensors.items() if not re.fullmatch(kind.ignored, name)}
    if "pos_embed" in tensors:
        position = np.asarray(tensors["pos_embed"])
        whole = shapes.get("params/backbone/pos_embed")
        patches = shapes.get("params/backbone/patch_pos_embed")
        if whole:
            tensors["pos_embed"] = resample_position_embedding(position, whole[1] - 1)
        elif patches:
            position = resample_position_embedding(position, patches[1])
            tensors["pos_embed[:,:1]"] = position[:, :1]
            tensors["pos_embed[:,1:]"] = position[:, 1:]
            del tensors["pos_embed"]
    names = _names(shapes, kind.rows, kind.renumber, model.backbone)
    loaded = _convert(tensors, names, shapes, title, lambda given, wanted: f"expected the tensors of {kind.title}")
    return {**variables, **unflatten_dict({**leaves, **loaded}, sep="/")}


def resample_position_embedding(embedding: np.ndarray, patches: int) -> np.ndarray:
    """Returns a learned position embedding for another number of patches, by bicubic interpolation as in timm.

    Shaped (1, 1 + patches, channels), the class token's position first; that one is kept. The embedding is returned
    unchanged if it already fits, or if either grid is not square.
    """
    if embedding.ndim != 3 or embedding.shape[1] == 1 + patches:
        return embedding
    channels = embedding.shape[2]
    old_side = math.isqrt(embedding.shape[1] - 1)
    new_side = math.isqrt(patches)
    if old_side**2 != embedding.shape[1] - 1 or new_side**2 != patches:
        return embedding
    grid = embedding[0, 1:].reshape(old_side, old_side, channels).astype(np.float32)
    grid = np.asarray(jax.image.resize(grid, (new_side, new_side, channels), "cubic", antialias=True))
    return np.concatenate([embedding[:, :1], grid.reshape(1, -1, channels)], axis=1)


def not_loaded(before: Variables, after: Variables) -> list[str]:
    """Returns the parts of the backbone, such as "projection", that `load_backbone` did not change."""
    old = _paths(before)
    kept = {path for path, x in _paths(after).items() if x is old[path]}
    return sorted({path.split("/")[2] for path in kept if path.startswith("params/backbone/")})


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
    model, shapes = build(num_classes)

    def advise(given: Shapes, wanted: Shapes) -> str:
        # The tensors that differ may be those of the head, whose first sizes are multiples of the number of classes.
        first = next((name for name in wanted if given.get(name) != wanted[name]), "")
        if given.get(first) and wanted.get(first):
            count = given[first][0] * num_classes // wanted[first][0]
            if count and _released_shapes(*build(count)) == given:
                return f"expected {num_classes} classes, the file has {count}"
        known = _recognised(given)
        return f"they look like {known}" if known else "choose the model they belong to, or a complete file"

    title = f"method {method} with {num_classes} classes"
    loaded = _convert(_flat(state_dict), _released_names(model, shapes), shapes, title, advise)
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
    num_classes: int = 7,
    *,
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
    return _rows(RELEASED_HEADS.get(type(model.head), ""))


def _released_names(model: methods.Classifier, paths: Collection[str]) -> dict[str, str]:
    rows, renumber = RELEASED[methods.BACKBONES[model.method.backbone].family]
    return _names(paths, rows + _head_rows(model), renumber, model.backbone)


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
    problems = {"missing": [], "unexpected": [], "misshaped": [], "unusable": []}
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
    lines = [f"{kind} {line}" for kind, listed in problems.items() for line in listed[:_LISTED]]
    lines += [f"and {len(listed) - _LISTED} more {kind}" for kind, listed in problems.items() if len(listed) > _LISTED]
    return "".join(f"\n  {line}" for line in lines)


def _released_shapes(model: methods.Classifier, shapes: Shapes) -> Shapes:
    return {name: _torch_shape(path, shapes[path]) for path, name in _released_names(model, shapes).items()}


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
    return flatten_dict(dict(variables), sep="/")


def _flat(state_dict: Tensors) -> dict[str, Any]:
    """Returns the tensors by dotted name, without the wrappers of training scripts."""
    tensors = flatten_dict(dict(state_dict), sep=".")
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _flat({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors
