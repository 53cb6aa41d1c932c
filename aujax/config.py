"""Every option of a training run, once: its type, unit, default and the values it may take.

`configs/*.py` return `Config(...).to_config_dict()` with what differs from the defaults; a command line overrides
single options (`--config.au_weight=4`); `from_config_dict` checks the result and gives a typed `Config` back.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from aujax import codebook, methods, run_files
from aujax.augment import NORMALIZATIONS, Policy
from aujax.errors import UserError
from aujax.models.resnet import STAGE_STRIDES


@dataclasses.dataclass(frozen=True)
class Check:
    """What an option's value must satisfy, and the words for it."""

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
# How the best checkpoint is chosen: on faces held out for that, so that the test split is looked at once, or on the
# test split itself, as the paper's published code does, which makes test accuracies higher than they are on new faces.
PROTOCOLS = {"heldout": "validation", "paper": "test"}


def option(default: Any, check: Check | None = None) -> Any:
    """Returns a dataclass field with a default and the check its values must pass."""
    return dataclasses.field(default=default, metadata={"check": check})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the faces are and how they are read."""

    dir: str = ""  # what `python -m aujax.data.prepare ... --out DIR` wrote
    load_size: int = option(0, NOT_NEGATIVE)  # pixels per side that enter augmentation; 0: 8/7 of what the network sees
    batch_size: int = option(32, AT_LEAST_ONE)  # pictures per step over all devices
    eval_batch_size: int = option(64, AT_LEAST_ONE)
    read_threads: int = option(4, AT_LEAST_ONE)  # threads that read and decode ahead of the step
    resident: str = option("auto", one_of("auto", "on", "off"))  # decode once and keep on the devices; auto: if it fits


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Stochastic gradient descent with Nesterov momentum, as PyTorch computes it, and its schedule."""

    learning_rate: float = option(0.01, POSITIVE)
    momentum: float = option(0.9, SHARE)
    weight_decay: float = option(5e-4, NOT_NEGATIVE)  # added to the gradient of every parameter
    schedule: str = option("cosine", one_of("constant", "step", "cosine"))
    warmup_epochs: float = option(0.0, NOT_NEGATIVE)  # linear from 0
    step_epochs: int = option(4, AT_LEAST_ONE)  # schedule "step": every so many epochs ...
    step_factor: float = option(0.9, FACTOR)  # ... the rate is multiplied by this
    clip_norm: float = option(0.0, NOT_NEGATIVE)  # largest norm of the whole gradient; 0: no clipping


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run."""

    method: str = option("CAM", one_of(*methods.METHODS))
    method_options: str = ""  # the method's hyper-parameters, such as "kmax=0.3,kmin=0"; "": as published
    backbone: str = ""  # "": the method's own
    output_stride: int = option(0, STRIDE)  # pixels per cell of a convolutional backbone's last map
    weights: str = ""  # backbone weights: .safetensors, .pth or Hugging Face ids, commas between; "": from scratch
    image_size: int = option(0, SIZE)  # pixels per side that the network sees; 0: the method's own
    normalization: str = option("imagenet", one_of(*NORMALIZATIONS))  # of pixels: what the weights were trained on
    dtype: str = option("float32", one_of("float32", "bfloat16"))  # of activations; parameters stay float32
    batch_norm: str = option("cross_device", one_of("cross_device", "per_device"))
    gradient_accumulation: int = option(1, AT_LEAST_ONE)  # parts of a batch that pass the network one after the other
    rematerialize: bool = False  # the backward pass computes a block's activations again instead of keeping them

    au_weight: float = option(4.0, NOT_NEGATIVE)  # lambda of the paper's Eq. 3; 0: no AU cues
    au_layers: tuple[str, ...] = ()  # aligned layers by tap name; (): the method's own
    au_layer_reduction: str = option("mean", one_of("mean", "sum"))
    codebook: str = "FACS"  # "FACS", "REFERENCE" or a .json file
    label_smoothing: float = option(0.0, SHARE)

    epochs: int = option(60, AT_LEAST_ONE)
    seed: int = option(0, SEED)
    protocol: str = option("heldout", one_of(*PROTOCOLS))  # the best epoch is that of validation, or (paper) of test
    validate_every: int = option(1, AT_LEAST_ONE)  # epochs between validations; the last epoch always has one
    keep_checkpoints: int = option(1, AT_LEAST_ONE)  # latest checkpoints kept beside the best one

    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: Policy = dataclasses.field(default_factory=Policy)

    @property
    def chosen_on(self) -> str:
        """The split whose accuracy chooses the best checkpoint."""
        return PROTOCOLS[self.protocol]

    @property
    def picture_size(self) -> int:
        """Pixels per side that the network sees."""
        return self.image_size or methods.METHODS[self.method].image_size

    @property
    def load_size(self) -> int:
        """Pixels per side at which training pictures enter augmentation: 256 for networks that see 224."""
        return self.data.load_size or round(self.picture_size * 8 / 7)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The files or ids of `weights`, one by one."""
        return tuple(filter(None, (source.strip() for source in self.weights.split(","))))

    def to_config_dict(self) -> ml_collections.ConfigDict:
        """Returns the same options as a locked ConfigDict, for `configs/*.py`."""
        return ml_collections.ConfigDict(dataclasses.asdict(self)).lock()


# The augmentation's checks stand here so that ring 0 knows nothing of command lines.
_RATES = (
    "crop",
    "flip_rate",
    "gray_rate",
    "jitter_rate",
    "erase_rate",
    "rotation_rate",
    "brightness",
    "contrast",
    "saturation",
)
_AUGMENT_CHECKS = {
    **dict.fromkeys(_RATES, RATE),
    "hue": Check(lambda value: 0 <= value <= 0.5, "from 0 to 0.5"),
    "rotation": NOT_NEGATIVE,
    "erase_area": AREA,
}


def from_config_dict(options: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Returns the checked configuration; whatever is wrong is a UserError that names the option."""
    plain = options.to_dict() if isinstance(options, ml_collections.ConfigDict) else options
    config = _typed(Config, plain, "config")
    _check_together(config)
    return config


def defaults() -> dict[str, Any]:
    """Returns every option by its dotted name, such as "data.batch_size", with its default."""
    return run_files.flat(dataclasses.asdict(Config()))


def check_name(name: str) -> None:
    """Raises a UserError, with the most similar names, unless `name` (such as "data.dir") is an option."""
    if name not in defaults():
        raise UserError(f"--config.{name}: no such option. {nearest(name, defaults())}")


def _typed(schema: type, options: Mapping[str, Any], path: str) -> Any:
    if not isinstance(options, Mapping):
        raise UserError(f"--{path}: expected options by name, got {options!r}")
    fields = {field.name: field for field in dataclasses.fields(schema)}
    types = typing.get_type_hints(schema)
    for name in options:
        if name not in fields:
            raise UserError(f"--{path}.{name}: no such option. {nearest(name, fields)}")
    values = {}
    for name, value in options.items():
        where = f"{path}.{name}"
        if dataclasses.is_dataclass(types[name]):
            values[name] = _typed(typing.cast(type, types[name]), value, where)
        else:
            check = fields[name].metadata.get("check") or (_AUGMENT_CHECKS.get(name) if schema is Policy else None)
            values[name] = _checked(value, types[name], check, where)
    return schema(**values)


def _checked(value: Any, kind: Any, check: Check | None, where: str) -> Any:
    origin = typing.get_origin(kind) or kind
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if origin is tuple and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise UserError(f"--{where}: expected {getattr(origin, '__name__', origin)}, got {value!r}")
    if check and not check.holds(value):
        raise UserError(f"--{where}: expected {check.expected}, got {value!r}")
    return value


def _check_together(config: Config) -> None:
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
    if config.au_weight > 0 and not any(book.aus.values()):
        raise UserError(f"--config.codebook: {config.codebook} lists no action unit, but --config.au_weight is above 0")


def method_options(config: Config) -> dict[str, float]:
    """Returns the hyper-parameters that `config.method_options` names, by name; another form is a UserError."""
    values = {}
    for part in filter(None, config.method_options.replace(" ", "").split(",")):
        name, _, number = part.partition("=")
        try:
            values[name] = float(number)
        except ValueError as error:
            raise UserError(
                f"--config.method_options: expected NAME=NUMBER, separated by commas, got {part!r}"
            ) from error
    return values


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the most similar known names, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}."
