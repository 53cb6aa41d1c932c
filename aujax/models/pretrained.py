"""Weights of PyTorch models as our variables, and ours as theirs: ImageNet's and the authors' released models.

Works on dicts of NumPy arrays, as `aujax.weight_files.read` gives them and `write` takes them. A state dict may be
nested; its keys are then joined with a dot. Torch's layouts (OIHW kernels, linear layers (out, in)) end here. Nothing
is loaded by halves: what does not fit is named in one `ValueError`. The names are those of `torch_names`.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from aujax import methods
from aujax.models.backbones import BACKBONES
from aujax.models.torch_names import RELEASED, RELEASED_HEADS, WEIGHT_FILES, Row, Shapes, Tensors, WeightFile

# Torch's count of steps, which nothing here needs.
_COUNTER = "num_batches_tracked"
# Training scripts wrap a state dict once more, or mark data parallelism, by one of these before every name.
_WRAPPERS = ("model.", "state_dict.", "module.")
_LISTED = 3  # lines of an error for each kind of mismatch; the rest is counted


def load_backbone(state_dict: Tensors, model: methods.Classifier, variables: methods.Variables) -> dict[str, Any]:
    """Returns `variables` with the weights of a file that starts a backbone: a row of `WEIGHT_FILES`.

    An ImageNet head is left out and ours stays as it was. A position embedding of another square grid is resampled
    as timm does it. A network of several parts takes several files, one after another in any order.
    """
    leaves, tensors = _paths(variables), _unwrapped(_flat(state_dict))
    title = f"the backbone of method {model.method.name}"
    kind = _kind(tensors, _family(model), title)
    shapes = {path: np.shape(x) for path, x in leaves.items() if re.fullmatch(kind.covers, path.partition("/")[2])}
    tensors = kind.prepare({name: x for name, x in tensors.items() if not re.fullmatch(kind.left_out, name)}, shapes)
    names = _names(shapes, kind.rows, functools.partial(kind.numbers, model.backbone))
    loaded = _convert(tensors, names, shapes, title, lambda given, wanted: f"expected the tensors of {kind.title}")
    return {**variables, **unflatten_dict({**leaves, **loaded}, sep="/")}


def not_loaded(before: methods.Variables, after: methods.Variables) -> list[str]:
    """Returns the parts of the backbone, such as "projection", that `load_backbone` left as they were."""
    leaves = _paths(before), _paths(after)
    kept = [path for path in leaves[0] if path.startswith("params/backbone/") and leaves[0][path] is leaves[1][path]]
    return sorted({path.split("/")[2] for path in kept})


def from_reference(
    state_dict: Tensors,
    method: str,
    *,
    num_classes: int = 7,
    backbone: str | None = None,
    options: Mapping[str, float] = MappingProxyType({}),
    image_size: int | None = None,
) -> dict[str, Any]:
    """Returns `{"params": ..., "batch_stats": ...}` of a released model, for `build_model` of the same arguments.

    `image_size` of None is the method's own; the position embedding of a transformer belongs to one size.
    """
    built = functools.partial(_built, method, backbone=backbone, options=tuple(options.items()), image_size=image_size)
    model, shapes = built(num_classes=num_classes)
    title = f"method {method} with {num_classes} classes"

    def advise(given: Shapes, wanted: Shapes) -> str:
        if classes := _other_classes(given, wanted, built, num_classes):
            return classes
        known = _recognised(given.keys())
        return f"they look like {known}" if known else "choose the model they belong to, or a complete file"

    loaded = _convert(_unwrapped(_flat(state_dict)), _released_names(model, shapes), shapes, title, advise)
    return {"batch_stats": {}, **unflatten_dict(loaded, sep="/")}


def to_reference(variables: methods.Variables, method: str, *, backbone: str | None = None) -> dict[str, np.ndarray]:
    """Returns the state dict that the authors' PyTorch model of that method loads strictly: the way back.

    Names are flat and dotted, weights float32, and the step counters of torch's BatchNorm are there, at zero.
    """
    model, wanted = _built(method, backbone=backbone)
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
        tensors[name] = np.array(_their_layout(path, np.asarray(leaves[path], np.float32)), order="C")
        if name.endswith(".running_var"):
            tensors[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    return tensors


def _family(model: methods.Classifier) -> str:
    return BACKBONES[model.method.backbone].family


@functools.cache
def _built(
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
    image = jnp.zeros((1, side, side, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, {path: leaf.shape for path, leaf in _paths(variables).items()}


def _released_names(model: methods.Classifier, paths: Mapping[str, Any]) -> dict[str, str]:
    released = RELEASED[_family(model)]
    return _names(paths, (*released.rows, *_head_rows(model)), functools.partial(released.numbers, model.backbone))


def _head_rows(model: methods.Classifier) -> tuple[Row, ...]:
    before = RELEASED[_family(model)].before_head
    return tuple((before + name, path) for name, path in RELEASED_HEADS.get(type(model.head), ()))


def _names(
    paths: Mapping[str, Any], rows: Sequence[Row], numbers: Callable[[Mapping[str, int]], Mapping[str, int]]
) -> dict[str, str]:
    """Returns torch's name of each path."""
    patterns = [(theirs, re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours))) for theirs, ours in rows]

    def name(path: str) -> str:
        for theirs, pattern in patterns:
            if match := pattern.fullmatch(path):
                return theirs.format(**numbers({key: int(value) for key, value in match.groupdict().items()}))
        raise ValueError(f"no PyTorch name is known for {path}: add its row to aujax/models/torch_names.py")

    return {path: name(path) for path in paths}


def _kind(tensors: Tensors, family: str, title: str) -> WeightFile:
    for kind in WEIGHT_FILES[family]:
        if kind.mark in tensors:
            return kind
    expected = " or ".join(kind.title for kind in WEIGHT_FILES[family])
    got = _recognised(tensors.keys()) or f"{len(tensors)} tensors such as {', '.join([*tensors][:3]) or 'none'}"
    raise ValueError(f"these weights do not fit {title}: expected {expected}, got {got}")


def _recognised(names: Collection[str]) -> str:
    """Returns what a file with tensors of these names seems to be, or "" for none that is known here."""
    weights = {name for name in names if not _is_counter(name)}
    if released := [method for method in methods.METHODS if _is_released(method, weights)]:
        return f"the released weights of {', '.join(released)}"
    return next((kind.title for kinds in WEIGHT_FILES.values() for kind in kinds if kind.mark in weights), "")


def _is_released(method: str, names: Collection[str]) -> bool:
    # Tracing a network takes a while, its head is known at once.
    if not all(name in names for name, _ in _head_rows(methods.build_model(method))):
        return False
    return _released_shapes(*_built(method)).keys() == names


def _convert(
    tensors: Tensors, names: Mapping[str, str], shapes: Shapes, title: str, advise: Callable[[Shapes, Shapes], str]
) -> dict[str, np.ndarray]:
    """Returns our arrays by path, one for each of `shapes`; raises once, with every mismatch and the advice on them.

    `advise` is called with the shapes that came and those that were expected, both by torch's names.
    """
    wanted = {name: _their_shape(path, shapes[path]) for path, name in names.items()}
    given = {name: tuple(np.shape(x)) for name, x in tensors.items() if not _is_counter(name)}
    problems = {
        "missing": [f"{name} {shape}" for name, shape in wanted.items() if name not in given],
        "unexpected": [f"{name} {shape}" for name, shape in given.items() if name not in wanted],
        "misshaped": [
            f"{name}: expected {shape}, got {given[name]}"
            for name, shape in wanted.items()
            if name in given and given[name] != shape
        ],
        "unusable": [
            f"{name}: expected finite floating-point numbers, got {found}"
            for name, shape in wanted.items()
            if given.get(name) == shape and (found := _unusable(np.asarray(tensors[name])))
        ],
    }
    if differing := sum(map(len, problems.values())):
        advice = (
            advise(given, wanted) if given != wanted else "choose the file as it was trained, whole and not quantised"
        )
        raise ValueError(
            f"these weights do not fit {title}: {differing} of {len(wanted.keys() | given.keys())} tensors differ; "
            f"{advice}:{_listed(problems)}"
        )
    return {path: _our_layout(path, np.asarray(tensors[name], np.float32)) for path, name in names.items()}


def _unusable(tensor: np.ndarray) -> str:
    """Returns what a tensor holds that cannot be weights, or ""."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return tensor.dtype.name
    with np.errstate(over="ignore"):  # a double can be too large for the float32 that it becomes
        outside = np.size(tensor) - np.count_nonzero(np.isfinite(tensor.astype(np.float32, copy=False)))
    return f"{outside} of {tensor.size} that are not" if outside else ""


def _other_classes(given: Shapes, wanted: Shapes, built: Callable[..., Any], num_classes: int) -> str:
    """Returns what to say if these are weights of the same method for another number of classes, else ""."""
    if given.keys() != wanted.keys():
        return ""
    differing = [name for name in wanted if given[name] != wanted[name]]
    sizes = {given[name][:1] + wanted[name][:1] for name in differing}
    if len(sizes) > 1 or len(size := sizes.pop()) < 2:
        return ""
    count = size[0] * num_classes // size[1]
    if not count or _released_shapes(*built(num_classes=count)) != given:
        return ""
    maps = wanted[differing[0]][0] // num_classes
    return f"expected {num_classes} classes{f' of {maps} maps' if maps > 1 else ''}, the file has {count}"


def _released_shapes(model: methods.Classifier, shapes: Shapes) -> Shapes:
    return {name: _their_shape(path, shapes[path]) for path, name in _released_names(model, shapes).items()}


def _listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Returns the first few problems of each kind, a line each, and how many more there are."""
    lines = [f"{kind} {line}" for kind, found in problems.items() for line in found[:_LISTED]]
    lines += [f"and {len(found) - _LISTED} more {kind}" for kind, found in problems.items() if len(found) > _LISTED]
    return "".join(f"\n  {line}" for line in lines)


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-3:-1], *shape[:-2]) if path.endswith("/kernel") else shape


def _our_layout(path: str, tensor: np.ndarray) -> np.ndarray:
    # (out, in, height, width) -> (height, width, in, out) and (out, in) -> (in, out).
    return np.moveaxis(tensor, (1, 0), (-2, -1)) if path.endswith("/kernel") else tensor


def _their_layout(path: str, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, (-2, -1), (1, 0)) if path.endswith("/kernel") else array


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


def _flat(state_dict: Tensors) -> dict[str, Any]:
    return dict(flatten_dict(dict(state_dict), sep="."))


def _paths(variables: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten_dict(dict(variables), sep="/"))


def _unwrapped(tensors: Tensors) -> dict[str, Any]:
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return dict(tensors)
