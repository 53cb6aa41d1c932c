"""The options of a released model (the authors' `config_model.yaml`) as a `config.Config`.

Names are dotted where the file nests: "model.encoder_name". Options that a `Config` cannot express are reported if
their values mean something else than what aujax does. The file options.yaml, beside this module, is the table of the
released options and of what they mean here.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from aujax import methods
from aujax.config import OPTIONS, Config, from_config_dict
from aujax.errors import UserError

CLASSES = 7
_TABLES: dict[str, Any] = yaml.safe_load(pathlib.Path(__file__).with_name("options.yaml").read_text(encoding="utf-8"))
METHODS: dict[str, str] = _TABLES["methods"]


class Unmapped(NamedTuple):
    """Options of a released model that its configuration does not express.

    Attributes:
      inference: a sentence for each option that changes what the network computes.
      training: a sentence for each option that matters only in training.
      unknown: names of options that are not known here.
      ignored: names of options that describe neither the network nor its training.
    """

    inference: tuple[str, ...]
    training: tuple[str, ...]
    unknown: tuple[str, ...]
    ignored: tuple[str, ...]


class Translated(NamedTuple):
    """The configuration of a released model, the paper's name of its method, its data set, and the other options."""

    config: Config
    method: str
    dataset: str
    unmapped: Unmapped


def row_of(method: str) -> methods.Method:
    """Returns the row of `METHODS` that computes what the released code does for a method of the paper."""
    return methods.METHODS.get(f"{method}/reference") or methods.method(method)


def translate(options: Mapping[str, Any], *, backbone: str = "") -> Translated:
    """Returns the configuration that a released model's options describe.

    `backbone` is the network that the weights belong to, regardless of the encoder in the options; "" for the
    published one.

    Raises:
      UserError: an option is missing, or has a value that no released model has.
    """
    reader = _Reader(options)
    method = METHODS[reader.choice("method", list(METHODS))]
    row = row_of(method)
    if not backbone:
        encoders = [name for name, ours in _TABLES["encoders"].items() if ours == row.backbone]
        reader.choice("model.encoder_name", encoders)
    elif backbone not in row.backbones:
        raise UserError(f"--backbone must be one of {', '.join(row.backbones)} for {row.name}, got {backbone!r}")
    if (classes := reader.number("num_classes", int, CLASSES)) != CLASSES:
        raise UserError(f"num_classes must be {CLASSES}, as in the released models, got {classes}")
    network = methods.BACKBONES[backbone or row.backbone]
    encoder_weights = str(options.get("model.encoder_weights", "imagenet"))
    config: dict[str, Any] = {
        "method": row.name,
        "backbone": backbone,
        "image_size": reader.number("crop_size", int),
        "normalization": _TABLES["normalizations"].get(encoder_weights, "imagenet"),
        "codebook": "REFERENCE",
        "model_selection": "test",
        "au_weight": 0.0,
    }
    if "output_stride" in network.options:
        config["output_stride"] = 8 if reader.flag("model.large_maps") else 32

    published = {option.name: option.value for option in row.options}
    names = _TABLES["hyperparameters"].get(method, {})
    values = {ours: reader.number(theirs, float, published[ours]) for theirs, ours in names.items()}
    config["method_options"] = ",".join(
        f"{name}={values[name]:g}" for name in values if values[name] != published[name]
    )

    # A loss that aujax lacks is fine as long as it is off.
    no_loss = {"equivalent": [False], "here": "there is no such loss"}
    training = _TABLES["training"] | dict.fromkeys(_TABLES["losses"].split(), no_loss)
    # T_max is the length of their cosine schedule, which is that of training.
    expressed = {"dataset", "model.encoder_name", "model.large_maps", "optimizer.opt__t_max"}
    expressed.update(_TABLES["inference"], training, _TABLES["alignment"])
    if reader.flag("align_atten_to_heatmap"):
        training |= _TABLES["alignment"]
        config["au_weight"] = reader.number("align_atten_to_heatmap_lambda", float)
        taps = _TABLES["layers"][network.family]
        text = str(reader.value("align_atten_to_heatmap_layers"))
        numbers = text.split("-")
        if not set(numbers) <= taps.keys():
            raise UserError(
                f"align_atten_to_heatmap_layers must be some of {', '.join(taps)} with - between them, got {text!r}: "
                f"{row.name} has no other layer"
            )
        layers = tuple(taps[number] for number in numbers)
        config["au_layers"] = () if layers == row.aligned() else layers

    schedule = str(options.get("optimizer.opt__name_lr_scheduler"))
    decays = reader.flag("optimizer.opt__lr_scheduler", True)
    config["optimizer.schedule"] = _TABLES["schedules"].get(schedule, "step") if decays else "constant"
    for theirs, ours in _TABLES["numbers"].items():
        if theirs in options:
            config[ours] = reader.number(theirs, OPTIONS[ours].kind)

    others = [name for name in options if name not in reader.seen | expressed]
    ignored = tuple(name for name in others if name.startswith((*_TABLES["ignored"].split(), *_TABLES["owners"])))
    unmapped = Unmapped(
        inference=_sentences(options, _TABLES["inference"], method),
        training=_sentences(options, training, method),
        unknown=tuple(name for name in others if name not in ignored),
        ignored=ignored,
    )
    return Translated(from_config_dict(config), method, str(options.get("dataset", "")), unmapped)


def _sentences(options, differences, method):
    """Returns a sentence for each option with a value that aujax has no equivalent of."""
    sentences = []
    for name, difference in differences.items():
        # Without an owner an option concerns every method.
        owner = next((owner for beginning, owner in _TABLES["owners"].items() if name.startswith(beginning)), method)
        if owner == method and name in options and options[name] not in difference["equivalent"]:
            sentences.append(f"{name} = {options[name]!r}: here {difference['here']}")
    return tuple(sentences)


class _Reader:
    """The released options, checked for their types; `seen` collects the names that were looked up."""

    def __init__(self, options: Mapping[str, Any]):
        self.options = options
        self.seen: set[str] = set()

    def value(self, name: str, default: Any = None) -> Any:
        """Returns the value, or the default; without a default the option is required."""
        self.seen.add(name)
        if name not in self.options and default is None:
            raise UserError(f"expected the option {name}, found none; is it the file of a released model?")
        return self.options.get(name, default)

    def choice(self, name: str, known: list[str]) -> str:
        """Returns a value that must be one of `known`."""
        value = self.value(name)
        if value not in known:
            raise UserError(f"{name} must be {'one of ' if len(known) > 1 else ''}{', '.join(known)}, got {value!r}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Returns true or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, got {value!r}")
        return value

    def number(self, name: str, kind: type, default: float | None = None) -> Any:
        """Returns a finite number of that kind, also if it is text: some options come from a command line."""
        value = self.value(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise UserError(f"{name} must be a number, got {value!r}")
        if kind is int and number != int(number):
            raise UserError(f"{name} must be a whole number, got {number:g}")
        return kind(number)
