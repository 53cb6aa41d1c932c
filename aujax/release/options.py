"""The options of a released model (the authors' `config_model.yaml`) in the words of `config.Config`.

Names are dotted where the file nests: "model.encoder_name". What has no place in a `Config` is left to
`release.differences`.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

from aujax import methods
from aujax.config import Config, DataConfig, OptimizerConfig, from_config_dict
from aujax.errors import UserError
from aujax.models.backbones import BACKBONES
from aujax.release.differences import Options, Told, tell

CLASSES = 7
# The paper's name of a method, by theirs.
METHODS = {
    "CAM": "CAM",
    "WILDCAT": "WILDCAT",
    "GradCam": "GradCAM",
    "GradCAMpp": "GradCAM++",
    "ACoL": "ACoL",
    "PRM": "PRM",
    "ADL": "ADL",
    "CutMIX": "CutMix",
    "LayerCAM": "LayerCAM",
    "TSCAM": "TS-CAM",
    "APVIT": "APViT",
}
# Our network, by their encoder.
ENCODERS = {"resnet50": "resnet50", "deit_tscam_small_patch16_224": "deit_small", "apvit": "apvit"}
# Our layers by their numbers, for each family of networks; their 0 is the picture.
LAYERS = {
    "resnet": {str(number): f"layer{number}" for number in range(1, 6)},
    "vit": {"1": "tokens", "2": "attention"},
    "apvit": {"1": "stage3"},
}
# Hyper-parameters of the rows, by theirs; what the released WILDCAT computes from wc_kmin and wc_alpha, it drops.
HYPERPARAMETERS = {
    "WILDCAT": {"wc_modalities": "modalities", "wc_kmax": "kmax"},
    "ACoL": {"acol_drop_threshold": "threshold"},
    "ADL": {"adl_drop_rate": "rate", "adl_drop_threshold": "threshold"},
    "APViT": {"model.apvit_k": "tokens", "model.apvit_r": "keep"},
}
# How pixels are normalised, by what their encoder was first trained on; YAML has None as a text or as nothing.
NORMALIZATIONS = {"imagenet": "imagenet", "VGGFace2": "vggface2", "None": "none"}
_SCHEDULES = {"mystep": "step", "step": "step", "cosine": "cosine"}


class Translated(NamedTuple):
    """A released model's configuration, the paper's name of its method, its data set, and what could not be said."""

    config: Config
    method: str
    dataset: str
    told: Told


def row_of(method: str) -> methods.Method:
    """Returns the row that computes what the released code does for a method of the paper."""
    return methods.METHODS.get(f"{method}/reference") or methods.method(method)


def translate(options: Options, *, backbone: str = "") -> Translated:
    """Returns what the options say here; options of something else than a released model are a UserError.

    `backbone` is the network the weights belong to, whatever encoder the options name; "" for the published one.
    """
    reader = _Reader(options)
    method = METHODS[reader.choice("method", METHODS)]
    row = row_of(method)
    _check_network(reader, row, backbone)
    if (classes := reader.whole("num_classes", CLASSES)) != CLASSES:
        raise UserError(f"num_classes must be {CLASSES}, as in the released models, got {classes}")
    with_au = reader.flag("align_atten_to_heatmap")
    config = Config(
        method=row.name,
        method_options=_hyperparameters(reader, method, row),
        backbone=backbone,
        output_stride=_output_stride(reader, backbone or row.backbone),
        image_size=reader.whole("crop_size"),
        normalization=NORMALIZATIONS.get(str(options.get("model.encoder_weights", "imagenet")), Config.normalization),
        au_weight=reader.number("align_atten_to_heatmap_lambda") if with_au else 0.0,
        au_layers=_layers(reader, row) if with_au else (),
        codebook="REFERENCE",
        label_smoothing=reader.number("ce_label_smoothing", 0.0),
        epochs=reader.whole("max_epochs", Config.epochs),
        seed=reader.whole("MYSEED", Config.seed),
        model_selection="test",
        data=_data(reader),
        optimizer=_optimizer(reader),
    )
    config = from_config_dict(dataclasses.asdict(config))
    told = tell(options, method, reader.seen, with_au=with_au)
    return Translated(config, method, str(options.get("dataset", "")), told)


def _hyperparameters(reader: "_Reader", method: str, row: methods.Method) -> str:
    """Returns those that differ from the published ones, as `Config.method_options` writes them."""
    published = {option.name: option.value for option in row.options}
    parts = []
    for theirs, ours in HYPERPARAMETERS.get(method, {}).items():
        if (value := reader.number(theirs, published[ours])) != published[ours]:
            parts.append(f"{ours}={value:g}")
    return ",".join(parts)


def _check_network(reader: "_Reader", row: methods.Method, backbone: str) -> None:
    if not backbone:
        reader.choice("model.encoder_name", [theirs for theirs, ours in ENCODERS.items() if ours == row.backbone])
    elif backbone not in row.backbones:
        raise UserError(f"--backbone must be one of {', '.join(row.backbones)} for {row.name}, got {backbone!r}")
    reader.seen.add("model.encoder_name")


def _output_stride(reader: "_Reader", backbone: str) -> int:
    if "output_stride" not in BACKBONES[backbone].options:
        reader.seen.add("model.large_maps")
        return 0
    return 8 if reader.flag("model.large_maps") else 32


def _layers(reader: "_Reader", row: methods.Method) -> tuple[str, ...]:
    """Returns the aligned layers, () where they are the row's own."""
    names, text = LAYERS[BACKBONES[row.backbone].family], str(reader.needed("align_atten_to_heatmap_layers"))
    numbers = text.split("-")
    if not set(numbers) <= names.keys():
        raise UserError(
            f"align_atten_to_heatmap_layers must be some of {', '.join(names)} with - between them, got {text!r}: "
            f"{row.name} has no other layer"
        )
    layers = tuple(names[number] for number in numbers)
    return () if layers == row.aligned() else layers


def _data(reader: "_Reader") -> DataConfig:
    return DataConfig(
        resize_size=reader.whole("resize_size", DataConfig.resize_size),
        batch_size=reader.whole("batch_size", DataConfig.batch_size),
        eval_batch_size=reader.whole("eval_batch_size", DataConfig.eval_batch_size),
    )


def _optimizer(reader: "_Reader") -> OptimizerConfig:
    before = "optimizer.opt__"
    schedule = _SCHEDULES.get(str(reader.options.get(f"{before}name_lr_scheduler", "mystep")), "step")
    if not reader.flag(f"{before}lr_scheduler", True):
        schedule = "constant"
    return OptimizerConfig(
        learning_rate=reader.number(f"{before}lr", OptimizerConfig.learning_rate),
        momentum=reader.number(f"{before}momentum", OptimizerConfig.momentum),
        weight_decay=reader.number(f"{before}weight_decay", OptimizerConfig.weight_decay),
        schedule=schedule,
        step_epochs=reader.whole(f"{before}step_size", OptimizerConfig.step_epochs),
        step_factor=reader.number(f"{before}gamma", OptimizerConfig.step_factor),
        clip_norm=reader.number(f"{before}clipgrad", OptimizerConfig.clip_norm),
    )


class _Reader:
    """Reads options, checks what they are, and knows which it has `seen`."""

    def __init__(self, options: Options):
        self.options, self.seen = options, {"dataset", "optimizer.opt__t_max"}

    def needed(self, name: str, default: Any = None) -> Any:
        """Returns the value, or the default where there is one."""
        self.seen.add(name)
        if name not in self.options and default is None:
            raise UserError(f"expected the option {name}, found none; is it the file of a released model?")
        return self.options.get(name, default)

    def choice(self, name: str, known: Collection[str]) -> str:
        """Returns a value that is one of `known`."""
        value = self.needed(name)
        if value not in [*known]:
            raise UserError(f"{name} must be {'one of ' if len(known) > 1 else ''}{', '.join(known)}, got {value!r}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Returns true or false."""
        value = self.needed(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, got {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number, also from a text: some of theirs come from a command line."""
        value = self.needed(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not abs(number) < float("inf"):
            raise UserError(f"{name} must be a number, got {value!r}")
        return number

    def whole(self, name: str, default: int | None = None) -> int:
        """Returns a whole number."""
        number = self.number(name, default)
        if number != int(number):
            raise UserError(f"{name} must be a whole number, got {number:g}")
        return int(number)
