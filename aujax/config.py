"""Every option of a training run, once: its type, default, meaning, the values it accepts, and where they come from.

Configuration files are programs whose function `get_config` returns the options of a run; those in `configs/` return
`Config(...).to_config_dict()` with what differs from the defaults. A file is given by its path, "configs/faces.py", or,
if it is one of those shipped with aujax, by its name, "faces". What follows a colon is the argument of `get_config`:
"faces:small". A command line overrides single options (`--config.au_weight=4`); `from_config_dict` checks the result
and returns a typed `Config`.
"""

import argparse
import ast
import dataclasses
import inspect
import math
import pathlib
import runpy
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from aujax import codebook, methods, run_files
from aujax.augment import NORMALIZATIONS, Policy
from aujax.errors import UserError, nearest
from aujax.models.resnet import STAGE_STRIDES


class Check(NamedTuple):
    """A condition on the value of an option, and its description for messages."""

    holds: Callable[[Any], bool]
    expected: str


def one_of(*values: str) -> Check:
    """Returns the check for a choice among names."""
    return Check(lambda value: value in values, f"one of {', '.join(map(repr, values))}")


POSITIVE = Check(lambda value: 0 < value < math.inf, "a number above 0")
NOT_NEGATIVE = Check(lambda value: 0 <= value < math.inf, "0 or more")
AT_LEAST_ONE = Check(lambda value: value >= 1, "1 or more")
RATE = Check(lambda value: 0 <= value <= 1, "from 0 to 1")
FACTOR = Check(lambda value: 0 < value <= 1, "above 0, up to 1")
SHARE = Check(lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
SEED = Check(lambda value: 0 <= value < 2**32, "from 0 up to 2**32 - 1")
STRIDE = Check(
    lambda value: value == 0 or value in STAGE_STRIDES,
    f"{', '.join(map(str, STAGE_STRIDES))}, or 0 for the backbone's own",
)
SIZE = Check(lambda value: value == 0 or value >= 32, "32 or more, or 0 for the method's own")
AREA = Check(
    lambda value: [type(share) for share in value] == [float, float] and 0 < value[0] <= value[1] < 1,
    "(smallest, largest) share, within (0, 1)",
)


def option(default: Any, about: str, check: Check | None = None) -> Any:
    """Returns a dataclass field with a default, a description for `--help`, and the check that its values must pass."""
    return dataclasses.field(default=default, metadata={"option": (about, check)})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the faces are stored and how they are loaded."""

    dir: str = option("", "prepared data set: the folder that `aujax prepare ... --out DIR` wrote")
    resize_size: int = option(
        0, "pixels per side of the images that enter augmentation; 0: 8/7 of the network's input", NOT_NEGATIVE
    )
    batch_size: int = option(32, "images per step over all devices", AT_LEAST_ONE)
    eval_batch_size: int = option(64, "images per batch of an evaluation over all devices", AT_LEAST_ONE)
    read_threads: int = option(4, "threads that load and decode images ahead of the step", AT_LEAST_ONE)
    cache: str = option(
        "auto",
        "decode training images once and keep them in device memory; auto: if they fit",
        one_of("auto", "device", "off"),
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The update rule, by default SGD with Nesterov momentum as PyTorch computes it, and its schedule."""

    learning_rate: float = option(0.01, "initial learning rate", POSITIVE)
    momentum: float = option(0.9, "momentum", SHARE)
    weight_decay: float = option(5e-4, "added to the gradient of every parameter, times the parameter", NOT_NEGATIVE)
    schedule: str = option("cosine", "learning rate over time", one_of("constant", "step", "cosine"))
    warmup_epochs: float = option(0.0, "epochs of linear warm-up from 0", NOT_NEGATIVE)
    step_epochs: int = option(4, "schedule step: epochs between two changes of the learning rate", AT_LEAST_ONE)
    step_factor: float = option(0.9, "schedule step: factor of each change", FACTOR)
    clip_norm: float = option(0.0, "largest norm of the whole gradient; 0: no clipping", NOT_NEGATIVE)
    name: str = option("sgd", "update rule, a row of OPTIMIZERS in aujax/training/optimizer.py")


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of one training run."""

    method: str = option("CAM", "method, a row of aujax/methods.py", one_of(*methods.METHODS))
    method_options: str = option("", 'hyper-parameters of the method, such as "kmax=0.3,kmin=0"; "": as published')
    backbone: str = option("", 'network below the head; "": the method\'s own')
    output_stride: int = option(0, "pixels per cell of a convolutional backbone's last map", STRIDE)
    weights: str = option(
        "", 'pretrained backbone: .safetensors, .pth or Hugging Face ids, separated by commas; "": random'
    )
    image_size: int = option(0, "pixels per side of the network's input; 0: the method's own", SIZE)
    normalization: str = option(
        "imagenet", "mean and deviation of the pixels that the weights were trained on", one_of(*NORMALIZATIONS)
    )
    dtype: str = option("float32", "type of activations; parameters stay float32", one_of("float32", "bfloat16"))
    batch_norm: str = option(
        "cross_device", "batch statistics over all devices or of each", one_of("cross_device", "per_device")
    )
    gradient_accumulation: int = option(1, "parts of a batch that are computed one after the other", AT_LEAST_ONE)
    rematerialize: bool = option(False, "the backward pass recomputes activations instead of storing them")

    au_weight: float = option(4.0, "weight of the alignment loss, lambda of the paper's Eq. 3; 0: off", NOT_NEGATIVE)
    au_layers: tuple[str, ...] = option((), "aligned layers by tap name, such as layer4,layer5; (): the method's")
    au_layer_reduction: str = option("mean", "how the losses of several layers are combined", one_of("mean", "sum"))
    codebook: str = option("FACS", "action units of each expression: FACS, REFERENCE or a .json file")
    label_smoothing: float = option(0.0, "share of the target spread over all classes", SHARE)

    epochs: int = option(60, "number of epochs", AT_LEAST_ONE)
    seed: int = option(0, "seed of parameters, order and augmentation", SEED)
    # On the validation split, so that the test split is used once; on the test split as the paper's published code
    # does, which makes test accuracies higher than they are on new faces.
    model_selection: str = option(
        "validation", "split whose accuracy selects the best checkpoint", one_of("validation", "test")
    )
    validate_every: int = option(1, "epochs between validations; the last epoch always has one", AT_LEAST_ONE)
    keep_checkpoints: int = option(2, "latest checkpoints kept beside the best one", AT_LEAST_ONE)

    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: Policy = dataclasses.field(default_factory=Policy)

    @property
    def input_size(self) -> int:
        """Pixels per side of the network's input."""
        return self.image_size or methods.METHODS[self.method].image_size

    @property
    def resize_size(self) -> int:
        """Pixels per side of the training images that enter augmentation: 256 for an input of 224."""
        return self.data.resize_size or round(self.input_size * 8 / 7)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The separate files or ids of `weights`."""
        return tuple(filter(None, map(str.strip, self.weights.split(","))))

    def to_config_dict(self) -> ml_collections.ConfigDict:
        """Returns the same options as a locked ConfigDict, for `configs/*.py`."""
        return ml_collections.ConfigDict(dataclasses.asdict(self)).lock()


# Checks of `Policy` are written here because augment.py is an array module and knows nothing of command lines.
_POLICY = {
    "rotation": ("largest angle in degrees, either way", NOT_NEGATIVE),
    "rotation_rate": ("probability of a rotation", RATE),
    "crop": ("largest share of the area that a random square crop removes", RATE),
    "flip_rate": ("probability of a horizontal flip", RATE),
    "gray_rate": ("probability of a gray image", RATE),
    "jitter_rate": ("probability of a color jitter", RATE),
    "brightness": ("factors from 1 - value to 1 + value", RATE),
    "contrast": ("factors from 1 - value to 1 + value", RATE),
    "saturation": ("factors from 1 - value to 1 + value", RATE),
    "hue": ("turns of the color circle, either way", Check(lambda value: 0 <= value <= 0.5, "from 0 to 0.5")),
    "erase_rate": ("probability that a rectangle is erased", RATE),
    "erase_area": ("smallest and largest share of the image that is erased", AREA),
}


class Option(NamedTuple):
    """One option by its dotted name: type, default, description and check."""

    kind: Any
    default: Any
    about: str
    check: Check | None


# The class of the options that have a dotted name with this prefix.
_GROUPS = {"": Config, "data": DataConfig, "optimizer": OptimizerConfig, "augment": Policy}
OPTIONS: dict[str, Option] = {}  # by dotted names, such as "data.batch_size"
for _group, _schema in _GROUPS.items():
    for _field in dataclasses.fields(_schema):
        if _field.name not in _GROUPS:
            _about: Any = _POLICY[_field.name] if _schema is Policy else _field.metadata["option"]
            OPTIONS[f"{_group}.{_field.name}".lstrip(".")] = Option(_field.type, _field.default, *_about)

# Names of options before 0.1.0, with their values where those have changed, too.
RENAMED = {
    "protocol": ("model_selection", {"heldout": "validation", "paper": "test"}),
    "data.load_size": ("data.resize_size", {}),
    "data.resident": ("data.cache", {"on": "device"}),
}


def check_name(name: str) -> None:
    """Raises a UserError with the new or the most similar names unless `name` (such as "data.dir") is an option."""
    if name in RENAMED:
        new, values = RENAMED[name]
        changes = ", ".join(f"{old} -> {value}" for old, value in values.items())
        raise UserError(f"--config.{name} is now --config.{new}{f' ({changes})' if changes else ''}")
    if name not in OPTIONS:
        raise UserError(f"--config.{name}: no such option. {nearest(name, OPTIONS)}")


def from_text(name: str, text: str) -> Any:
    """Returns the value of an option as a command line gives it: a Python literal, or text where text is expected.

    >>> from_text("au_weight", "4"), from_text("data.dir", "faces"), from_text("au_layers", "layer4,layer5")
    (4, 'faces', ('layer4', 'layer5'))
    """
    check_name(name)
    kind = OPTIONS[name].kind
    if kind is str:
        return text
    if kind is bool and text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if typing.get_args(kind)[:1] == (str,):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return text  # which `from_config_dict` refuses with the expected type


def from_config_dict(options: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Returns the checked configuration; options that are not given have their defaults.

    Raises:
      UserError: an unknown option or a wrong value, by name.
    """
    values = {group: {} for group in _GROUPS}
    for name, value in run_files.flat(options).items():
        check_name(name)
        option = OPTIONS[name]
        kind = typing.get_origin(option.kind) or option.kind
        # An int is accepted for a float, and a list (of JSON) for a tuple. A bool is an int for Python, but not here.
        if (kind, type(value)) in ((float, int), (tuple, list)):
            value = kind(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UserError(f"--config.{name}: expected {kind.__name__}, got {value!r}")
        if option.check and not option.check.holds(value):
            raise UserError(f"--config.{name}: expected {option.check.expected}, got {value!r}")
        group, _, leaf = name.rpartition(".")
        values[group][leaf] = value
    groups = {group: schema(**values[group]) for group, schema in _GROUPS.items() if group}
    config = Config(**values[""], **groups)
    _check_together(config)
    return config


def _check_together(config):
    """Raises a UserError where the method, its options, its layers and the codebook do not fit together."""
    try:
        book = codebook.load(config.codebook)
    except ValueError as error:
        raise UserError(f"--config.codebook: {error}") from error
    row, options = methods.METHODS[config.method], method_options(config)
    try:
        row.with_options(options)
    except ValueError as error:
        raise UserError(f"--config.method_options: {error}") from error
    for layer in config.au_layers:
        if layer not in row.layers:
            raise UserError(
                f"--config.au_layers: {config.method} has no layer {layer!r}; expected some of {', '.join(row.layers)}"
            )
    if len(set(config.au_layers)) < len(config.au_layers):
        raise UserError(f"--config.au_layers: expected different layers, got {', '.join(config.au_layers)}")
    if config.resize_size < config.input_size:
        raise UserError(
            f"--config.data.resize_size: expected the network's input of {config.input_size} pixels or more, got "
            f"{config.resize_size}, which would be enlarged again; 0 is 8/7 of the input"
        )
    if config.au_weight > 0 and not any(book.aus.values()):
        raise UserError(f"--config.codebook: {config.codebook} lists no action unit, but --config.au_weight is above 0")


def method_options(config: Config) -> dict[str, float]:
    """Returns the hyper-parameters in `config.method_options` by name; any other form is a UserError."""
    values = {}
    for part in filter(None, config.method_options.replace(" ", "").split(",")):
        name, _, number = part.partition("=")
        try:
            values[name] = float(number)
        except ValueError:
            raise UserError(
                f"--config.method_options: expected NAME=NUMBER, separated by commas, got {part!r}"
            ) from None
    return values


# An installed package has configs/ inside, as aujax.configs; a checkout has it beside the package.
SHIPPED = pathlib.Path(__file__).parent / "configs"
if not SHIPPED.is_dir():
    SHIPPED = pathlib.Path(__file__).parents[1] / "configs"


def load_file(source: str, *, folder: pathlib.Path = SHIPPED) -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns the path of a configuration file, and the variables and functions that it defines.

    Args:
      source: path or name, with its setting, which is not used here.
      folder: where a name is looked up.
    """
    name = source.partition(":")[0]
    path = pathlib.Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.py"))
        raise UserError(
            "--config: expected a configuration file such as configs/faces.py, or the name of one that is shipped, "
            f"got {name!r}. {nearest(path.stem, known)}"
        )
    try:
        return path, runpy.run_path(str(path))
    except Exception as error:  # a configuration file is a program and can fail in any way
        raise UserError(f"--config={path}: {error}; compare it with configs/faces.py") from error


def file_options(source: str, *, folder: pathlib.Path = SHIPPED) -> dict[str, Any]:
    """Returns the options of a configuration file by dotted names, such as {"data.batch_size": 32}.

    Args:
      source: path or name, with its setting.
      folder: where a name is looked up.
    """
    path, definitions = load_file(source, folder=folder)
    setting = source.partition(":")[2]
    get_config = definitions.get("get_config")
    if get_config is None:
        raise UserError(f"--config={path}: has no function 'get_config'; compare it with configs/faces.py")
    if setting and not inspect.signature(get_config).parameters:
        raise UserError(
            f"--config={source}: expected no setting, as {path.name} has none, got {setting!r}; give "
            f"--config={path} and change single options with --config.NAME=VALUE"
        )
    try:
        values = get_config(setting) if setting else get_config()
    except (KeyError, TypeError) as error:
        raise UserError(f"--config={source}: no such setting of that file ({error}); see {path}") from error
    except ValueError as error:  # names the file and the setting, as those in configs/ do
        raise UserError(str(error)) from error
    except Exception as error:
        raise UserError(f"--config={path}: {error}; compare it with configs/faces.py") from error
    if not isinstance(values, ml_collections.ConfigDict | Mapping):
        raise UserError(f"--config={path}: expected get_config to return options, got {values!r:.60}")
    return run_files.flat(values)


def with_changes(options: Mapping[str, Any], changes: Mapping[str, str]) -> Config:
    """Returns the checked configuration: options with the changes of a command line, both by dotted names."""
    return from_config_dict({**options, **{name: from_text(name, text) for name, text in changes.items()}})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an argument --config.NAME=VALUE for every option, with its description and default."""
    parser.usage = "%(prog)s --option=VALUE ..."  # not the names of all options
    groups = {
        group: parser.add_argument_group(f"options of the configuration: {group}".removesuffix(": "))
        for group in _GROUPS
    }
    for name, option in OPTIONS.items():
        group = groups[name.rpartition(".")[0]]
        expected = f"; {option.check.expected}" if option.check else ""
        about = f"{option.about}{expected} (default: {option.default!r})"
        # A flag without a value is true.
        flag: Any = {"nargs": "?", "const": "true"} if option.kind is bool else {}
        group.add_argument(f"--config.{name}", default=argparse.SUPPRESS, metavar="VALUE", help=about, **flag)
    for name in RENAMED:  # accepted here, so that `from_text` can answer with the new name
        parser.add_argument(f"--config.{name}", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def changes(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the options that a command line changed, by dotted names, as text."""
    options = vars(arguments).items()
    return {name.removeprefix("config."): text for name, text in options if name.startswith("config.")}
