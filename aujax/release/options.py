"""The options of a released model (the authors' `config_model.yaml`) as a `config.Config`.

Names are dotted where the file nests: "model.encoder_name". Options that a `Config` cannot express are reported if
their values mean something else than what aujax does.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from aujax import methods
from aujax.config import Config, from_config_dict
from aujax.errors import UserError
from aujax.models.backbones import BACKBONES

CLASSES = 7
# Their name of a method: the paper's.
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
# Their encoder: our backbone.
ENCODERS = {"resnet50": "resnet50", "deit_tscam_small_patch16_224": "deit_small", "apvit": "apvit"}
# Their number of a layer: our tap, for each family of backbones. Their layer 0 is the image.
LAYERS = {
    "resnet": {str(number): f"layer{number}" for number in range(1, 6)},
    "vit": {"1": "tokens", "2": "attention"},
    "apvit": {"1": "stage3"},
}
# Their hyper-parameter: ours. The released WILDCAT ignores what it computes from wc_kmin and wc_alpha.
HYPERPARAMETERS = {
    "WILDCAT": {"wc_modalities": "modalities", "wc_kmax": "kmax"},
    "ACoL": {"acol_drop_threshold": "threshold"},
    "ADL": {"adl_drop_rate": "rate", "adl_drop_threshold": "threshold"},
    "APViT": {"model.apvit_k": "tokens", "model.apvit_r": "keep"},
}
# The data that pretrained their encoder: how pixels are normalised. YAML has None as a text or as null.
NORMALIZATIONS = {"imagenet": "imagenet", "VGGFace2": "vggface2", "None": "none"}
SCHEDULES = {"mystep": "step", "step": "step", "cosine": "cosine"}
# Numbers of the same meaning. Their option: the part of our configuration, its field, the field's type.
NUMBERS = {
    "ce_label_smoothing": ("", "label_smoothing", float),
    "max_epochs": ("", "epochs", int),
    "MYSEED": ("", "seed", int),
    "resize_size": ("data", "resize_size", int),
    "batch_size": ("data", "batch_size", int),
    "eval_batch_size": ("data", "eval_batch_size", int),
    "optimizer.opt__lr": ("optimizer", "learning_rate", float),
    "optimizer.opt__momentum": ("optimizer", "momentum", float),
    "optimizer.opt__weight_decay": ("optimizer", "weight_decay", float),
    "optimizer.opt__step_size": ("optimizer", "step_epochs", int),
    "optimizer.opt__gamma": ("optimizer", "step_factor", float),
    "optimizer.opt__clipgrad": ("optimizer", "clip_norm", float),
}


class Difference(NamedTuple):
    """The values of one of their options that mean what aujax does, and a sentence on what it does."""

    equivalent: tuple[Any, ...]
    here: str


# What the network computes from an image.
INFERENCE = {
    "model.encoder_weights": Difference(
        ("imagenet", "VGGFace2", "None", None), "pixels are normalised by ImageNet's mean and standard deviation"
    ),
    "model.scale_in": Difference((1.0,), "images are not scaled inside the network"),
    "model.apvit_attn_method": Difference(("SUM_ABS_1",), "attention is the sum of absolute channels (SUM_ABS_1)"),
    "model.apvit_normalize_att": Difference((False,), "attention is not normalised"),
    "model.apvit_apply_self_att": Difference((False,), "features are not multiplied by the attention"),
    "prm_ks": Difference((3,), "peaks are searched in windows of 3 x 3"),
    "prm_st": Difference((1,), "the windows of peaks have stride 1"),
    "align_atten_to_heatmap_use_self_atten": Difference((False,), "features are not multiplied by the attention"),
    "eval_daug_mask_img_heatmap": Difference((False,), "images are not masked"),
    "amp_eval": Difference((False,), "evaluation runs in float32"),
    "task": Difference(("STD_CL",), "the network classifies (STD_CL)"),
}
# Flags of losses that aujax does not have.
LOSSES = tuple(
    """
    aus_seg mse mae mtl_focal att_sz att_ent_sz ortho_lw w_sparsity sparse_lf sparse_lw sparse_at s_cost_s
    high_entropy con_scores free_orth_ft guid_orth_ft oc_mean oc_var oc_unim_inq sl_fc crf_fc entropy_fc
    max_sizepos_fc im_rec
    """.split()  # noqa: SIM905 - names without quotes are easier to read
)
# What matters only in training.
TRAINING = {
    "optimizer.opt__name_optimizer": Difference(("sgd",), "the optimizer is SGD"),
    "optimizer.opt__nesterov": Difference((True,), "momentum is Nesterov's"),
    "optimizer.opt__dampening": Difference((0.0,), "momentum is not dampened"),
    "optimizer.opt__lr_classifier_ratio": Difference((1.0,), "all parameters have one learning rate"),
    "optimizer.opt__name_lr_scheduler": Difference(
        ("mystep",), "the learning rate falls in steps to 1e-07, or at every step along half a cosine to 0"
    ),
    "optimizer.opt__min_lr": Difference((1e-7,), "the learning rate falls no lower than 1e-07"),
    "ce": Difference((True,), "the loss has a cross-entropy"),
    "ce_lambda": Difference((1.0,), "the cross-entropy has weight 1"),
    "std_cl_w_style": Difference(("cl_w_none",), "expressions have equal weights"),
    "data_weighted_sampler": Difference((False,), "each face occurs once per epoch"),
    "curriculum_l": Difference((False,), "all expressions occur from the first epoch"),
    "proxy_training_set": Difference((False,), "all faces are used for training"),
    "train_daug_mask_img_heatmap": Difference((False,), "images are not masked"),
    "valid_freq_mb": Difference((-1.0,), "validation is at the end of epochs"),
    "master_selection_metric": Difference(("cl_accuracy",), "the best epoch is that of the highest accuracy"),
    "amp": Difference((False,), "training runs in float32 unless --config.dtype is set"),
    "model.spatial_dropout": Difference((0.0,), "the last features have no dropout"),
    "model.freeze_cl": Difference((False,), "all parameters are trained"),
    "dense_dropout": Difference((0.0,), "the head has no dropout"),
    "wc_dropout": Difference((0.0,), "the head has no dropout"),
    "cutmix_beta": Difference((1.0,), "the share of the pasted area is uniform"),
    "cutmix_prob": Difference((1.0,), "every batch is mixed"),
    **dict.fromkeys(LOSSES, Difference((False,), "there is no such loss")),
}
# The same, for a model that was trained with AU cues.
ALIGNMENT = {
    "align_atten_to_heatmap_type_heatmap": Difference(
        ("heatmap_action_units_from_landmarks",), "the map is drawn from landmarks and the expression's action units"
    ),
    "align_atten_to_heatmap_normalize": Difference((True,), "the map is min-max normalised to [0, 1]"),
    "align_atten_to_heatmap_align_type": Difference(("avg", "random_avg"), "attention is the mean of all channels"),
    "align_atten_to_heatmap_p": Difference((1.0,), "attention is the mean of all channels"),
    "align_atten_to_heatmap_norm_att": Difference(("norm_none",), "attention is aligned without normalisation"),
    "align_atten_to_heatmap_loss": Difference(("cosine",), "alignment is 1 - cosine"),
    "align_atten_to_heatmap_elb": Difference((False,), "alignment is 1 - cosine"),
    "align_atten_to_heatmap_scale_to": Difference(("scale_to_attention",), "the map is resized to attention's size"),
    "align_atten_to_heatmap_start_ep": Difference((0,), "alignment begins with the first epoch"),
    "align_atten_to_heatmap_end_ep": Difference((-1,), "alignment ends with the last epoch"),
}
# Options whose names begin so belong to one method (the paper's name) and are ignored for the others.
OWNERS = {
    "wc_": "WILDCAT",
    "acol_": "ACoL",
    "adl_": "ADL",
    "prm_": "PRM",
    "cutmix_": "CutMix",
    "sparse_at": "APViT",
    "model.apvit_": "APViT",
}
# Beginnings of the names of other options: paths, hosts, times, logs, bounding boxes, facts that the tensors show, and
# details of losses and augmentations that are off.
IGNORED = tuple(
    """
    abs_fd_exp alpha_visu best_epoch box_v2_metric c_cudaid cam_curve_interval cudaid data_paths data_root
    debug_subfolder dense_dims dist_backend distributed ds_chunkable elb_ eval_checkpoint_type exp_id fd_exp
    height_tag img_range init_method iou_threshold_list is_master is_node_master local_ lse_r mask_root
    metadata_root model.apvit_hid_att_dim model.arch model.do_segmentation model.folder_pre_trained_cl
    model.in_channels model.path_pre_trained model.strict model.support_background multi_contour_eval
    multi_iou_eval multi_label_flag nbr_buckets num_val_sample_per_class num_workers outd rank running_time
    scoremap_paths seg_ignore_idx seg_mode spatial_pooling std_cams_folder subpath t0 tend verbose world_size
    align_atten_to_heatmap_ aus_seg_ mse_ mae_ mtl_focal_ att_sz_ att_ent_ ortho_lw_ w_sparsity_ sparse_lf_
    sparse_lw_ sparse_at_ s_cost_s_ high_entropy_ con_scores_ free_orth_ft_ guid_orth_ft_ oc_ sl_ crf_ entropy_fc_
    max_sizepos_fc_ im_rec_ ce_ train_daug_mask_img_heatmap_ eval_daug_mask_img_heatmap_ data_weighted_sampler_
    curriculum_l_ optimizer.opt__beta optimizer.opt__eps_adam optimizer.opt__amsgrad optimizer.opt__last_epoch
    """.split()  # noqa: SIM905 - names without quotes are easier to read
)


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
    method = METHODS[reader.choice("method", METHODS)]
    row = row_of(method)
    if not backbone:
        reader.choice("model.encoder_name", [theirs for theirs, ours in ENCODERS.items() if ours == row.backbone])
    elif backbone not in row.backbones:
        raise UserError(f"--backbone must be one of {', '.join(row.backbones)} for {row.name}, got {backbone!r}")
    if (classes := reader.number("num_classes", int, CLASSES)) != CLASSES:
        raise UserError(f"num_classes must be {CLASSES}, as in the released models, got {classes}")
    config: dict[str, Any] = {
        "method": row.name,
        "backbone": backbone,
        "image_size": reader.number("crop_size", int),
        "normalization": NORMALIZATIONS.get(str(options.get("model.encoder_weights", "imagenet")), "imagenet"),
        "codebook": "REFERENCE",
        "model_selection": "test",
        "data": {},
    }
    if "output_stride" in BACKBONES[backbone or row.backbone].options:
        config["output_stride"] = 8 if reader.flag("model.large_maps") else 32

    published = {option.name: option.value for option in row.options}
    changed = []
    for theirs, ours in HYPERPARAMETERS.get(method, {}).items():
        value = reader.number(theirs, float, published[ours])
        if value != published[ours]:
            changed.append(f"{ours}={value:g}")
    config["method_options"] = ",".join(changed)

    with_au = reader.flag("align_atten_to_heatmap")
    config["au_weight"] = 0.0
    if with_au:
        config["au_weight"] = reader.number("align_atten_to_heatmap_lambda", float)
        taps = LAYERS[BACKBONES[row.backbone].family]
        text = str(reader.value("align_atten_to_heatmap_layers"))
        numbers = text.split("-")
        if not set(numbers) <= taps.keys():
            raise UserError(
                f"align_atten_to_heatmap_layers must be some of {', '.join(taps)} with - between them, got {text!r}: "
                f"{row.name} has no other layer"
            )
        layers = tuple(taps[number] for number in numbers)
        config["au_layers"] = () if layers == row.aligned() else layers

    schedule = SCHEDULES.get(str(options.get("optimizer.opt__name_lr_scheduler", "mystep")), "step")
    config["optimizer"] = {"schedule": schedule if reader.flag("optimizer.opt__lr_scheduler", True) else "constant"}
    for theirs, (part, field, kind) in NUMBERS.items():
        if theirs in options:
            (config[part] if part else config)[field] = reader.number(theirs, kind)

    training = TRAINING | (ALIGNMENT if with_au else {})
    # T_max is the length of their cosine schedule, which is that of training.
    mapped = {*reader.seen, *INFERENCE, *TRAINING, *ALIGNMENT}
    mapped |= {"dataset", "model.encoder_name", "model.large_maps", "optimizer.opt__t_max"}
    others = [name for name in options if name not in mapped]
    unmapped = Unmapped(
        inference=_sentences(options, INFERENCE, method),
        training=_sentences(options, training, method),
        unknown=tuple(name for name in others if not name.startswith((*IGNORED, *OWNERS))),
        ignored=tuple(name for name in others if name.startswith((*IGNORED, *OWNERS))),
    )
    return Translated(from_config_dict(config), method, str(options.get("dataset", "")), unmapped)


def _sentences(options: Mapping[str, Any], differences: Mapping[str, Difference], method: str) -> tuple[str, ...]:
    sentences = []
    for name, (equivalent, here) in differences.items():
        owner = next((owner for beginning, owner in OWNERS.items() if name.startswith(beginning)), method)
        if owner == method and name in options and options[name] not in equivalent:
            sentences.append(f"{name} = {options[name]!r}: here {here}")
    return tuple(sentences)


class _Reader:
    """Options with checks of their types; `seen` collects the names that were asked for."""

    def __init__(self, options: Mapping[str, Any]):
        self.options = options
        self.seen: set[str] = set()

    def value(self, name: str, default: Any = None) -> Any:
        """Returns the value, or the default; without a default the option must be there."""
        self.seen.add(name)
        if name not in self.options and default is None:
            raise UserError(f"expected the option {name}, found none; is it the file of a released model?")
        return self.options.get(name, default)

    def choice(self, name: str, known: Collection[str]) -> str:
        """Returns a value that must be one of `known`."""
        value = self.value(name)
        # As a list: `in` a dict fails for a value that is a list.
        if value not in [*known]:
            raise UserError(f"{name} must be {'one of ' if len(known) > 1 else ''}{', '.join(known)}, got {value!r}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Returns true or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, got {value!r}")
        return value

    def number(self, name: str, kind: type, default: float | None = None) -> Any:
        """Returns a finite number of that kind, also of a text: some of theirs come from a command line."""
        value = self.value(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not abs(number) < float("inf"):
            raise UserError(f"{name} must be a number, got {value!r}")
        if kind is int and number != int(number):
            raise UserError(f"{name} must be a whole number, got {number:g}")
        return kind(number)
